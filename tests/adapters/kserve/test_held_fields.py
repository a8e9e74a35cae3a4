"""What is held of an object is what its readers use, and reads the same."""

from __future__ import annotations

import copy
import gc
import json
import tracemalloc
import weakref
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from server.adapters.kserve import held_object
from server.adapters.kserve.apply.adoption import ownership_patch
from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.held_object import HeldObject, forget_parsed
from server.adapters.kserve.informers.collections import Kind, Resource
from server.adapters.kserve.informers.held_fields import LARGEST_PACKED, SMALL, hold, hold_parsed
from server.adapters.kserve.informers.object_cache import ObjectCache
from server.adapters.kserve.informers.service_views import ServiceViews
from server.adapters.kserve.informers.watch_stream import WatchEvent
from server.adapters.kserve.manifests.field_ownership import LONGEST_PACKED, packed
from server.adapters.kserve.manifests.manifest import DesiredObject
from server.adapters.kserve.manifests.object_parser import parse_object
from server.adapters.kserve.names import GENERATION_LABEL
from server.adapters.kserve.objects import (
    Object,
    generation_of,
    key_of,
    name_of,
    uid_of,
    version_of,
)
from server.adapters.kserve.status import parse_cache
from server.control.watch_cache import ALL, WatchCache
from server.domain.service.inference_service import (
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    ServiceKey,
)
from tests.adapters.kserve.reflecting import running_reflector
from tests.adapters.kserve.replaying import KINDS, KNATIVE_NAMES, NAMES, recording
from tests.adapters.kserve.scripted_server import ScriptedServer
from tests.adapters.kserve.storing import applied, edited
from tests.adapters.kserve.waiting import eventually
from tests.patience import PATIENCE_SECONDS

SERVICES = "/apis/serving.kserve.io/v1beta1/inferenceservices"
PODS = "/api/v1/pods"


def held(found: Mapping[str, Any]) -> Object:
    return hold(Kind.SERVICES, memoryview(json.dumps(found).encode()))


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
    for service in services.values():
        whole = json.loads(json.dumps(dict(service)))
        one, other = parse_object(whole), parse_object(held(whole))
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


@pytest.mark.parametrize("stays_parsed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_field_of_an_object_is_held_but_the_managed_fields_of_others(
    name: str, stays_parsed: bool
) -> None:
    for kind, whole in recording(name).objects():
        found = hold_parsed(KINDS[kind], whole, stays_parsed=stays_parsed)
        wanted = copy.deepcopy(whole)
        if kind != "service":
            wanted["metadata"].pop("managedFields", None)
        assert isinstance(found, HeldObject)
        assert found == wanted
        assert (uid_of(found), name_of(found)) == (uid_of(wanted), name_of(wanted))
        if kind == "service":
            assert key_of(found) == key_of(wanted)
        assert generation_of(found) == generation_of(wanted)
        assert version_of(found) == version_of(wanted)


def test_an_object_with_a_long_text_shares_it_with_those_of_its_service() -> None:
    note = "n" * SMALL
    whole = service()
    whole["metadata"]["annotations"] = {"note": note}
    labels = {"serving.kserve.io/inferenceservice": "iris"}
    meta = {"namespace": "team-a", "name": "p1", "uid": "p1", "labels": labels}
    pod = {"metadata": {**meta, "annotations": {"note": note}}}
    cache = ObjectCache(lambda _: None)
    cache.listed(Resource(Kind.SERVICES), [held(whole)], 0)
    text = memoryview(json.dumps(pod).encode())
    cache.listed(Resource(Kind.PODS), [hold(Kind.PODS, text)], 0)
    observed = cache.observed(ServiceKey("team-a", "iris"))
    assert observed
    (found,) = observed.pods
    notes = [o["metadata"]["annotations"]["note"] for o in (observed.service, found)]
    assert notes[0] is notes[1]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b'{"metadata": {}, "x": 1e400}', id="a number out of range"),
        pytest.param(b'{"metadata": {}, "x": "\xff"}', id="a text that is not UTF-8"),
    ],
)
@pytest.mark.parametrize("kind", [Kind.SERVICES, Kind.PODS])
def test_json_that_cannot_be_read_later_is_not_held(kind: Kind, text: bytes) -> None:
    with pytest.raises(ValueError, match=r"out of range|Invalid UTF-8"):
        hold(kind, memoryview(text))


@pytest.mark.parametrize(
    ("kind", "metadata"),
    [
        pytest.param(kind, metadata, id=f"{kind.name} {next(iter(metadata))}")
        for kind, metadata in (
            (Kind.CONTROLLER_REVISIONS, {"labels": ["a"]}),
            (Kind.CONTROLLER_REVISIONS, {"annotations": "a", "labels": {GENERATION_LABEL: "1"}}),
            (Kind.CONTROLLER_REVISIONS, {"ownerReferences": ["a"]}),
            (Kind.CONTROLLER_REVISIONS, {"ownerReferences": 1}),
            (Kind.SERVICES, {"managedFields": ["a"], "annotations": {"a": "x" * SMALL}}),
            (Kind.SERVICES, {"managedFields": 1, "annotations": {"a": "x" * SMALL}}),
            (Kind.PODS, {"labels": ["a"]}),
        )
    ],
)
def test_metadata_of_another_shape_is_not_held(kind: Kind, metadata: dict[str, Any]) -> None:
    found = {"metadata": {"name": "a", "resourceVersion": "1", **metadata}}
    with pytest.raises(ValueError, match=r"must have the metadata|Expected"):
        hold(kind, memoryview(json.dumps(found).encode()))
    with pytest.raises(ValueError, match=r"must have the metadata|Expected"):
        hold_parsed(kind, found)


def test_services_are_cached_and_compared_without_being_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def parsed(_: object, found: HeldObject) -> dict[str, Any]:
        raise AssertionError(f"{found.name} was parsed")

    monkeypatch.setattr(held_object._OpenObjects, "parsed", parsed)
    iris, lily = held(service("iris")), held(service("lily"))
    services, cache = Resource(Kind.SERVICES), ObjectCache(lambda _: None)
    cache.listed(services, [iris], 0)
    cache.changed(services, WatchEvent("ADDED", lily))
    assert list(map(cache.uid_at, cache.keys())) == ["iris", "lily"]
    assert cache.version_at(key_of(iris)) > 0
    assert iris != lily
    cache.changed(services, WatchEvent("DELETED", lily))
    assert list(cache.keys()) == [key_of(iris)]


def test_large_objects_that_were_read_stay_parsed_within_a_bound_of_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = 2**20
    monkeypatch.setattr(held_object, "MOST_OPEN_BYTES", most)
    lists = {str(n): [[]] * 200 for n in range(LARGEST_PACKED // 1000)}
    text = json.dumps({"metadata": {}, "spec": lists}).encode()
    many = [hold(Kind.SERVICES, memoryview(text)) for _ in range(3 * most // len(text))]
    assert isinstance(many[0], HeldObject)
    forget_parsed()
    gc.collect()
    tracemalloc.start()
    for found in many:
        assert found["spec"].keys() == lists.keys()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    forget_parsed()
    assert taken < 20 * most, "parsed, these take 16 times their JSON"


@pytest.mark.parametrize(("name", "most"), [("ready_model", 20), ("crash", 60)])
def test_a_change_of_one_of_40_pods_parses_none_of_the_others_unless_their_output_is_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, most: int
) -> None:
    """The variables of a pod decide about its output; they are not kept parsed."""
    monkeypatch.setattr(held_object, "MOST_OPEN", 1)
    observed = [o for _, o in recording(name).states() if o][-1]
    cache, now = ObjectCache(lambda _: None), datetime.now(UTC)
    views, key = ServiceViews(cache), key_of(observed.service)

    def put(kind: Kind, found: Mapping[str, Any]) -> None:
        cache.changed(Resource(kind), WatchEvent("ADDED", hold_parsed(kind, dict(found))))

    def put_pod(number: int) -> None:
        found = json.loads(json.dumps(dict(observed.pods[0])))
        found["metadata"] |= {"uid": f"p{number}", "name": f"p{number}"}
        put(Kind.PODS, found)

    put(Kind.SERVICES, observed.service)
    for kind, children in (
        (Kind.DEPLOYMENTS, observed.deployments),
        (Kind.REPLICA_SETS, observed.replica_sets),
    ):
        for child in children:
            put(kind, child)
    for number in range(40):
        put_pod(number)
    assert views.derive(key, now)
    put_pod(7)
    parsed: list[bytes] = []
    parse = held_object._parse
    monkeypatch.setattr(held_object, "_parse", lambda text: parsed.append(text) or parse(text))
    assert views.derive(key, now)
    assert len(parsed) < most


@pytest.mark.parametrize("long_text", ["", "x" * LARGEST_PACKED], ids=["compressed", "as dicts"])
def test_results_of_parsers_are_kept_within_a_bound_of_bytes(
    monkeypatch: pytest.MonkeyPatch, long_text: str
) -> None:
    most = 2**20
    monkeypatch.setattr(parse_cache, "MOST_BYTES", most)
    many = 3 * most // LARGEST_PACKED
    lists = {str(n): [[]] * 200 for n in range(LARGEST_PACKED // 1000)}
    cache = ObjectCache(lambda _: None)
    found = [service(f"s{n}") for n in range(many)]
    for each in found:
        each["spec"]["predictor"] |= {**lists, "text": long_text}
    cache.listed(Resource(Kind.SERVICES), [held(each) for each in found], 0)
    copies: list[weakref.ref[Copy]] = []

    def copied(of: Object) -> Copy:
        copies.append(weakref.ref(made := Copy(of["spec"])))
        return made

    for observed in map(cache.observed, cache.keys()):
        assert observed
        assert isinstance(observed.service, HeldObject) == (not long_text)
        assert observed.cache.parse(copied, observed.service)
    kept = sum(1 for each in copies if each())
    assert 4 < kept < many / 2
    assert copies[-1]() is not None


class Copy(dict[str, Any]):
    """The result of a parser."""


def test_a_service_with_twenty_variables_is_held_in_less_than_its_json() -> None:
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
    assert (after - before) / 200 < len(texts[0])


def test_a_service_with_twenty_variables_and_its_state_take_less_than_ten_kibibytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside the services that were read last, which stay parsed: a bounded number of them."""
    monkeypatch.setattr(parse_cache, "MOST_CACHES", 1)
    texts = [json.dumps(service(f"s{n}")) for n in range(200)]
    now = datetime(2026, 1, 1, tzinfo=UTC)
    sink, cache = WatchCache(), ObjectCache(lambda _: None)
    views = ServiceViews(cache)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for text in texts:
        found = hold(Kind.SERVICES, memoryview(text.encode()))
        cache.changed(Resource(Kind.SERVICES), WatchEvent("ADDED", found))
        view = views.derive(key_of(found), now)
        assert view
        sink.put(view.service)
    del found, view
    forget_parsed()
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sink.count(ServiceKey(ALL, "")) == 200
    assert (after - before) / 200 < 10 * 2**10
