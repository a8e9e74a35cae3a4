"""The HTTP client distinguishes requests that were never sent from those without an answer."""

from __future__ import annotations

import base64
import socket
import time
from pathlib import Path

import pytest

from server.adapters.kserve import client
from server.adapters.kserve.client import ApiServer, Unanswered, Unreachable
from server.adapters.kserve.connection.yaml_document import ConfigurationUnusable
from tests.adapters.kserve.scripted_server import (
    ScriptedServer,
    cut_in_a_line,
    ending_at_once,
    html_500,
    never,
    without_end,
)
from tests.api_recorders import Authority, recording

PATH = "/api/v1/pods"


async def test_a_refused_connection_is_unreachable(server: ScriptedServer, api: ApiServer) -> None:
    await server.stop()
    with pytest.raises(Unreachable, match=r"^Connection refused$"):
        await api.send("GET", PATH, timeout=10)


async def test_a_certificate_that_is_not_trusted_is_named_as_the_cause(tmp_path: Path) -> None:
    certificate = Authority("theirs").issue("theirs", ["127.0.0.1"])
    async with recording("theirs", certificate=certificate, folder=tmp_path) as recorder:
        server = ScriptedServer()
        server.port = recorder.port
        kubeconfig = Path(server.kubeconfig(tmp_path))
        trusted = base64.b64encode(Authority("ours").pem).decode()
        https = f'"certificate-authority-data": "{trusted}", "server": "https://'
        kubeconfig.write_text(kubeconfig.read_text().replace('"server": "http://', https))
        api = await ApiServer.connect(str(kubeconfig))
        with pytest.raises(Unreachable, match=r"^its certificate is not trusted: "):
            await api.send("GET", PATH, timeout=10)
        await api.close()


async def test_a_peer_that_never_shakes_hands_is_unreachable_in_1_5_s(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = ScriptedServer()
        server.port = silent.getsockname()[1]
        kubeconfig = Path(server.kubeconfig(tmp_path))
        kubeconfig.write_text(kubeconfig.read_text().replace("http://", "https://"))
        api = await ApiServer.connect(str(kubeconfig))
        began = time.monotonic()
        with pytest.raises(Unreachable):
            await api.send("GET", PATH, timeout=60)
        await api.close()
    assert time.monotonic() - began < 10 * 1.5


async def test_an_answer_that_does_not_come_is_unanswered_within_its_timeout(
    server: ScriptedServer, api: ApiServer
) -> None:
    server.list_faults.append(never)
    began = time.monotonic()
    with pytest.raises(Unanswered):
        await api.send("PATCH", PATH, body={}, timeout=3)
    assert time.monotonic() - began < 10 * 3


async def test_an_answer_that_is_cut_is_unanswered(server: ScriptedServer, api: ApiServer) -> None:
    await server.put(PATH, {"metadata": {"uid": "u1"}})
    server.list_faults.append(cut_in_a_line)
    with pytest.raises(Unanswered):
        await api.send("PATCH", PATH, body={}, timeout=10)


async def test_an_answer_without_an_end_is_unanswered_and_not_kept(
    server: ScriptedServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LARGEST_ANSWER", 2**20)
    server.list_faults.append(without_end)
    with pytest.raises(Unanswered):
        await api.send("GET", PATH, timeout=60)


async def test_an_answer_too_deep_to_read_is_one_without_an_object(
    server: ScriptedServer, api: ApiServer
) -> None:
    server.texts[PATH] = "[" * 100_000
    assert (await api.send("GET", PATH, timeout=10)).body == {"message": "[" * 200}


async def test_html_is_an_answer_without_its_markup_as_a_body(
    server: ScriptedServer, api: ApiServer
) -> None:
    server.list_faults.append(html_500)
    answer = await api.send("GET", PATH, timeout=10)
    assert (answer.status, answer.ok) == (500, False)
    assert answer.body == {"message": "<html>oops</html>"}


async def test_a_stream_that_ends_is_no_error(server: ScriptedServer, api: ApiServer) -> None:
    server.watch_faults.append(ending_at_once)
    async with api.open_stream(PATH, {"watch": "1"}, idle_timeout=5) as response:
        assert await response.content.read() == b""


async def test_a_stream_that_is_silent_is_unanswered(
    server: ScriptedServer, api: ApiServer
) -> None:
    server.watch_faults.append(never)
    with pytest.raises(Unanswered):
        async with api.open_stream(PATH, {"watch": "1"}, idle_timeout=0.3) as response:
            await response.content.read()


async def test_the_error_of_an_unusable_kubeconfig_names_its_path(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("clusters: [")
    for path in (tmp_path / "absent", broken):
        with pytest.raises(ConfigurationUnusable, match=str(path)):
            await ApiServer.connect(str(path))


async def test_without_a_pods_service_account_in_cluster_is_unusable() -> None:
    with pytest.raises(ConfigurationUnusable, match="service account"):
        await ApiServer.connect(in_cluster=True)
