"""A model that cannot be loaded never gets the traffic of the one that serves."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from grpc import StatusCode
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import NodeLab, images
from tests.cluster.asking import Reason, State, deploy
from tests.cluster.namespace_watch import WATCHED_OF_KNATIVE, NamespaceWatch, Sight
from tests.cluster.recording import Recording, Until
from tests.node.failures import sklearn
from tests.node.predicting import sklearn_on_claim, traffic

from .test_knative_node_lab import revision_address

# Ten times what it takes for a second failed load on a machine that does nothing else.
PATIENCE = 300.0
INGRESSES = "/apis/networking.internal.knative.dev/v1alpha1/namespaces/{}/ingresses"
GOOD, BAD = "iris-predictor-00001", "iris-predictor-00002"


@pytest.fixture
def sights(node_lab: NodeLab, namespace: str) -> Iterator[list[Sight]]:
    """What Knative tells of its Revisions, and to which of them it has its ingress lead."""
    watched = {**WATCHED_OF_KNATIVE, "ingress": INGRESSES}
    watch = NamespaceWatch(node_lab, node_lab.tokens["admin"], namespace, watched)
    yield watch.seen
    watch.close()


def led_to(sights: list[Sight]) -> set[str]:
    """The Revisions that were to get requests, at any time."""
    rules = [
        rule
        for sight in list(sights)
        if sight.kind == "ingress"
        for rule in sight.object["spec"]["rules"]
    ]
    paths = [path for rule in rules for path in rule["http"]["paths"]]
    return {s["serviceName"] for p in paths for s in p["splits"] if s.get("percent", 0)}


def was_ready(sights: list[Sight], revision: str) -> bool:
    told = [s.object for s in list(sights) if s.object["metadata"]["name"] == revision]
    assert told, f"there was no {revision}"
    conditions = [c for o in told for c in o.get("status", {}).get("conditions", ())]
    return any((c["type"], c["status"]) == ("Ready", "True") for c in conditions)


def is_named(service: InferenceService) -> bool:
    failure = service.status.failure
    explained = any("Error: " in line for line in failure.log_lines)
    return explained and failure.reason == Reason.REASON_MODEL_LOAD


@pytest.mark.timeout(1200)
def test_a_corrupt_model_takes_no_request_from_the_one_that_serves(
    node_lab: NodeLab, stub: ModelServiceStub, namespace: str, sights: list[Sight]
) -> None:
    node_lab.put_models(images.models(print), namespace)
    predictor = sklearn_on_claim("iris")
    first = deploy(stub, namespace, "iris", predictor.spec(1))
    until_ready = {"until": Until.UNTIL_READY, "rollout_id": first.rollout_id}
    assert Recording(stub, namespace, "iris", **until_ready).end(PATIENCE) is None
    heard = Recording(stub, namespace, "iris")

    with traffic(predictor, revision_address(node_lab, namespace, "iris")) as seen:
        began = time.monotonic()
        update = deploy(stub, namespace, "iris", sklearn("pvc://models/iris-corrupt"))
        until_ready["rollout_id"] = update.rollout_id
        refused = Recording(stub, namespace, "iris", **until_ready).end(PATIENCE)
        print(f"told as failed after {time.monotonic() - began:.1f} s")
        heard.wait(is_named, "the log explains it", PATIENCE)
        heard.wait(lambda s: s.status.failure.restart_count > 1, "it was tried again", PATIENCE)
    heard.close()

    assert refused
    assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "ROLLOUT_FAILED")
    # Its log is read after its exit, on a slow machine after its second one.
    reason = Reason.Name(refused.failure.reason)
    assert reason in ("REASON_MODEL_LOAD", "REASON_CRASH_LOOP"), refused.failure
    assert heard.states(2)[-1] == State.STATE_DEGRADED
    assert State.STATE_READY not in heard.states(2)
    assert all(service.status.serving for service in heard.services), heard.told()

    assert led_to(sights) == {GOOD}
    assert not was_ready(sights, BAD)
    print(f"asked meanwhile: {dict(seen.counted())}")
    assert seen.counted() == {str(predictor.predictions[1]): len(seen.outcomes)}
