"""The logs of real servers: one line a call, and nothing secret in any.

The last module here by name, so that the logs of all servers before are read too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from modelservice.v1 import inference_service_pb2 as services_pb
from modelservice.v1 import model_service_pb2 as pb

from lab import Lab, wait_until

from .asking import container, delete, deploy, get, wait_ready
from .interference import Link
from .serving import STOP_SECONDS, Replicas, Server

SECRETS = ("the-value-of-a-key", "the-value-of-a-plain-variable")
METHOD = "modelservice.v1.ModelService/"
# What an operator has to mend is an error too. Of the tests some databases go before their servers.
REFUSED = "the registry's database refuses this server"


@pytest.fixture
def link(lab: Lab, replicas: Replicas) -> Iterator[Link]:
    link = Link(lab, replicas.kubeconfig, replicas.folder)
    yield link
    link.close()


def test_each_call_is_one_line_and_tells_no_secret(
    replicas: Replicas, link: Link, namespace: str
) -> None:
    server = replicas.start(kubeconfig=link.kubeconfig)
    with closing(server):
        calls_of_every_kind(server, link, namespace)
        assert server.stop(STOP_SECONDS) == 0
    iris = f"{namespace}/iris"
    assert calls_in(server.log) == [
        ("Deploy", "OK", iris, "job-1"),
        ("WatchStatus", "OK", iris, None),
        ("Get", "OK", iris, None),
        ("Get", "NOT_FOUND", f"{namespace}/none", None),
        ("List", "OK", f"{namespace}/", None),
        ("Deploy", "INVALID_ARGUMENT", f"{namespace}/No Name", None),
        ("WatchStatus", "CANCELLED", f"{namespace}/", None),
        ("Delete", "OK", iris, None),
        ("Deploy", "UNAVAILABLE", iris, "job-2"),
        ("Deploy", "UNAVAILABLE", iris, "job-3"),
    ]
    assert not [secret for secret in SECRETS if secret in server.log.read_text()]


def test_no_log_tells_a_token_or_a_bug(replicas: Replicas) -> None:
    logs = sorted(replicas.folder.glob("*.log"))
    tokens = {token_in(path) for path in replicas.folder.glob("*.kubeconfig")}
    tokens.add(token_in(replicas.kubeconfig))
    assert logs
    for log in logs:
        assert not [token for token in tokens if token in log.read_text()], log
        for line in lines_of(log):
            assert line["level"] in ("info", "warning") or line["event"] == REFUSED, line
            assert "exception" not in line, line


def calls_of_every_kind(server: Server, link: Link, namespace: str) -> None:
    stub = server.stub
    rollout_id = deploy(stub, namespace, "iris", secretive(), request_id="job-1").rollout_id
    wait_ready(stub, namespace, "iris", rollout_id)
    get(stub, namespace, "iris")
    failing(lambda: get(stub, namespace, "none"))
    stub.List(pb.ListRequest(namespace=namespace))
    failing(lambda: deploy(stub, namespace, "No Name", secretive()))
    watch = stub.WatchStatus(pb.WatchStatusRequest(namespace=namespace))
    next(watch)
    watch.cancel()
    wait_until(lambda: len(calls_in(server.log)) == 7, "the watch's end is logged")
    delete(stub, namespace, "iris")
    link.swallow()
    wish = pb.DeployRequest(namespace=namespace, name="iris", spec=secretive())
    wish.request_id = "job-2"
    with ThreadPoolExecutor(1) as thread:
        lost = thread.submit(failing, lambda: stub.Deploy(wish))

        def has_ended() -> bool:
            link.cut()
            return lost.done()

        wait_until(has_ended, "a Deploy ends whose connections are reset")
        lost.result()
    wait_until(lambda: not server.is_serving("cluster"), "`cluster` is NOT_SERVING")
    wish.request_id = "job-3"
    failing(lambda: stub.Deploy(wish))
    link.restore()


def secretive() -> services_pb.InferenceServiceSpec:
    key, plain = SECRETS
    return container(env={"API_KEY": key, "NOTE": plain})


def failing(call: Callable[[], object]) -> None:
    with pytest.raises(grpc.RpcError):
        call()


def calls_in(log: Path) -> list[tuple[str, str, str | None, str | None]]:
    calls = [line for line in lines_of(log) if line["event"] == "call"]
    return [
        (c["method"].removeprefix(METHOD), c["code"], c.get("target"), c.get("request_id"))
        for c in calls
    ]


def lines_of(log: Path) -> list[dict[str, Any]]:
    whole, _, _ = log.read_text().rpartition("\n")  # the server may be writing the last one
    lines = [json.loads(line) for line in whole.splitlines()]
    assert all(isinstance(line, dict) for line in lines)
    return lines


def token_in(kubeconfig: Path) -> str:
    token: str = json.loads(kubeconfig.read_text())["users"][0]["user"]["token"]
    return token
