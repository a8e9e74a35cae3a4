"""What Get reads after an edit by others, given back to Deploy, is what stands: nothing moves."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from kubernetes.client.exceptions import ApiException

from lab import Cluster
from server.adapters.kserve.cluster import KServeCluster
from server.adapters.kserve.manifests.manifest import predictor_of
from server.adapters.kserve.manifests.object_parser import etag_of
from server.deadline import Deadline
from server.domain.errors import FieldConflict
from server.domain.service.canonical_spec import canonical_deploy, canonical_options
from server.domain.service.commands import Action, Delete, Deploy
from server.domain.service.inference_service import (
    InferenceService,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    ServiceKey,
    ServingPredictor,
)
from tests import strategies
from tests.patience import PATIENCE_SECONDS
from tests.seeds import chosen_seed

from .direct import PATH, stored
from .test_kserve_conformance import followed

SEED = chosen_seed()
UNFIT = "not part of `spec`"

Kind = st.SearchStrategy[ServingPredictor]
Edit = tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]
"""The way of writing, and what of metadata, of the predictor and of its model or container."""


@pytest.fixture(scope="module")
async def kserve(cluster: Cluster) -> AsyncIterator[KServeCluster]:
    async with followed(cluster) as (kserve, _):
        yield kserve
    await asyncio.sleep(0.2)  # the watches' TLS connections end while their loop still runs


@st.composite
def edited_services(draw: st.DrawFn) -> tuple[Deploy, list[Edit]]:
    """A Deploy, and what others then write, each of them some fields of another service."""
    kind = draw(st.sampled_from([strategies.containers, strategies.models]))
    spec = draw(strategies.specs(kind))
    labels, annotations = draw(strategies.labels), draw(strategies.annotations)
    key = ServiceKey("", f"s-{uuid.uuid4().hex[:8]}")
    edits = draw(st.lists(_edits(kind, labels, annotations), min_size=1, max_size=3))
    return Deploy(key, canonical_options(spec), labels, annotations), edits


@st.composite
def _edits(
    draw: st.DrawFn, kind: Kind, labels: Mapping[str, str], annotations: Mapping[str, str]
) -> Edit:
    predictor = predictor_of(draw(strategies.specs(kind)))
    serving = predictor.pop("model", None) or predictor.pop("containers")[0]
    serving.pop("name", None)
    metadata = {
        "labels": draw(_some(draw(strategies.labels), list(labels))),
        "annotations": draw(_some(draw(strategies.annotations), list(annotations))),
    }
    fields = ["minReplicas", "nodeSelector", "tolerations", "serviceAccountName", "timeout"]
    beside = draw(st.sampled_from([{}, {}, {}, {"logger": {"mode": "all"}}]))
    within = draw(st.sampled_from([{}, {}, {}, {"workingDir": "/tmp"}, {"tty": False}]))
    return (
        draw(st.sampled_from(["merge", "apply"])),
        metadata,
        draw(_some(predictor, fields)) | beside,
        draw(_some(serving, ["env", "resources", "imagePullPolicy"])) | within,
    )


def _some(theirs: Mapping[str, Any], held: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Some fields of theirs, and some that are removed, where they are there."""
    names = sorted({*theirs, *held})
    if not names:
        return st.just({})
    return st.sets(st.sampled_from(names), max_size=3).map(
        lambda chosen: {name: theirs.get(name) for name in sorted(chosen)}
    )


def _write(cluster: Cluster, key: ServiceKey, edit: Edit) -> None:
    """Write as kubectl would; what Kubernetes or KServe refuse is not written."""
    way, metadata, predictor, serving = copy.deepcopy(edit)
    held = stored(cluster, key)["spec"]["predictor"]
    if "model" in held:
        predictor["model"] = serving
    else:
        container = {**held["containers"][0], **serving}
        predictor["containers"] = [{k: v for k, v in container.items() if v is not None}]
    change = {"metadata": metadata, "spec": {"predictor": predictor}}
    query, content_type = "fieldManager=kubectl-edit", "application/merge-patch+json"
    if way == "apply":
        names = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}
        change = names | _present(change)
        query, content_type = "fieldManager=their-tool&force=true", "application/apply-patch+yaml"
    path = f"{PATH.format(key.namespace)}/{key.name}?{query}"
    try:
        cluster.request("PATCH", path, change, content_type)
    except ApiException as e:
        if e.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            raise


def _present(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _present(item) for name, item in value.items() if item is not None}
    return value


def _asked(cluster: Cluster, key: ServiceKey) -> Any:
    """All that the pods are made from, and the count of its changes."""
    now = stored(cluster, key)
    metadata = {k: now["metadata"].get(k) for k in ("generation", "labels", "annotations")}
    return metadata, now["spec"]


async def _edited_then_given_back(
    cluster: Cluster, kserve: KServeCluster, namespace: str, deploy: Deploy, edits: list[Edit]
) -> None:
    key = ServiceKey(namespace, deploy.key.name)
    await kserve.apply(Deploy(key, deploy.spec, deploy.labels, deploy.annotations))
    for edit in edits:
        await asyncio.to_thread(_write, cluster, key, edit)
    before = await asyncio.to_thread(_asked, cluster, key)
    got = await _read(cluster, kserve, key)
    back = canonical_deploy(Deploy(key, got.spec, got.labels, got.annotations))
    unfit = UNFIT in got.status.message
    # By force what does not fit would go.
    for deploy in (back,) if unfit else (back, replace(back, force=True)):
        with suppress(FieldConflict) if unfit else nullcontext():
            applied = await kserve.apply(deploy)
            assert (applied.action, applied.rollout) == (Action.UNCHANGED, got.rollout)
        assert await asyncio.to_thread(_asked, cluster, key) == before
    await kserve.delete(Delete(key))


async def _read(cluster: Cluster, kserve: KServeCluster, key: ServiceKey) -> InferenceService:
    """The service once the server has seen what others wrote."""
    etag = etag_of(await asyncio.to_thread(stored, cluster, key))
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (got := await kserve.read(key)) is None or got.etag != etag:
            await asyncio.sleep(0.01)
    return got


UNHURRIED = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


LABELLED = Deploy(
    ServiceKey("", "iris"),
    InferenceServiceSpec(
        ModelPredictor(ModelFormat("sklearn"), "gs://bucket/model"), env={"A": "1", "B": "2"}
    ),
    {"team": "a"},
    {"note": "x"},
)
ELSEWHERE = {"storageUri": "gs://theirs/model"}


@pytest.mark.parametrize("way", ["merge", "apply"])
@pytest.mark.parametrize(
    ("metadata", "predictor", "serving"),
    [
        ({"labels": {"team": "zz"}}, {}, {}),
        ({"annotations": {"note": "y"}}, {}, {}),
        ({}, {}, ELSEWHERE),
        ({}, {}, {"env": [{"name": "A", "value": "9"}, {"name": "B", "value": "2"}]}),
        ({}, {}, {"env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]}),
        ({}, {}, {"env": [{"name": "A", "value": "1"}, {"name": "C", "value": "3"}]}),
        ({}, {}, {"resources": {"limits": {"cpu": "1500m"}}}),
        ({}, {"nodeSelector": {"gpu": "yes"}}, {}),
        ({}, {"minReplicas": 2, "maxReplicas": 3}, {}),
    ],
    ids=["label", "annotation", "model", "value", "order", "variable", "limit", "node", "scaling"],
)
async def test_no_pod_moves_where_an_edit_by_others_is_given_back(
    cluster: Cluster,
    kserve: KServeCluster,
    namespace: str,
    way: str,
    metadata: dict[str, Any],
    predictor: dict[str, Any],
    serving: dict[str, Any],
) -> None:
    edit = (way, metadata, predictor, serving)
    await _edited_then_given_back(cluster, kserve, namespace, LABELLED, [edit])


async def test_what_stands_by_others_is_asked_for_and_only_the_ownership_moves(
    cluster: Cluster, kserve: KServeCluster, namespace: str
) -> None:
    key = ServiceKey(namespace, "iris")
    await kserve.apply(replace(LABELLED, key=key, deadline=Deadline.after(30)))
    await asyncio.to_thread(
        _write, cluster, key, ("merge", {"labels": {"team": "zz"}}, {}, ELSEWHERE)
    )
    before = await asyncio.to_thread(_asked, cluster, key)
    got = await _read(cluster, kserve, key)
    theirs = Deploy(key, got.spec, {"team": "zz"}, got.annotations)
    assert (await kserve.apply(theirs)).action is Action.UNCHANGED
    assert await asyncio.to_thread(_asked, cluster, key) == before
    assert (await _read(cluster, kserve, key)).labels == {"team": "zz"}
    # What our rollout_hash was made for comes back as a rollout of its own.
    forced = await kserve.apply(replace(LABELLED, key=key, force=True, deadline=Deadline.after(30)))
    assert forced.action is Action.UPDATED
    now = await asyncio.to_thread(_asked, cluster, key)
    rollout = "modelservice.dev/rollout"
    assert (
        now[1]["predictor"]["annotations"][rollout]
        != before[1]["predictor"]["annotations"][rollout]
    )


@settings(UNHURRIED, max_examples=15)
@seed(SEED)
@given(edited_services())
async def test_what_get_reads_after_edits_by_others_is_unchanged_when_given_back(
    cluster: Cluster, kserve: KServeCluster, namespace: str, service: tuple[Deploy, list[Edit]]
) -> None:
    print(f"to repeat these edits: MODELSERVICE_TEST_SEED={SEED}")
    await _edited_then_given_back(cluster, kserve, namespace, *service)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@settings(UNHURRIED, max_examples=1500)
@seed(SEED)
@given(edited_services())
async def test_what_get_reads_after_many_edits_by_others_is_unchanged_when_given_back(
    cluster: Cluster, kserve: KServeCluster, namespace: str, service: tuple[Deploy, list[Edit]]
) -> None:
    print(f"to repeat these edits: MODELSERVICE_TEST_SEED={SEED}")
    await _edited_then_given_back(cluster, kserve, namespace, *service)
