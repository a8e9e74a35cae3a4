"""What is gone takes its memory along."""

from __future__ import annotations

import gc
from typing import Any

import psutil
import pytest
from modelservice.v1.model_service_pb2 import (
    DeleteRequest,
    GetRequest,
    ListRequest,
    WatchStatusResponse,
)

from server.domain.service.inference_service import ServiceKey

from .requests import deploy, watching

NAMESPACE = "churn"
SERVICES = 200


@pytest.mark.timeout(120)
def test_services_made_read_and_deleted_leave_a_server_as_large_as_before(stub, memory) -> None:
    _churn(stub, memory, "warm", 10)
    before = _resident()
    _churn(stub, memory, "big", SERVICES)
    grown = _resident() - before
    # Each had some 600 KB, and was rendered four times.
    assert grown < 0.2 * before, f"{grown >> 20} MiB more than the {before >> 20} MiB of before"


def test_a_deletion_names_the_service_and_rollout_and_nothing_of_the_spec(
    stub, memory, name
) -> None:
    with watching(stub, namespace=NAMESPACE) as stream:
        made = stub.Deploy(deploy(name, namespace=NAMESPACE))
        stub.Delete(DeleteRequest(namespace=NAMESPACE, name=name))
        memory.finish_delete(ServiceKey(NAMESPACE, name))
        last = stream.until(lambda m: m.type == WatchStatusResponse.TYPE_DELETED).service
    assert (last.name, last.uid, last.rollout_id) == (name, made.service.uid, made.rollout_id)
    assert not last.HasField("spec")
    assert not last.HasField("status")


def _churn(stub: Any, memory: Any, prefix: str, count: int) -> None:
    names = [f"{prefix}-{nth}" for nth in range(count)]
    with watching(stub, namespace=NAMESPACE) as stream:
        for nth, name in enumerate(names):
            env = {f"E{i}": f"{nth:08}" + "x" * 100_000 for i in range(4)}
            notes = {"note": f"{nth:08}" + "y" * 200_000}
            request = deploy(name, namespace=NAMESPACE, annotations=notes)
            request.spec.env.update(env)
            stub.Deploy(request)
            stub.Get(GetRequest(namespace=NAMESPACE, name=name))
            stub.List(ListRequest(namespace=NAMESPACE, page_size=2))
            stub.Delete(DeleteRequest(namespace=NAMESPACE, name=name))
            memory.finish_delete(ServiceKey(NAMESPACE, name))
            stream.until(lambda m: m.type == WatchStatusResponse.TYPE_DELETED)


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)
