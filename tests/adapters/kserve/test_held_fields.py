"""What is held of an object is what its readers use, and reads the same."""

from __future__ import annotations

import copy
import gc
import json
import tracemalloc
from typing import Any

import pytest

from server.adapters.kserve.apply.adoption import ownership_patch
from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.informers.collections import Kind, Resource
from server.adapters.kserve.informers.held_fields import without_unused
from server.adapters.kserve.informers.object_cache import ObjectCache
from server.adapters.kserve.manifests.field_ownership import LONGEST_PACKED, packed
from server.adapters.kserve.manifests.manifest import DesiredObject
from server.adapters.kserve.manifests.object_parser import parse_object
from server.domain.service.inference_service import (
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    ServiceKey,
)
from tests.adapters.kserve.reflecting import running_reflector
from tests.adapters.kserve.replaying import KNATIVE_NAMES, NAMES, recording
from tests.adapters.kserve.scripted_server import ScriptedServer
from tests.adapters.kserve.storing import applied, edited
from tests.adapters.kserve.waiting import eventually
from tests.patience import PATIENCE_SECONDS

SERVICES = "/apis/serving.kserve.io/v1beta1/inferenceservices"
PODS = "/api/v1/pods"


def held(found: dict[str, Any]) -> dict[str, Any]:
    return without_unused(Kind.SERVICES, json.loads(json.dumps(found)))


def service(name: str = "iris", variables: int = 20) -> dict[str, Any]:
    spec = InferenceServiceSpec(
        ModelPredictor(ModelFormat("sklearn"), "gs://models/iris"),
        env={f"SETTING_{n}": str(n) for n in range(variables)},
    )
    found = applied(DesiredObject(ServiceKey("team-a", name), spec, {"team": "a"}, {"note": "b"}))
    found["metadata"]["uid"] = name
    return found


@pytest.mark.parametrize("name", [*NAMES, *(f"knative/{name}" for name in KNATIVE_NAMES)])
def test_a_service_reads_the_same_whatever_is_held_of_it(name: str) -> None:
    services = {id(o.service): o.service for _, o in recording(name).states() if o}
    for whole in services.values():
        one, other = parse_object(whole), parse_object(held(dict(whole)))
        assert (one.pending, one.unsupported, one.requests, one.unmanaged) == (
            other.pending,
            other.unsupported,
            other.requests,
            other.unmanaged,
        )
        assert one.managers == other.managers


def test_what_is_sent_back_of_the_managed_fields_is_json() -> None:
    found = edited(service(), "kubectl-edit", {"spec": {"predictor": {"minReplicas": 2}}})
    assert json.dumps(ownership_patch(held(found))) == json.dumps(ownership_patch(found))


def test_long_managed_fields_are_not_parsed_again_and_again() -> None:
    long = {f"f:{n}": {} for n in range(LONGEST_PACKED)}
    assert packed(long) is long
    assert packed({"f:spec": {}}) == {"f:spec": {}}


async def test_managed_fields_are_held_of_services_only(
    server: ScriptedServer, api: ApiServer
) -> None:
    labels = {"serving.kserve.io/inferenceservice": "iris"}
    pod = {"namespace": "team-a", "name": "p1", "uid": "p1", "labels": labels, "managedFields": []}
    cache = ObjectCache(lambda _: None)
    key = ServiceKey("team-a", "iris")
    await server.put(SERVICES, service())
    async with (
        running_reflector(api, Resource(Kind.SERVICES), cache),
        running_reflector(api, Resource(Kind.PODS), cache),
    ):
        await eventually(lambda: cache.observed(key) is not None, PATIENCE_SECONDS)
        await server.put(PODS, {"metadata": copy.deepcopy(pod)})
        await eventually(lambda: bool(cache.observed(key).pods), PATIENCE_SECONDS)
        observed = cache.observed(key)
    assert observed
    assert "managedFields" in observed.service["metadata"]
    assert "managedFields" not in observed.pods[0]["metadata"]


def test_a_service_with_twenty_variables_is_held_in_four_times_its_json() -> None:
    texts = [json.dumps(service(f"s{n}")) for n in range(200)]
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    cache = ObjectCache(lambda _: None)
    cache.listed(Resource(Kind.SERVICES), [held(json.loads(text)) for text in texts], 0)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(list(cache.keys())) == 200
    assert (after - before) / 200 < 4 * len(texts[0])
