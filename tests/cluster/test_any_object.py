"""Whatever others stored is read, shown and deleted; what does not fit is named."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.json_format import MessageToJson, Parse
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub
from structlog.testing import capture_logs

from lab import Cluster, Lab, wait_until
from server.adapters.kserve.informers.collections import Kind, Resource
from server.adapters.kserve.informers.object_cache import ObjectCache
from server.adapters.kserve.informers.service_views import ServiceViews
from server.adapters.kserve.objects import key_of
from server.api.services import service_message

from .any_object import any_object
from .asking import deploy, model, wait_gone

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/inferenceservices.serving.kserve.io"
OBJECTS = 1000
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def test_every_object_that_the_schema_admits_is_read_and_rendered(lab: Lab) -> None:
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    rng = random.Random(seed)
    [version] = lab.get(CRD)["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]["properties"]
    for nth in range(OBJECTS):
        obj = {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": _metadata(nth, rng),
            "spec": any_object(schema["spec"], rng),
            **({"status": any_object(schema["status"], rng)} if rng.random() < 0.8 else {}),
        }
        try:
            _read_and_rendered(obj)
        except Exception as error:
            raise AssertionError(f"seed {seed}, object {nth}: {obj}") from error


def _read_and_rendered(obj: dict[str, Any]) -> None:
    object_cache = ObjectCache(lambda _: None)
    object_cache.listed(Resource(Kind.SERVICES), [obj], object_cache.listing_begins())
    with capture_logs() as logged:
        derived = ServiceViews(object_cache).derive(key_of(obj), NOW)
    assert derived, logged
    assert not logged
    message = service_message(derived.service)
    assert Parse(MessageToJson(message), InferenceService()) == message


def _metadata(nth: int, rng: random.Random) -> dict[str, Any]:
    return {
        "namespace": "any",
        "name": f"any-{nth}",
        "uid": f"uid-{nth}",
        "generation": rng.choice((1, 7, 2**63 - 1)),
        "resourceVersion": "1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": rng.choice(({}, {"a": ""}, {"app.kubernetes.io/managed-by": "modelservice"})),
        "annotations": rng.choice(({}, {"serving.kserve.io/stop": "TRUE"}, {"a/b": "x" * 9000})),
    }


@pytest.mark.parametrize("seconds", [10**12, 10**15, -1])
def test_a_timeout_that_no_duration_holds_is_named_and_the_service_seen_replaced_and_deleted(
    cluster: Cluster, stub: ModelServiceStub, namespace: str, seconds: int
) -> None:
    container = {"name": "kserve-container", "image": "example.org/m:1"}
    cluster.apply(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"namespace": namespace, "name": "odd"},
            "spec": {"predictor": {"containers": [container], "timeout": seconds}},
        },
        field_manager="somebody",
    )
    listing = pb.ListRequest(namespace=namespace)
    wait_until(lambda: stub.List(listing).services, "it is seen")
    MessageToJson(stub.List(listing))
    [service] = stub.List(listing).services
    assert not service.spec.HasField("request_timeout")
    assert "spec.predictor.timeout" in service.status.message
    deploy(stub, namespace, "odd", model(), force=True)
    stub.Delete(pb.DeleteRequest(namespace=namespace, name="odd", force=True))
    wait_gone(stub, namespace, "odd")
