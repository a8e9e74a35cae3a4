"""The Python of docs/clients.md, docs/api.md, docs/day2.md and the two READMEs passes mypy. It
runs, that of docs/day2.md in tests/client/cli/test_day2.py."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest
from modelservice.v1 import (
    model_service_pb2,
    model_service_pb2_grpc,
    registry_service_pb2,
    rollout_service_pb2,
)
from modelservice.v1.model_service_pb2 import (
    DeployRequest,
    GetRequest,
    GetResponse,
    ListRequest,
    ListResponse,
)
from modelservice_client import AsyncClient, Client, ClientClosed

from server.domain.rollout.status import State
from tests.api.requests import deploy, eventually, failed, key
from tests.serving import Served, serving, settings

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs/clients.md"
STUBS_README = ROOT / "generated/README.md"
CLIENT_README = ROOT / "client/README.md"


def blocks(file: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", file.read_text(), re.DOTALL)


def written(folder: Path) -> dict[str, Path]:
    """The code of the documents, as files in a folder."""
    first, *others = blocks(DOC, "python")
    call, why = blocks(STUBS_README, "python")
    [client] = blocks(CLIENT_README, "python")
    code = {
        "first": first,
        "client": client,
        "clients": "\n\n".join(others),
        "stubs": why,
        "call": call,
        "api": "\n\n".join(blocks(ROOT / "docs/api.md", "python")),
        "day2": "\n\n".join(blocks(ROOT / "docs/day2.md", "python")),
    }
    files = {name: folder / f"{name}.py" for name in code}
    for name, file in files.items():
        file.write_text(code[name])
    return files


def imported(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def code(tmp_path: Path) -> Iterator[ModuleType]:
    """docs/clients.md as a module."""
    module = imported(written(tmp_path)["clients"])
    yield module
    del sys.modules[module.__name__]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(settings()) as served:
        served.wait_until_synced()
        yield served


def test_the_code_passes_mypy_strict(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"]
    done = subprocess.run(
        [*command, f"--config-file={os.devnull}", *written(tmp_path).values()],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": f"{ROOT / 'generated'}:{ROOT / 'client'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "no issues found in 7 source files" in done.stdout


def test_the_first_lines_deploy_a_model_and_wait_for_it(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    code, *_ = blocks(DOC, "python")
    exec(code.replace("127.0.0.1:50051", served.address), {})
    assert "ready: \n" in capsys.readouterr().out
    assert served.inside(served.memory.store.service, key("iris")).status.state is State.READY


def test_a_failure_is_printed_with_its_remedy(code: Any, served: Served) -> None:
    served.memory.ready_after = None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(code.main, served.address, deploy("bad"))
        eventually("it is deployed", lambda: served.inside(served.memory.store.service, key("bad")))
        rollout_id = served.inside(served.memory.store.service, key("bad")).rollout.id
        served.inside(served.memory.set_status, key("bad"), failed(rollout_id))
        with pytest.raises(SystemExit, match="remedy: push it"):
            waiting.result()
    served.memory.ready_after = timedelta(0)


async def test_the_lines_for_asyncio_and_for_a_watch(
    code: Any, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    async with AsyncClient(served.address) as client:
        await client.deploy_and_wait(deploy("good"))
    assert await code.redeploy(served.address, "good") == ""
    with Client(served.address) as watching, ThreadPoolExecutor(1) as pool:
        following = pool.submit(code.follow, watching, "-")
        printed = ""

        def shown() -> bool:
            nonlocal printed
            printed += capsys.readouterr().out
            return "good STATE_READY" in printed

        eventually("the service is shown", shown)
        watching.close()
        with pytest.raises(ClientClosed):
            following.result()


@contextmanager
def serving_stubs(
    servicer: model_service_pb2_grpc.ModelServiceServicer, *options: tuple[str, Any]
) -> Iterator[grpc.Channel]:
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield channel
        server.stop(None).wait()


def service_config() -> str:
    (config,) = blocks(DOC, "json")
    return config


def test_the_service_config_names_every_read_and_nothing_else() -> None:
    (policy,) = json.loads(service_config())["methodConfig"]
    reads = {
        (service.full_name, method.name)
        for module in (model_service_pb2, registry_service_pb2, rollout_service_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.name.startswith(("Get", "List"))
    }
    assert {(name["service"], name["method"]) for name in policy["name"]} == reads


def test_with_the_service_config_grpc_retries_reads_and_no_deploy() -> None:
    calls: list[str] = []

    class Away(model_service_pb2_grpc.ModelServiceServicer):
        """UNAVAILABLE twice to each method, then an answer."""

        def Get(self, request, context):
            return self._answered("Get", context, GetResponse())

        def List(self, request, context):
            return self._answered("List", context, ListResponse())

        def Deploy(self, request, context):
            return self._answered("Deploy", context, model_service_pb2.DeployResponse())

        def _answered(self, method, context, answer):
            calls.append(method)
            if calls.count(method) <= 2:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", "10"),))
                context.abort(grpc.StatusCode.UNAVAILABLE, "away")
            return answer

    with serving_stubs(Away(), ("grpc.service_config", service_config())) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        assert stub.Get(GetRequest(name="iris"), timeout=30) == GetResponse()
        assert stub.List(ListRequest(), timeout=30) == ListResponse()
        with pytest.raises(grpc.RpcError):
            stub.Deploy(DeployRequest(name="iris"), timeout=30)
    assert calls == ["Get"] * 3 + ["List"] * 3 + ["Deploy"]


def test_with_the_service_config_a_read_waits_as_long_as_the_server_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unsynced = serving(settings(), synced=False)
    options = [("grpc.service_config", service_config())]
    with unsynced as served, grpc.insecure_channel(served.address, options=options) as channel:
        refused = threading.Event()
        require_synced = served.application._cache.require_synced

        def checked() -> None:
            try:
                require_synced()
            finally:
                refused.set()

        monkeypatch.setattr(served.application._cache, "require_synced", checked)
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        with ThreadPoolExecutor(1) as pool:
            sent = time.monotonic()
            listing = pool.submit(stub.List, ListRequest(), timeout=30)
            assert refused.wait(30)
            served.inside(served.memory.release_feed)
            assert list(listing.result().services) == []
        # RetryInfo's second, not the half of it that the service config begins with.
        assert time.monotonic() - sent >= 1
