"""What Deploy and Delete do on a real API server, whoever else writes."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from lab import Cluster
from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.cluster import KServeCluster
from server.domain.errors import (
    EtagMismatch,
    FieldConflict,
    NotManaged,
    ServiceDeleting,
    ServiceNotFound,
    UpdatesDisabled,
)
from server.domain.rollout.status import State
from server.domain.service.canonical_spec import canonical_options
from server.domain.service.commands import STOP_ANNOTATION, Action, Applied, Delete, Deploy
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceService,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    Resources,
    Scaling,
    ServiceKey,
)
from tests import strategies
from tests.contracts.world import following
from tests.patience import PATIENCE_SECONDS

from .direct import create, edit, hold, let_go, remove, stored, wait_ready
from .objects import written
from .test_kserve_conformance import followed

MODEL = InferenceServiceSpec(ModelPredictor(ModelFormat("sklearn"), "gs://bucket/model"))
CONTAINER = InferenceServiceSpec(ContainerPredictor("registry.example/iris:1"))


@pytest.fixture
async def kserve(cluster: Cluster) -> AsyncIterator[KServeCluster]:
    async with followed(cluster) as (kserve, _):
        yield kserve


@pytest.fixture
async def behind(cluster: Cluster) -> AsyncIterator[KServeCluster]:
    """A replica whose view stands still from now on."""
    api = await ApiServer.connect(str(cluster.kubeconfig))
    kserve = KServeCluster(api)
    async with following(kserve):
        pass
    yield kserve
    await api.close()


@pytest.fixture
def key(namespace: str) -> ServiceKey:
    return ServiceKey(namespace, "iris")


async def present(kserve: KServeCluster, key: ServiceKey) -> InferenceService:
    service = await kserve.read(key)
    assert service
    return service


async def _told(kserve: KServeCluster, key: ServiceKey, state: State) -> None:
    """Return once the service is in this state."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await present(kserve, key)).status.state is not state:
            await asyncio.sleep(0.1)


def outcome(applied: Applied) -> tuple[Action, Any]:
    return applied.action, applied.rollout


# --- the same again ---


@pytest.mark.parametrize("spec", [MODEL, CONTAINER], ids=["model", "container"])
async def test_the_same_deploy_again_does_not_touch_the_object(
    cluster: Cluster, kserve: KServeCluster, key: ServiceKey, spec: InferenceServiceSpec
) -> None:
    deploy = Deploy(key, spec, {"team": "a"}, {"note": "x"})
    made = await kserve.apply(deploy)
    await asyncio.to_thread(wait_ready, cluster, key)
    before = await asyncio.to_thread(written, cluster, key.namespace, key.name)
    again = await kserve.apply(deploy)
    assert outcome(again) == (Action.UNCHANGED, made.rollout)
    assert await asyncio.to_thread(written, cluster, key.namespace, key.name) == before


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(strategies.specs().map(canonical_options), strategies.labels, strategies.annotations)
async def test_what_get_gives_can_be_given_back_to_deploy(
    kserve: KServeCluster,
    namespace: str,
    spec: InferenceServiceSpec,
    labels: dict[str, str],
    annotations: dict[str, str],
) -> None:
    key = ServiceKey(namespace, f"s-{uuid.uuid4().hex[:8]}")
    asked = Deploy(key, spec, labels, annotations)
    made = await kserve.apply(asked)
    got = await present(kserve, key)
    assert (got.spec, got.labels, got.annotations) == (spec, labels, annotations)
    again = await kserve.apply(Deploy(key, got.spec, got.labels, got.annotations))
    assert outcome(again) == (Action.UNCHANGED, made.rollout)
    await kserve.delete(Delete(key))


# --- views that are behind ---


async def test_a_view_that_is_behind_refuses_nothing_by_memory(
    cluster: Cluster, kserve: KServeCluster, behind: KServeCluster, key: ServiceKey
) -> None:
    made = await kserve.apply(Deploy(key, MODEL, request_id="ci-1"))
    replayed = await behind.apply(Deploy(key, MODEL, request_id="ci-1"))
    assert outcome(replayed) == (Action.CREATED, made.rollout)
    edited = await behind.apply(Deploy(key, CONTAINER, etag=(await present(kserve, key)).etag))
    assert edited.action is Action.UPDATED
    # `kserve` may not have seen that yet, and must not overwrite it by its etag's leave.
    with pytest.raises(EtagMismatch):
        await kserve.apply(Deploy(key, MODEL, etag=made.service.etag))
    assert (await present(behind, key)).spec == CONTAINER


async def test_a_write_by_an_old_view_does_not_resurrect_a_deleted_service(
    cluster: Cluster, behind: KServeCluster, key: ServiceKey
) -> None:
    made = await behind.apply(Deploy(key, MODEL))
    await asyncio.to_thread(remove, cluster, key)
    with pytest.raises(ServiceNotFound):
        await behind.apply(Deploy(key, CONTAINER, etag=made.service.etag))
    with pytest.raises(ServiceNotFound):
        await behind.apply(Deploy(key, None, restart=True))
    with pytest.raises(ServiceNotFound):
        await behind.delete(Delete(key))
    assert await behind.read(key) is None
    again = await behind.apply(Deploy(key, CONTAINER))
    assert again.action is Action.CREATED
    assert again.service.uid != made.service.uid


async def test_a_service_that_was_made_anew_by_others_is_not_ours(
    cluster: Cluster, behind: KServeCluster, key: ServiceKey
) -> None:
    await behind.apply(Deploy(key, MODEL))
    await asyncio.to_thread(remove, cluster, key)
    theirs = await asyncio.to_thread(
        create, cluster, key, {"model": {"modelFormat": {"name": "m"}}}
    )
    for attempt in (behind.apply(Deploy(key, CONTAINER)), behind.delete(Delete(key))):
        with pytest.raises(NotManaged):
            await attempt
    now = await asyncio.to_thread(stored, cluster, key)
    assert now["metadata"]["uid"] == theirs["metadata"]["uid"]
    assert now["metadata"]["generation"] == 1


async def test_of_two_writers_with_one_etag_one_wins(
    kserve: KServeCluster, behind: KServeCluster, key: ServiceKey
) -> None:
    etag = (await kserve.apply(Deploy(key, MODEL))).service.etag
    writers = [
        writer.apply(Deploy(key, dataclasses.replace(MODEL, env={"N": str(n)}), etag=etag))
        for n, writer in enumerate([kserve, behind] * 3)
    ]
    outcomes = await asyncio.gather(*writers, return_exceptions=True)
    won = [o for o in outcomes if isinstance(o, Applied)]
    assert [o.action for o in won] == [Action.UPDATED]
    assert all(isinstance(o, EtagMismatch) for o in outcomes if not isinstance(o, Applied))
    assert (await present(kserve, key)).spec == won[0].service.spec


async def test_one_request_id_is_one_rollout_whoever_is_asked_how_often(
    kserve: KServeCluster, behind: KServeCluster, key: ServiceKey
) -> None:
    deploy = Deploy(key, MODEL, request_id="ci-1")
    outcomes = await asyncio.gather(*(r.apply(deploy) for r in [kserve, behind] * 4))
    assert len({outcome(o) for o in outcomes}) == 1
    assert (await present(kserve, key)).generation == 1


# --- services that are going ---


async def test_nothing_is_deployed_onto_a_service_that_is_going(
    cluster: Cluster, kserve: KServeCluster, behind: KServeCluster, key: ServiceKey
) -> None:
    await behind.apply(Deploy(key, MODEL, request_id="ci-1"))
    await asyncio.to_thread(hold, cluster, key)
    await kserve.delete(Delete(key))
    try:
        for replica in (kserve, behind):
            for deploy in (
                Deploy(key, CONTAINER),
                Deploy(key, MODEL, request_id="ci-1"),
                Deploy(key, CONTAINER, force=True),
                Deploy(key, None, restart=True),
            ):
                with pytest.raises(ServiceDeleting):
                    await replica.apply(deploy)
            again = await replica.delete(Delete(key))
            assert again.status.state is State.DELETING
    finally:
        await asyncio.to_thread(let_go, cluster, key)


async def test_a_delete_that_is_only_tried_deletes_nothing(
    cluster: Cluster, kserve: KServeCluster, key: ServiceKey
) -> None:
    await kserve.apply(Deploy(key, MODEL))
    await kserve.delete(Delete(key, validate_only=True))
    assert "deletionTimestamp" not in (await asyncio.to_thread(stored, cluster, key))["metadata"]


# --- fields of others ---


async def test_a_dry_run_is_not_ready_by_the_rollout_that_stands(
    cluster: Cluster, kserve: KServeCluster, key: ServiceKey
) -> None:
    await kserve.apply(Deploy(key, MODEL))
    edited = {"spec": {"predictor": {"model": {"storageUri": "gs://theirs/model"}}}}
    await asyncio.to_thread(edit, cluster, key, edited)
    await asyncio.to_thread(wait_ready, cluster, key)
    await _told(kserve, key, State.READY)
    forced = Deploy(key, MODEL, force=True, validate_only=True)
    would = await kserve.apply(forced)
    assert (would.action, would.service.status.state) == (Action.UPDATED, State.PROGRESSING)
    assert (await present(kserve, key)).status.state is State.READY


async def test_others_values_are_overwritten_by_force_only(
    cluster: Cluster, kserve: KServeCluster, key: ServiceKey
) -> None:
    scaled = dataclasses.replace(MODEL, scaling=Scaling(1, 3))
    await kserve.apply(Deploy(key, scaled))
    await asyncio.to_thread(edit, cluster, key, {"spec": {"predictor": {"minReplicas": 2}}})
    with pytest.raises(FieldConflict) as refused:
        await kserve.apply(Deploy(key, scaled))
    assert refused.value.metadata == {
        "fields": "spec.predictor.minReplicas",
        "owner": "kubectl-edit",
    }
    assert (await present(kserve, key)).spec == dataclasses.replace(MODEL, scaling=Scaling(2, 3))
    await kserve.apply(Deploy(key, scaled, force=True))
    assert (await present(kserve, key)).spec == scaled


async def test_a_part_of_the_predictor_that_others_own_keeps_its_kind_without_force(
    cluster: Cluster, kserve: KServeCluster, key: ServiceKey
) -> None:
    await kserve.apply(Deploy(key, MODEL))
    probe = {"readinessProbe": {"tcpSocket": {"port": 8080}}}
    await asyncio.to_thread(edit, cluster, key, {"spec": {"predictor": {"model": probe}}})
    with pytest.raises(FieldConflict) as refused:
        await kserve.apply(Deploy(key, CONTAINER))
    assert refused.value.metadata["owner"] == "kubectl-edit"
    forced = await kserve.apply(Deploy(key, CONTAINER, force=True))
    assert forced.action is Action.UPDATED
    assert (await present(kserve, key)).spec == CONTAINER


THEIRS = {
    "model": {
        "modelFormat": {"name": "sklearn"},
        "storageUri": "gs://theirs/model",
        "env": [{"name": "THEIRS", "value": "1"}],
    },
    "logger": {"mode": "all"},
}


@pytest.mark.parametrize("wanted", [MODEL, CONTAINER], ids=["model", "container"])
@pytest.mark.parametrize(
    "theirs", [THEIRS, {"sklearn": {"storageUri": "gs://theirs/model"}}], ids=["model", "legacy"]
)
async def test_force_adopts_a_service_as_the_deploy_has_it(
    cluster: Cluster,
    kserve: KServeCluster,
    key: ServiceKey,
    theirs: dict[str, Any],
    wanted: InferenceServiceSpec,
) -> None:
    await asyncio.to_thread(create, cluster, key, theirs)
    with pytest.raises(NotManaged):
        await kserve.apply(Deploy(key, wanted))
    forced = Deploy(key, wanted, {"team": "a"}, force=True)
    tried = await kserve.apply(dataclasses.replace(forced, validate_only=True))
    assert (await present(kserve, key)).unmanaged
    adopted = await kserve.apply(forced)
    assert adopted.action is tried.action is Action.UPDATED
    now = await present(kserve, key)
    assert (now.spec, now.unmanaged, now.labels) == (wanted, False, {"team": "a"})
    assert (tried.service.spec, tried.service.labels) == (wanted, {"team": "a"})
    again = await kserve.apply(dataclasses.replace(forced, force=False))
    assert outcome(again) == (Action.UNCHANGED, adopted.rollout)


HARDENED = THEIRS | {
    "automountServiceAccountToken": False,
    "volumes": [{"name": "scratch", "emptyDir": {}}],
}


async def test_an_adoption_names_all_that_it_takes_away(
    cluster: Cluster, kserve: KServeCluster, key: ServiceKey
) -> None:
    before = await asyncio.to_thread(create, cluster, key, HARDENED)
    lost = [f"spec.predictor.{name}" for name in ("automountServiceAccountToken", "logger")]
    told = ", ".join([*lost, "spec.predictor.volumes"])
    got = await present(kserve, key)
    assert got.status.message.endswith(f"not part of `spec`: {told}")
    forced = Deploy(key, got.spec, got.labels, got.annotations, force=True)
    tried = await kserve.apply(dataclasses.replace(forced, validate_only=True))
    assert tried.service.status.message.endswith(f"removed from the service: {told}")
    assert (await asyncio.to_thread(stored, cluster, key))["spec"] == before["spec"]
    adopted = await kserve.apply(forced)
    assert adopted.service.status.message.endswith(f"removed from the service: {told}")
    assert adopted.service.spec == got.spec
    predictor = (await asyncio.to_thread(stored, cluster, key))["spec"]["predictor"]
    assert not predictor.keys() & {"automountServiceAccountToken", "logger", "volumes"}


async def test_a_bare_restart_of_an_adopted_service_keeps_all_of_it(
    cluster: Cluster, kserve: KServeCluster, key: ServiceKey
) -> None:
    before = await asyncio.to_thread(create, cluster, key, THEIRS)
    await kserve.apply(Deploy(key, None, restart=True, force=True))
    predictor = (await asyncio.to_thread(stored, cluster, key))["spec"]["predictor"]
    assert predictor.pop("annotations")
    assert predictor == before["spec"]["predictor"]


async def test_a_stopped_service_is_not_started_by_chance(
    cluster: Cluster, kserve: KServeCluster, key: ServiceKey
) -> None:
    def stop() -> Any:
        return stored(cluster, key)["metadata"].get("annotations", {}).get(STOP_ANNOTATION)

    await kserve.apply(Deploy(key, MODEL, annotations={STOP_ANNOTATION: "true"}))
    await kserve.apply(Deploy(key, CONTAINER))
    assert await asyncio.to_thread(stop) == "true"
    await kserve.apply(Deploy(key, CONTAINER, annotations={STOP_ANNOTATION: "false"}))
    assert await asyncio.to_thread(stop) == "false"


async def test_what_kserve_would_not_carry_out_is_refused(
    cluster: Cluster, kserve: KServeCluster, key: ServiceKey
) -> None:
    made = await kserve.apply(Deploy(key, MODEL))
    await asyncio.to_thread(wait_ready, cluster, key)
    off = {"metadata": {"annotations": {"serving.kserve.io/disable-auto-update": "true"}}}
    await asyncio.to_thread(edit, cluster, key, off)
    assert outcome(await kserve.apply(Deploy(key, MODEL))) == (Action.UNCHANGED, made.rollout)
    for change in (Deploy(key, CONTAINER), Deploy(key, None, restart=True)):
        with pytest.raises(UpdatesDisabled):
            await kserve.apply(change)
    assert (await present(kserve, key)).generation == 1


# --- resources ---


@pytest.mark.parametrize("spec", [MODEL, CONTAINER], ids=["model", "container"])
@pytest.mark.parametrize(
    "resources",
    [Resources({"memory": "4Gi"}), Resources({}, {"cpu": "250m"})],
    ids=["large request", "small limit"],
)
async def test_defaults_give_way_so_that_pods_can_be_made(
    kserve: KServeCluster, cluster: Cluster, key: ServiceKey, spec: Any, resources: Resources
) -> None:
    await kserve.apply(Deploy(key, dataclasses.replace(spec, resources=resources)))
    await asyncio.to_thread(wait_ready, cluster, key)
