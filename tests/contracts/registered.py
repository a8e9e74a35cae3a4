"""Services that come from the registry, on any cluster."""

from __future__ import annotations

from dataclasses import replace

from server.domain.service.commands import Action, Deploy, Provenance
from server.domain.service.inference_service import (
    InferenceService,
    InferenceServiceSpec,
    RegisteredModelPredictor,
    Scaling,
)
from tests.contracts.world import Ability, World, deploy, needs, plain

FIRST = Provenance("model-1", "version-1", "environment-1", "service-1", "deployment-1")
LATER = replace(FIRST, deployment_id="deployment-2")
SECOND_VERSION = replace(LATER, version_id="version-2")
ORIGIN = "modelservice.dev/"


def named(spec: InferenceServiceSpec, version: str) -> InferenceServiceSpec:
    """The spec, as this version of a registered model."""
    predictor = RegisteredModelPredictor("fruit", "iris", "staging", version, spec.serving)
    return replace(spec, predictor=predictor)


def registered(
    world: World, version: str = "1", provenance: Provenance = FIRST, scaling: int = 0
) -> Deploy:
    """A version of a model to an environment, with the user's own labels."""
    most = Scaling(max_replicas=scaling or None)
    spec = named(plain(world, version, scaling=most), version)
    return deploy(world, spec, labels={"team": "a"}, provenance=provenance)


def origin(service: InferenceService) -> dict[str, str]:
    """The labels with the ids of the registry."""
    labels = service.selectable_labels
    return {key: text for key, text in labels.items() if key.startswith(ORIGIN)}


async def present(world: World, asked: Deploy) -> InferenceService:
    """The service as the cluster has it."""
    service = await world.cluster.read(asked.key)
    assert service is not None
    return service


class RegisteredConformance:
    """Names, ids and the deployment stay with a service for as long as it comes from there."""

    async def test_names_ids_and_the_deployment_are_stored_and_told(self, world: World) -> None:
        asked = registered(world)
        applied = await world.cluster.apply(asked)
        assert applied.action is Action.CREATED
        told = world.told
        await told.until("it", lambda: told.latest(asked.key))
        for service in (applied.service, await present(world, asked), told.latest(asked.key)):
            assert service is not None
            assert service.spec == asked.spec
            assert service.deployment_id == "deployment-1"
            assert service.labels == {"team": "a"}
            assert origin(service) == FIRST.labels

    async def test_given_back_it_is_unchanged_and_keeps_its_deployment(self, world: World) -> None:
        first = await world.cluster.apply(registered(world))
        read = await present(world, registered(world))
        back = deploy(world, read.spec, labels=read.labels, provenance=LATER)
        again = await world.cluster.apply(back)
        assert (again.action, again.rollout) == (Action.UNCHANGED, first.rollout)
        assert again.service.deployment_id == "deployment-1"
        assert again.service.etag == read.etag

    async def test_another_version_is_another_deployment(self, world: World) -> None:
        first = await world.cluster.apply(registered(world))
        asked = registered(world, "2", SECOND_VERSION)
        second = await world.cluster.apply(asked)
        assert second.action is Action.UPDATED
        assert second.rollout != first.rollout
        for service in (second.service, await present(world, asked)):
            assert (service.spec, service.deployment_id) == (asked.spec, "deployment-2")
            assert origin(service) == SECOND_VERSION.labels

    async def test_a_version_that_runs_the_same_is_another_deployment(self, world: World) -> None:
        first = await world.cluster.apply(registered(world))
        same = named(plain(world, "1"), "2")
        asked = deploy(world, same, labels={"team": "a"}, provenance=SECOND_VERSION)
        second = await world.cluster.apply(asked)
        assert (second.action, second.service.deployment_id) == (Action.UPDATED, "deployment-2")
        assert second.rollout != first.rollout
        assert second.service.spec == same

    async def test_a_change_of_scaling_alone_keeps_the_deployment(self, world: World) -> None:
        first = await world.cluster.apply(registered(world))
        scaled = await world.cluster.apply(registered(world, provenance=LATER, scaling=3))
        assert scaled.action is Action.UPDATED
        assert scaled.rollout != first.rollout
        assert scaled.service.deployment_id == "deployment-1"
        assert origin(scaled.service) == FIRST.labels

    async def test_a_bare_restart_keeps_names_ids_and_the_deployment(self, world: World) -> None:
        first = await world.cluster.apply(registered(world))
        restarted = await world.cluster.apply(deploy(world, None, restart=True))
        assert restarted.action is Action.RESTARTED
        assert restarted.service.spec == first.service.spec
        assert restarted.service.deployment_id == "deployment-1"
        assert origin(restarted.service) == FIRST.labels
        again = await world.cluster.apply(registered(world, provenance=LATER))
        assert (again.action, again.rollout) == (Action.UNCHANGED, restarted.rollout)

    async def test_a_stop_and_a_start_keep_names_ids_and_the_deployment(self, world: World) -> None:
        needs(world, Ability.STOPPING)
        asked = registered(world)
        await world.cluster.apply(asked)
        for stop in (True, False):
            applied = await world.cluster.apply(deploy(world, None, stop=stop))
            assert applied.service.spec == asked.spec
            assert applied.service.deployment_id == "deployment-1"
            assert origin(applied.service) == FIRST.labels

    async def test_a_restart_with_the_same_version_keeps_the_deployment(self, world: World) -> None:
        await world.cluster.apply(registered(world))
        restart = replace(registered(world, provenance=LATER), restart=True)
        restarted = await world.cluster.apply(restart)
        assert restarted.action is Action.RESTARTED
        assert restarted.service.deployment_id == "deployment-1"

    async def test_a_plain_deploy_over_it_leaves_nothing_of_the_registry(
        self, world: World
    ) -> None:
        first = await world.cluster.apply(registered(world))
        asked = deploy(world, plain(world, "1"), labels={"team": "a"})
        bare = await world.cluster.apply(asked)
        assert bare.action is Action.UPDATED
        assert bare.rollout != first.rollout
        for service in (bare.service, await present(world, asked)):
            assert (service.spec, service.deployment_id) == (asked.spec, "")
            assert not origin(service)

    async def test_what_was_plain_comes_from_the_registry_by_a_deploy(self, world: World) -> None:
        await world.cluster.apply(deploy(world, plain(world, "1"), labels={"team": "a"}))
        applied = await world.cluster.apply(registered(world))
        assert (applied.action, applied.service.deployment_id) == (Action.UPDATED, "deployment-1")

    async def test_a_retry_is_known_by_what_the_caller_asked(self, world: World) -> None:
        asked = replace(registered(world), request_id="job-1", sent_hash="as the caller has it")
        first = await world.cluster.apply(asked)
        moved = registered(world, "2", SECOND_VERSION)
        moved = replace(moved, request_id="job-1", sent_hash="as the caller has it")
        again = await world.cluster.apply(moved)
        assert (again.action, again.rollout) == (Action.CREATED, first.rollout)
        assert again.service.deployment_id == "deployment-1"
        assert (await present(world, asked)).spec == asked.spec

    async def test_a_dry_run_names_no_deployment_of_its_own(self, world: World) -> None:
        tried = replace(registered(world), validate_only=True)
        tried = replace(tried, provenance=replace(FIRST, deployment_id=""))
        would = await world.cluster.apply(tried)
        assert (would.action, would.service.deployment_id) == (Action.CREATED, "")
        assert would.service.spec == tried.spec
        await world.cluster.apply(registered(world))
        would = await world.cluster.apply(tried)
        assert (would.action, would.service.deployment_id) == (Action.UNCHANGED, "deployment-1")
