"""Credentials are those of one user on one cluster; they are renewed, and recover from failures."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from server.adapters.kserve.client import ApiServer, NoCredentials, Unanswered, Unreachable
from server.adapters.kserve.connection.yaml_document import ConfigurationUnusable
from tests.adapters.kserve.waiting import eventually
from tests.api_recorders import Authority, Recorder, recording

CONNECTION = "server.adapters.kserve.connection.connection"
CREDENTIALS = "server.adapters.kserve.connection.credentials"
PLUGIN = "server.adapters.kserve.connection.exec_plugin"
V1 = "client.authentication.k8s.io/v1"
IN_TIME = 60.0


@dataclass(frozen=True)
class Clusters:
    """Two API servers, and kubeconfigs in `folder` that name them."""

    a: Recorder
    b: Recorder
    ca: Authority
    clients: Authority
    folder: Path

    def write(
        self, user: dict[str, Any], *, context: str = "a", name: str = "kubeconfig", **fields: Any
    ) -> str:
        """A kubeconfig of both, whose user `me` of both has these credentials; its path."""
        clusters = [
            {"name": recorder.name, "cluster": self.cluster(recorder) | fields}
            for recorder in (self.a, self.b)
        ]
        document = {
            "current-context": context,
            "contexts": [
                {"name": "a", "context": {"cluster": "a", "user": "me"}},
                {"name": "b", "context": {"cluster": "b", "user": "you"}},
            ],
            "clusters": clusters,
            "users": [{"name": "me", "user": user}, {"name": "you", "user": {"token": "yours"}}],
        }
        path = self.folder / name
        path.write_text(json.dumps(document))
        return str(path)

    def cluster(self, recorder: Recorder) -> dict[str, Any]:
        return {
            "server": f"https://127.0.0.1:{recorder.port}",
            "certificate-authority-data": base64.b64encode(self.ca.pem).decode(),
        }

    def last(self) -> dict[str, str]:
        """As whom A was asked last."""
        return dict(self.a.asked[-1].identity)


@pytest.fixture
async def clusters(tmp_path: Path) -> AsyncIterator[Clusters]:
    ca, clients = Authority("ca"), Authority("clients")
    tls = ca.issue("127.0.0.1", ["127.0.0.1"])
    async with (
        recording("a", certificate=tls, clients=clients, folder=tmp_path) as a,
        recording("b", certificate=tls, folder=tmp_path) as b,
    ):
        yield Clusters(a, b, ca, clients, tmp_path)


@pytest.fixture(autouse=True)
def retried_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{CREDENTIALS}.FIRST_PAUSE", 0.01)
    monkeypatch.setattr(f"{CREDENTIALS}.LONGEST_PAUSE", 0.05)
    # Of a machine that does much else.
    monkeypatch.setattr("server.adapters.kserve.client.CONNECT_TIMEOUT", 30.0)


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


@asynccontextmanager
async def connected(kubeconfig: str) -> AsyncIterator[ApiServer]:
    api = await ApiServer.connect(kubeconfig, environment={"PATH": "/usr/bin:/bin"})
    yield api
    await api.close()


async def status(api: ApiServer, method: str = "GET") -> int:
    try:
        return (await api.send(method, "/version", timeout=30)).status
    except NoCredentials as e:
        if e.refused:
            return 401
        raise


async def until_accepted(api: ApiServer) -> None:
    async with asyncio.timeout(IN_TIME):
        while await status(api) != 200:
            await asyncio.sleep(0.02)


async def test_a_rotated_token_is_read_again_at_a_401(clusters: Clusters) -> None:
    async with connected(clusters.write({"token": "old"})) as api:
        clusters.write({"token": "new"})
        clusters.a.tokens = {"new"}
        assert await asyncio.gather(*(status(api, "PATCH") for _ in range(5))) == [200] * 5


async def test_a_lasting_401_is_an_error_and_sends_nothing_twice(clusters: Clusters) -> None:
    async with connected(clusters.write({"token": "wrong"})) as api:
        clusters.a.tokens = {"right"}
        assert [await status(api) for _ in range(3)] == [401] * 3
    assert len(clusters.a.asked) == 3


async def test_another_current_context_changes_neither_the_cluster_nor_the_user(
    clusters: Clusters,
) -> None:
    async with connected(clusters.write({"token": "t1"})) as api:
        clusters.a.tokens = {"t2"}
        clusters.write({"token": "t1"}, context="b")
        assert await status(api, "PATCH") == 401

        clusters.write({"token": "t2"}, context="b")
        await until_accepted(api)

    assert clusters.b.asked == []
    assert clusters.last() == {"authorization": "Bearer t2"}


async def test_another_server_and_ca_under_the_same_name_are_not_taken(clusters: Clusters) -> None:
    async with connected(clusters.write({"token": "t1"})) as api:
        clusters.a.tokens = {"t2"}
        other = f"https://127.0.0.1:{clusters.b.port}"
        clusters.write({"token": "t2", "as": "root"}, server=other)
        await until_accepted(api)

    assert clusters.b.asked == []
    assert clusters.last() == {"authorization": "Bearer t2"}, "it acts as nobody else"


async def test_a_user_of_the_same_name_in_another_file_is_another_user(
    clusters: Clusters, logged: list[Any]
) -> None:
    first = clusters.write({"token": "t1"}, name="one")
    second = clusters.write({"token": "theirs"}, name="two")
    async with connected(f"{first}:{second}") as api:
        clusters.a.tokens = {"t2", "theirs"}
        Path(first).write_text("{}")
        assert await status(api) == 401
        assert await status(api) == 401

        clusters.write({"token": "t2"}, name="one")
        await until_accepted(api)

    assert "Bearer theirs" not in str(clusters.a.asked)
    message = [line["why"] for line in logged if line["event"] == "credentials cannot be renewed"]
    assert message == [f"kubeconfig {first}: users[me].user: the user is gone"]
    assert logged[-1]["event"] == "credentials are renewed again"


@pytest.mark.parametrize("broken", ["", "users: [", '{"users": [{"name": "me", "user": {}}]}'])
async def test_a_file_without_usable_credentials_is_logged_once_and_read_again(
    clusters: Clusters, logged: list[Any], broken: str
) -> None:
    path = clusters.write({"token": "secret-1"})
    async with connected(path) as api:
        clusters.a.tokens = {"secret-2"}
        Path(path).write_text(broken)
        for _ in range(3):
            assert await status(api) == 401

        clusters.write({"token": "secret-2"})
        await until_accepted(api)

    events = [line["event"] for line in logged]
    assert events == ["credentials cannot be renewed", "credentials are renewed again"]
    assert path in logged[0]["why"]
    assert "secret" not in str(logged)


async def test_a_token_file_is_read_again_and_its_last_token_stays_when_it_is_gone(
    clusters: Clusters, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    monkeypatch.setattr(f"{CREDENTIALS}.READ_FILES_EVERY", 0.0)
    file = clusters.folder / "token"
    file.write_text("t1\n")

    async with connected(clusters.write({"tokenFile": "token"})) as api:
        assert await status(api) == 200
        file.write_text("\n t2 \n")
        await eventually_as(api, clusters, "Bearer t2")

        file.unlink()
        await asking_until(api, lambda: bool(logged))
        assert await status(api) == 200
        assert clusters.last() == {"authorization": "Bearer t2"}

        file.write_text("t3")
        await eventually_as(api, clusters, "Bearer t3")
    assert [line["event"] for line in logged] == [
        "credentials cannot be renewed",
        "credentials are renewed again",
    ]


async def test_a_ca_and_a_certificate_that_were_read_need_their_files_no_longer(
    clusters: Clusters,
) -> None:
    certificate, key = clusters.clients.issue("me")
    files = {"ca.pem": clusters.ca.pem, "crt": certificate, "key": key}
    for name, content in files.items():
        (clusters.folder / name).write_bytes(content)
    user = {"token": "t1", "client-certificate": "crt", "client-key": "key"}
    path = clusters.write(
        user, **{"certificate-authority-data": None, "certificate-authority": "ca.pem"}
    )

    async with connected(path) as api:
        assert await status(api) == 200
        clusters.a.tokens = {"t2"}
        (clusters.folder / "ca.pem").unlink()
        clusters.write({**user, "token": "t2"})
        await until_accepted(api)
    assert clusters.a.asked[-1].certificate == "me"


async def test_a_certificate_that_rotates_in_its_files_is_shown(
    clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{CREDENTIALS}.READ_FILES_EVERY", 0.0)

    def issue(name: str) -> None:
        for file, content in zip(("crt", "key"), clusters.clients.issue(name), strict=True):
            (clusters.folder / file).write_bytes(content)

    issue("first")
    path = clusters.write({"client-certificate": "crt", "client-key": "key"})
    async with connected(path) as api:
        assert await status(api) == 200
        issue("second")
        await asking_until(api, lambda: clusters.a.asked[-1].certificate == "second")
    assert clusters.a.asked[0].certificate == "first"


async def test_in_a_pod_its_service_account_is_used_and_its_token_rotates(
    clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{CONNECTION}.SERVICE_ACCOUNT", clusters.folder)
    (clusters.folder / "ca.crt").write_bytes(clusters.ca.pem)
    (clusters.folder / "token").write_text("t1")
    environment = {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(clusters.a.port),
    }
    api = await ApiServer.connect(in_cluster=True, environment=environment)
    assert await status(api) == 200

    (clusters.folder / "token").write_text("t2\n")
    clusters.a.tokens = {"t2"}
    await until_accepted(api)
    await api.close()

    assert {asked.identity for asked in clusters.a.asked} == {
        (("authorization", "Bearer t1"),),
        (("authorization", "Bearer t2"),),
    }


class Plugin:
    """A credential plugin that prints the file `output`, or fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.user = {
            "exec": {
                "apiVersion": V1,
                "command": "./plugin",
                "interactiveMode": "Never",
                "args": ["--client-secret", "hush-hush"],
                "env": [{"name": "API_KEY", "value": "very-private"}],
            }
        }
        self.run('echo x >> "$(dirname "$0")/runs"; cat "$(dirname "$0")/output"')

    def run(self, script: str) -> None:
        path = self._folder / "next"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        path.rename(self._folder / "plugin")

    def prints(self, token: str, ends_in: float | None = None) -> None:
        status = {"token": token}
        if ends_in is not None:
            ends = datetime.now(UTC) + timedelta(seconds=ends_in)
            status["expirationTimestamp"] = ends.isoformat().replace("+00:00", "Z")
        credential = {"kind": "ExecCredential", "apiVersion": V1, "status": status}
        (self._folder / "next").write_text(json.dumps(credential))
        (self._folder / "next").rename(self._folder / "output")

    def fails(self) -> None:
        (self._folder / "output").unlink()

    def takes(self, seconds: float) -> None:
        self.run(f'sleep {seconds}; cat "$(dirname "$0")/output"')

    def runs(self) -> int:
        return len((self._folder / "runs").read_text().splitlines())


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


async def test_a_plugin_is_run_once_for_as_long_as_its_token_is_taken(
    clusters: Clusters, plugin: Plugin
) -> None:
    plugin.prints("p1", ends_in=3600)
    async with connected(clusters.write(plugin.user)) as api:
        assert [await status(api) for _ in range(3)] == [200] * 3
    assert (plugin.runs(), clusters.last()) == (1, {"authorization": "Bearer p1"})


async def test_a_plugin_is_run_again_before_its_token_ends_and_after_a_401(
    clusters: Clusters, plugin: Plugin
) -> None:
    plugin.prints("p1", ends_in=3)
    async with connected(clusters.write(plugin.user)) as api:
        plugin.prints("p2", ends_in=3600)
        await eventually_as(api, clusters, "Bearer p2")

        plugin.prints("p3")
        clusters.a.tokens = {"p3"}
        await until_accepted(api)


async def test_a_request_takes_no_longer_than_its_timeout_however_slow_its_parts_are(
    clusters: Clusters, plugin: Plugin
) -> None:
    """The plugin, twice, the 401 between and the answer each take most of the time, or all."""
    seconds = 1.5
    plugin.prints("p1", ends_in=-1)
    async with connected(clusters.write(plugin.user)) as api:
        plugin.takes(0.8 * seconds)
        plugin.prints("p2", ends_in=3600)
        clusters.a.tokens, clusters.a.takes = {"p1"}, 0.8 * seconds
        with pytest.raises((Unreachable, Unanswered)):
            await api.send("GET", "/version", timeout=seconds)
    # Time was up before the 401 that would have had it ask once more.
    assert len(clusters.a.asked) <= 1


async def test_credentials_that_come_too_late_after_a_401_leave_it_a_refusal(
    clusters: Clusters, plugin: Plugin
) -> None:
    plugin.prints("p1", ends_in=3600)
    async with connected(clusters.write(plugin.user)) as api:
        plugin.takes(600)
        clusters.a.tokens = {"p2"}
        with pytest.raises(NoCredentials, match="refuses our credentials"):
            await api.send("PATCH", "/version", body={}, timeout=5)
    assert len(clusters.a.asked) == 1


async def test_a_plugin_that_fails_leaves_the_old_token_until_it_ends_then_none_until_it_works(
    clusters: Clusters, plugin: Plugin, logged: list[Any]
) -> None:
    plugin.prints("p1", ends_in=4)
    async with connected(clusters.write(plugin.user)) as api:
        plugin.fails()
        await asking_until(api, lambda: bool(logged))
        with pytest.raises(NoCredentials):
            await until_refused(api)
        assert {dict(asked.identity)["authorization"] for asked in clusters.a.asked} == {
            "Bearer p1"
        }, "never as anonymous"

        plugin.prints("p2")
        await eventually_as(api, clusters, "Bearer p2")
    assert [line["event"] for line in logged] == [
        "credentials cannot be renewed",
        "credentials are renewed again",
    ]
    assert "the plugin" in logged[0]["why"]


async def test_a_plugin_that_is_replaced_in_the_kubeconfig_is_found_once_the_old_one_has_failed(
    clusters: Clusters, plugin: Plugin, logged: list[Any]
) -> None:
    plugin.prints("p1", ends_in=3)
    async with connected(clusters.write(plugin.user)) as api:
        plugin.run("date +%N >&2; exit 1")
        await asking_until(api, lambda: bool(logged))
        with pytest.raises(NoCredentials):
            await until_refused(api)

        clusters.write({"token": "t1"})
        await eventually_as(api, clusters, "Bearer t1")
    assert [line["event"] for line in logged] == [
        "credentials cannot be renewed",
        "credentials are renewed again",
    ], "once, although its words differ each time"


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo first >&2; echo last >&2; echo >&2; exit 7", "ended with 7: last"),
        ("kill -9 $$", "ended with -9"),
        ("echo junk", "printed no credentials"),
        ("head -c 3000000 /dev/zero", "printed more than 1048576 bytes"),
        ("sleep 1000 & sleep 1000", "did not end within 0.3 s"),
        # One that leaves the plugin's group keeps the pipe open, and is not waited for.
        ("setsid sleep 5 & sleep 1000", "did not end within 0.3 s"),
    ],
)
async def test_the_error_of_an_unusable_plugin_names_it(
    clusters: Clusters, plugin: Plugin, monkeypatch: pytest.MonkeyPatch, script: str, problem: str
) -> None:
    if "sleep" in script:
        monkeypatch.setattr(f"{PLUGIN}.RUN_TIMEOUT", 0.3)
    else:
        monkeypatch.setattr(f"{PLUGIN}.RUN_TIMEOUT", IN_TIME)
    plugin.run(script)
    with pytest.raises(ConfigurationUnusable, match=f"/plugin {problem}") as raised:
        await ApiServer.connect(clusters.write(plugin.user), environment={"PATH": "/usr/bin:/bin"})
    assert "users[me].user.exec" in str(raised.value)


async def test_a_plugins_words_are_cut_and_show_no_secret(
    clusters: Clusters, plugin: Plugin
) -> None:
    token = "eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl"
    words = [
        f"refused {token}",
        "hush-hush",
        "very-private",
        "https://ada:pw12@idp.test/x",
        "password=abcd1234",
        "id AKIAIOSFODNN7exampleKey12",
        "of sts.eu-central-1.amazonaws.com",
    ]
    plugin.run(f"echo '{' '.join(words)} {'long ' * 100}' >&2; exit 1")
    with pytest.raises(ConfigurationUnusable) as raised:
        await ApiServer.connect(clusters.write(plugin.user), environment={"PATH": "/usr/bin:/bin"})
    message = str(raised.value).partition("ended with 1: ")[2]
    for secret in (token, "hush", "private", "pw12", "abcd1234", "AKIA"):
        assert secret not in message
    assert "refused ***" in message
    assert "of sts.eu-central-1.amazonaws.com" in message
    assert len(message) < 210


@pytest.mark.parametrize("words", ["a-" * 4000, "key" * 2600, "very-secret-" * 600])
async def test_a_plugins_long_line_does_not_block_the_event_loop(
    clusters: Clusters, plugin: Plugin, words: str
) -> None:
    plugin.run(f"echo failed >&2; echo 'refused {words}' >&2; exit 1")
    environment = {"PATH": "/usr/bin:/bin"}
    # In a task of its own, whose steps are measured.
    connecting = asyncio.create_task(
        ApiServer.connect(clusters.write(plugin.user), environment=environment)
    )
    with pytest.raises(ConfigurationUnusable, match=r"refused \.\.\.$"):
        await connecting


async def test_a_connection_that_is_closed_ends_a_plugin_that_runs(
    clusters: Clusters, plugin: Plugin
) -> None:
    plugin.prints("p1")
    api = await ApiServer.connect(
        clusters.write(plugin.user), environment={"PATH": "/usr/bin:/bin"}
    )
    clusters.a.tokens = set()
    ran = clusters.folder / "ran"
    plugin.run(f"echo $$ > {ran}; exec sleep 1000")
    asked = asyncio.create_task(status(api))
    await eventually(lambda: ran.exists() and bool(ran.read_text()), IN_TIME)
    pid = int(ran.read_text())

    await api.close()

    await asyncio.wait([asked], timeout=IN_TIME)
    assert not Path(f"/proc/{pid}").exists()
    asked.exception()


async def test_a_proxy_that_refuses_has_passed_nothing_on(clusters: Clusters) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    proxy = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    path = clusters.write({"token": "t"}, **{"proxy-url": f"http://127.0.0.1:{port}"})
    async with connected(path) as api:
        with pytest.raises(Unreachable):
            await status(api, "PATCH")
    proxy.close()


async def until_refused(api: ApiServer) -> None:
    """Ask until that raises."""
    async with asyncio.timeout(IN_TIME):
        while True:
            await status(api)


async def asking_until(api: ApiServer, condition: Callable[[], bool]) -> None:
    """Ask again and again until it holds."""
    async with asyncio.timeout(IN_TIME):
        while not condition():
            try:
                await status(api)
            except NoCredentials:
                await asyncio.sleep(0.02)


async def eventually_as(api: ApiServer, clusters: Clusters, authorization: str) -> None:
    """Ask until A is asked with this header."""
    await asking_until(
        api, lambda: bool(clusters.a.asked) and clusters.last() == {"authorization": authorization}
    )
