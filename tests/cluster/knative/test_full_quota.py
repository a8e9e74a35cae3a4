"""A quota without room for one more pod, under a service that serves.

KServe then writes its status some twenty times a second, each time in other words.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import dropwhile

import pytest
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Lab, wait_until
from tests.cluster.asking import State, container, deploy, wait_ready
from tests.cluster.namespace_watch import WATCHED, NamespaceWatch
from tests.cluster.objects import stored
from tests.cluster.test_rollouts import Watching, watching

from .test_knative_lab import PODS
from .test_reconcile_errors import touch

__all__ = ["watching"]

SECONDS = 8.0
# Of KServe, in the same time: more than anybody should be told.
WRITES = 5 * SECONDS


@pytest.fixture
def writes(lab: Lab, namespace: str) -> Iterator[NamespaceWatch]:
    """Every version of the namespace's services that KServe writes."""
    watch = NamespaceWatch(lab, lab.tokens["admin"], namespace, {"service": WATCHED["service"]})
    yield watch
    watch.close()


def fill(lab: Lab, namespace: str) -> None:
    """Permit no more pods than there are."""
    used = len(lab.get(PODS.format(namespace))["items"])
    metadata = {"name": "full", "namespace": namespace}
    spec = {"hard": {"pods": str(used)}}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": spec}
    path = lab.path_of(lab.apply(quota))
    wait_until(lambda: lab.get(path).get("status", {}).get("hard"), "the quota holds")


def warns(service: InferenceService) -> bool:
    return "exceeded quota" in service.status.message


def test_a_full_quota_under_a_service_that_serves_is_a_warning_once_a_second(
    lab: Lab, stub: ModelServiceStub, namespace: str, watching: Watching, writes: NamespaceWatch
) -> None:
    first = deploy(stub, namespace, "iris", container())
    wait_ready(stub, namespace, "iris", first.rollout_id)
    fill(lab, namespace)
    heard = watching("iris")

    def is_refused() -> bool:
        # The quota may hold a little later than its status says.
        touch(lab, namespace)
        conditions = stored(lab, namespace, "iris")["status"]["conditions"]
        return any("exceeded quota" in c.get("message", "") for c in conditions)

    wait_until(is_refused, "KServe is refused for the quota")
    heard.wait(warns, "the warning is told")

    began, written = time.monotonic(), len(writes.seen)
    wait_until(lambda: len(writes.seen) > written + WRITES, "KServe writes on")
    wait_until(lambda: time.monotonic() > began + SECONDS, "what is told meanwhile")
    told = list(dropwhile(lambda m: not warns(m.service), list(heard.messages)))
    # By the server's clock: on a slow machine some arrive together.
    begin, end = (told[n].observe_time.ToNanoseconds() / 1e9 for n in (0, -1))

    # The first of them may have waited for its way out.
    assert len(told) <= end - begin + 2, heard.told()
    assert heard.states(1) == [State.STATE_READY], heard.told()
    assert all(s.status.serving for s in heard.services)
    assert all(warns(message.service) for message in told), heard.told()
