"""Updates that follow each other quicker than Knative can carry them out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Lab, wait_until
from tests.cluster.asking import State, container, deploy, wait_ready
from tests.cluster.namespace_watch import WATCHED, WATCHED_OF_KNATIVE, NamespaceWatch, Object, Sight
from tests.cluster.test_rollouts import UNDER_WAY, Watching, watching

__all__ = ["watching"]

UPDATES = 50
# From none to as long as an update takes, so that some complete and most are replaced.
PAUSES = (0.0, 0.0, 0.1, 0.3, 0.6)
MARKER = "modelservice.dev/rollout"


@pytest.fixture
def sights(lab: Lab, namespace: str) -> Iterator[list[Sight]]:
    """What the API server tells of the namespace's services, KServe's and Knative's."""
    watched = {"service": WATCHED["service"], **WATCHED_OF_KNATIVE}
    watch = NamespaceWatch(lab, lab.tokens["admin"], namespace, watched)
    yield watch.seen
    watch.close()


def test_of_fifty_quick_updates_none_is_ready_before_knative_has_carried_it_out(
    stub: ModelServiceStub, namespace: str, sights: list[Sight], watching: Watching
) -> None:
    first = deploy(stub, namespace, "iris", container("ready:0"))
    wait_ready(stub, namespace, "iris", first.rollout_id)
    heard = watching("iris")
    last = first
    for number, pause in zip(range(UPDATES), itertools.cycle(PAUSES), strict=False):
        last = deploy(stub, namespace, "iris", container(f"ready:{number + 1}"))
        time.sleep(pause)
    wait_ready(stub, namespace, "iris", last.rollout_id)
    done = heard.wait_state(State.STATE_READY, last.service.generation)
    # What the server has heard this watch may hear later.
    wait_until(lambda: carried_out(done, sights, time.time()), "the last update was seen")

    told = [(m.observe_time.ToMicroseconds() / 1e6, m.service) for m in heard.messages]
    ready = [(at, s) for at, s in told if s.status.state == State.STATE_READY]
    assert len({service.generation for _, service in ready}) < UPDATES, "none was replaced"
    assert [s.generation for at, s in ready if not carried_out(s, sights, at)] == []
    others = {s.status.state for _, s in told if s.name} - {State.STATE_READY}
    assert others <= UNDER_WAY, heard.told()
    assert all(s.status.serving for _, s in told if s.name), heard.told()


def carried_out(service: InferenceService, sights: list[Sight], at: float) -> bool:
    """Whether the Knative Service had come to this generation of the service by then."""
    markers = {
        sight.object["spec"]["predictor"]["annotations"][MARKER]
        for sight in list(sights)
        if sight.kind == "service" and sight.object["metadata"]["generation"] == service.generation
    }
    behind = (s for s in list(sights) if s.kind == "knative_service" and s.written_at <= at)
    return any(is_complete(sight.object, markers) for sight in behind)


def is_complete(behind: Object, markers: set[str]) -> bool:
    """Whether it has such a template, and its newest Revision of it is the one that is ready."""
    status, metadata = behind.get("status", {}), behind["metadata"]
    ready = {c["type"]: c["status"] for c in status.get("conditions", ())}.get("Ready")
    return (
        behind["spec"]["template"]["metadata"]["annotations"].get(MARKER) in markers
        and status.get("observedGeneration") == metadata["generation"]
        and status.get("latestCreatedRevisionName") == status.get("latestReadyRevisionName")
        and ready == "True"
    )
