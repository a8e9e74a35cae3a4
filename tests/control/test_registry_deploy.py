"""A registered model is deployed by name, and is on record from before the cluster is touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from server import failpoints
from server.adapters.no_registry import NoRegistry
from server.control.authorizer import Authorizer
from server.control.call import Call
from server.control.watch_cache import WatchCache
from server.domain.errors import (
    AlreadyExists,
    ErrorReason,
    FieldInvalid,
    NamespaceNotServed,
    PolicyRefused,
    ServiceError,
    ViewNotReady,
    WriteOutcomeUnknown,
)
from server.domain.registry.deployment import DeploymentState, content_of
from server.domain.registry.registered import VersionState
from server.domain.registry.registry_errors import (
    EnvironmentNamespaceFixed,
    EnvironmentNotFound,
    ModelNotFound,
    NoDeployableVersion,
    RegistryDisabled,
    RegistryUnavailable,
    VersionArchived,
    VersionNotFound,
    VersionNotReady,
)
from server.domain.service.commands import Action
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceServiceSpec,
    ModelPredictor,
    RegisteredModelPredictor,
    Resources,
    Scaling,
    ServiceKey,
    ServingOptions,
)
from tests.control.registry_control import SKLEARN, Registering
from tests.control.registry_world import FailingRegistry, RegistryWorld
from tests.failpoints import armed

PLAIN = InferenceServiceSpec(ContainerPredictor("registry.example/theirs:1"))


class Died(BaseException):
    """The end of a server, at a failpoint."""


def die() -> None:
    raise Died


@pytest.fixture
async def world(registering: Registering) -> AsyncIterator[RegistryWorld]:
    async with RegistryWorld(registering).followed() as world:
        yield world


def version_of(applied: Any) -> str:
    predictor = applied.service.spec.predictor
    assert isinstance(predictor, RegisteredModelPredictor)
    return predictor.version


async def test_a_version_is_deployed_to_its_environment_under_a_name_of_its_own(
    world: RegistryWorld,
) -> None:
    await world.prepare("1")
    applied = await world.deploy("1")
    assert applied.action is Action.CREATED
    service = world.service()
    assert service is not None
    assert service.spec == InferenceServiceSpec(
        RegisteredModelPredictor(
            world.registering.project,
            "fraud",
            "staging",
            "1",
            resolved=ModelPredictor(SKLEARN, "s3://models/fraud/1"),
        )
    )
    assert service.rollout == applied.rollout
    cached = world.cache.get(service.key)
    assert cached is not None
    assert cached.rollout == applied.rollout


async def test_its_record_and_its_labels_say_what_it_was_made_from(world: RegistryWorld) -> None:
    await world.prepare("1")
    applied = await world.deploy("1")
    [record] = await world.records()
    assert record.id == applied.service.deployment_id
    assert (record.model, record.version, record.environment) == ("fraud", "1", "staging")
    assert record.service == ServiceKey(world.namespace, "fraud-staging")
    assert (record.state, record.rollout) == (DeploymentState.PENDING, applied.rollout)
    assert record.content == content_of(applied.service.spec)
    labels = applied.service.selectable_labels
    assert labels["modelservice.dev/registered-model-id"] == record.model_id
    assert labels["modelservice.dev/model-version-id"] == record.version_id
    assert labels["modelservice.dev/environment-id"] == record.environment_id
    assert labels["modelservice.dev/service-id"]


async def test_a_new_version_is_a_rollout_of_the_same_service(world: RegistryWorld) -> None:
    await world.prepare("1", "2")
    first = await world.deploy("1")
    second = await world.deploy("2")
    assert second.action is Action.UPDATED
    assert second.service.uid == first.service.uid
    assert [r.version for r in await world.records()] == ["2", "1"]
    ids = [
        s.selectable_labels["modelservice.dev/service-id"] for s in (first.service, second.service)
    ]
    assert ids[0] == ids[1]


async def test_without_a_version_it_is_the_default_else_the_newest_that_is_ready(
    world: RegistryWorld,
) -> None:
    await world.prepare("1", "2", "3")
    await world.registering.new_version("4", state=VersionState.PENDING)
    await world.registering.archive("3")
    assert version_of(await world.deploy()) == "2"
    await world.registering.change_model(default_version="1")
    assert version_of(await world.deploy()) == "1"


async def test_what_is_no_container_image_never_becomes_a_runtime(world: RegistryWorld) -> None:
    await world.prepare()
    image = "registry.example/fraud:7"
    await world.registering.new_version("7", image=image, storage_uri="", format=None)
    applied = await world.deploy()
    assert applied.service.spec
    assert applied.service.spec.serving == ContainerPredictor(image)


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        ({"names": {"model": "absent"}}, ModelNotFound),
        ({"version": "9"}, VersionNotFound),
        ({"version": "3"}, VersionNotReady),
        ({"version": "2"}, VersionArchived),
        ({"names": {"environment": "absent"}}, EnvironmentNotFound),
        ({"namespace": "another"}, EnvironmentNamespaceFixed),
    ],
    ids=lambda asked: getattr(asked, "__name__", ""),
)
async def test_what_cannot_be_deployed_is_refused_and_leaves_no_record(
    world: RegistryWorld, asked: dict[str, Any], refusal: type[ServiceError]
) -> None:
    await world.prepare("1", "2")
    await world.registering.archive("2")
    await world.registering.new_version("3", state=VersionState.PENDING)
    with pytest.raises(refusal):
        await world.deploy(**asked)
    assert await world.records() == []
    assert world.service() is None


async def test_a_model_without_a_version_to_deploy_is_refused(world: RegistryWorld) -> None:
    await world.prepare("1")
    await world.registering.archive("1")
    with pytest.raises(NoDeployableVersion):
        await world.deploy()


async def test_a_namespace_that_is_not_served_is_refused(world: RegistryWorld) -> None:
    await world.prepare("1")
    world.authorizer = Authorizer("elsewhere", frozenset({"elsewhere"}))
    with pytest.raises(NamespaceNotServed):
        await world.deploy()
    assert await world.records() == []


async def test_the_environments_namespace_may_be_named(world: RegistryWorld) -> None:
    await world.prepare("1")
    applied = await world.deploy(name="mine", namespace=world.namespace)
    assert applied.service.key == ServiceKey(world.namespace, "mine")


async def test_defaults_of_the_environment_stand_under_what_is_asked(world: RegistryWorld) -> None:
    defaults = ServingOptions(env={"A": "default", "B": "default"}, scaling=Scaling(1, 5))
    await world.prepare("1", defaults=defaults)
    asked = {"env": {"B": "mine"}, "scaling": Scaling(max_replicas=3)}
    applied = await world.deploy(options=asked)
    spec = applied.service.spec
    assert spec
    assert spec.env == {"A": "default", "B": "mine"}
    assert spec.scaling == Scaling(1, 3)
    back = replace(world.deploy_of(), spec=spec)
    assert (await world.carry_out(back)).action is Action.UNCHANGED


async def test_everything_wrong_is_reported_with_its_path(world: RegistryWorld) -> None:
    await world.prepare("1", defaults=ServingOptions(scaling=Scaling(max_replicas=3)))
    asked = {"env": {"A=B": "1"}, "scaling": Scaling(5), "resources": Resources({"cpu": "much"})}
    with pytest.raises(FieldInvalid) as refused:
        await world.deploy(name="Not-A-Name", options=asked, request_id="?")
    violations = dict(refused.value.violations)
    assert violations.keys() == {
        "name",
        "request_id",
        'spec.env["A=B"]',
        'spec.resources.requests["cpu"]',
        "spec.scaling.min_replicas",
    }
    assert "defaults of environment 'staging'" in violations["spec.scaling.min_replicas"]
    assert "defaults" not in violations['spec.env["A=B"]']
    assert await world.records() == []


async def test_impossible_names_are_reported_before_the_registry_is_asked(
    world: RegistryWorld,
) -> None:
    world.registry = NoRegistry()
    with pytest.raises(FieldInvalid) as refused:
        await world.deploy("?", names={"model": "Fraud\0", "environment": ""})
    assert [path.rpartition(".")[2] for path, _ in refused.value.violations] == [
        "model",
        "environment",
        "version",
    ]
    with pytest.raises(RegistryDisabled):
        await world.deploy()


async def test_an_unchanged_deploy_makes_no_record(world: RegistryWorld) -> None:
    await world.prepare("1")
    first = await world.deploy()
    again = await world.deploy()
    assert (again.action, again.rollout) == (Action.UNCHANGED, first.rollout)
    assert again.service.deployment_id == first.service.deployment_id
    assert [r.id for r in await world.records()] == [first.service.deployment_id]


async def test_a_change_of_scaling_alone_makes_no_record(world: RegistryWorld) -> None:
    await world.prepare("1")
    first = await world.deploy()
    scaled = await world.deploy(options={"scaling": Scaling(2, 4)})
    assert scaled.action is Action.UPDATED
    assert scaled.rollout != first.rollout
    assert scaled.service.deployment_id == first.service.deployment_id
    assert [r.id for r in await world.records()] == [first.service.deployment_id]


@pytest.mark.parametrize("bare", [True, False], ids=["bare", "whole"])
async def test_a_restart_makes_no_record(world: RegistryWorld, bare: bool) -> None:
    await world.prepare("1")
    first = await world.deploy()
    if bare:
        world.registry = NoRegistry()
        restarted = await world.plain(None, "fraud-staging", restart=True)
    else:
        restarted = await world.deploy(restart=True)
    assert restarted.action is Action.RESTARTED
    assert restarted.service.spec == first.service.spec
    assert restarted.service.deployment_id == first.service.deployment_id
    assert [r.id for r in await world.records()] == [first.service.deployment_id]


async def test_a_dry_run_resolves_and_records_nothing(world: RegistryWorld) -> None:
    await world.prepare("1")
    would = await world.deploy(validate_only=True)
    assert (would.action, would.rollout, would.service.deployment_id) == (Action.CREATED, None, "")
    assert version_of(would) == "1"
    assert await world.records() == []
    assert world.service() is None


async def test_a_retry_is_the_first_rollout_although_the_default_has_moved(
    world: RegistryWorld,
) -> None:
    await world.prepare("1", "2")
    await world.registering.change_model(default_version="1")
    first = await world.deploy(request_id="job-1")
    await world.registering.change_model(default_version="2")
    again = await world.deploy(request_id="job-1")
    assert (again.action, again.rollout) == (Action.CREATED, first.rollout)
    assert version_of(again) == "1"
    assert [r.version for r in await world.records()] == ["1"]


async def test_retries_at_the_same_time_are_one_rollout_and_one_record(
    world: RegistryWorld,
) -> None:
    await world.prepare("1")
    answers = await asyncio.gather(*(world.deploy(request_id="job-1") for _ in range(5)))
    assert len({answer.rollout for answer in answers}) == 1
    assert [r.id for r in await world.records()] == [answers[0].service.deployment_id]


async def test_a_derived_name_that_is_there_already_is_not_taken(world: RegistryWorld) -> None:
    await world.prepare("1")
    theirs = await world.plain(PLAIN, "fraud-staging")
    with pytest.raises(AlreadyExists, match="give a name"):
        await world.deploy()
    present = world.service()
    assert present is not None
    assert (present.rollout, present.spec) == (theirs.rollout, PLAIN)
    assert await world.records() == []
    named = await world.deploy(name="fraud-staging")
    assert named.service.uid == theirs.service.uid


async def test_a_derived_name_is_not_taken_before_it_is_known_whether_it_is_there(
    world: RegistryWorld,
) -> None:
    await world.prepare("1")
    await world.plain(PLAIN, "fraud-staging")
    world.cache = WatchCache()
    with pytest.raises(ViewNotReady):
        await world.deploy()
    assert await world.records() == []
    present = world.service()
    assert present is not None
    assert present.spec == PLAIN


async def test_of_two_models_of_one_derived_name_one_gets_it(world: RegistryWorld) -> None:
    for model, environment in (("a-b", "c"), ("a", "b-c")):
        await world.registering.new_model(model)
        await world.registering.new_version("1", model)
        await world.registering.new_environment(environment, namespace=world.namespace)
    answers = await asyncio.gather(
        world.deploy(names={"model": "a-b", "environment": "c"}),
        world.deploy(names={"model": "a", "environment": "b-c"}),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, AlreadyExists) for answer in answers) == 1
    assert len(await world.records()) == 1


async def test_another_projects_model_does_not_get_the_name(
    world: RegistryWorld, registering: Registering
) -> None:
    await world.prepare("1")
    await world.deploy()
    other = RegistryWorld(
        Registering(registering.registry, "another-project"), world.namespace, world.memory
    )
    other.cache = world.cache
    await other.prepare("1")
    with pytest.raises(AlreadyExists, match="give a name"):
        await other.deploy()
    with pytest.raises(AlreadyExists, match="set force"):
        await other.deploy(name="fraud-staging")
    assert [record.project for record in await world.records()] == [registering.project]
    taken = await other.deploy(name="fraud-staging", force=True)
    assert taken.action is Action.UPDATED


async def test_in_a_registry_that_was_made_anew_the_name_is_still_its_own(
    world: RegistryWorld,
) -> None:
    await world.prepare("1")
    first = await world.deploy()
    for record in await world.records():
        await world.registering.undeployed(record)
    await world.registering.models.delete(
        Call(), world.registering.model(), etag="", allow_missing=False
    )
    await world.registering.new_model()
    await world.registering.new_version("1")
    again = await world.deploy()
    assert (again.action, again.service.uid) == (Action.UPDATED, first.service.uid)


async def test_a_deploy_that_the_cluster_refuses_ends_failed_with_its_error(
    world: RegistryWorld,
) -> None:
    await world.prepare("1")
    world.memory.fail_next_write(PolicyRefused("the webhook says no"))
    with pytest.raises(PolicyRefused):
        await world.deploy()
    [record] = await world.records()
    assert (record.state, record.rollout) == (DeploymentState.FAILED, None)
    assert record.error_reason == ErrorReason.POLICY_REFUSED
    assert record.error_message == "the webhook says no"
    assert record.end_time == record.update_time >= record.create_time


async def test_what_no_answer_came_to_stays_pending(world: RegistryWorld) -> None:
    await world.prepare("1")
    world.memory.fail_next_write(WriteOutcomeUnknown("no answer"))
    with pytest.raises(WriteOutcomeUnknown):
        await world.deploy()
    [record] = await world.records()
    assert (record.state, record.end_time) == (DeploymentState.PENDING, None)


@pytest.mark.parametrize(
    ("point", "recorded", "stored"),
    [("before-record", 0, False), ("after-record", 1, False), ("before-outcome", 1, True)],
)
async def test_the_record_is_there_before_the_cluster_is_touched(
    world: RegistryWorld, point: failpoints.Name, recorded: int, stored: bool
) -> None:
    await world.prepare("1")
    with armed(point, die), pytest.raises(Died):
        await world.deploy()
    records = await world.records()
    assert len(records) == recorded
    assert all(r.state is DeploymentState.PENDING and not r.rollout for r in records)
    assert [s.deployment_id for s in [world.service()] if s] == [r.id for r in records if stored]


async def test_a_retry_stores_the_rollout_in_the_first_record_when_its_server_died_before(
    world: RegistryWorld,
) -> None:
    await world.prepare("1")
    with armed("before-outcome", die), pytest.raises(Died):
        await world.deploy(request_id="job-1")
    again = await world.deploy(request_id="job-1")
    [record] = await world.records()
    assert (record.id, record.rollout) == (again.service.deployment_id, again.rollout)


async def unavailable() -> None:
    raise RegistryUnavailable("the registry's database does not answer")


async def silent() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("fault", [unavailable, silent])
async def test_a_registry_that_fails_after_the_cluster_has_stored_fails_no_answer(
    world: RegistryWorld, fault: Any
) -> None:
    await world.prepare("1")
    world.registry = FailingRegistry(world.registering.registry, 1, fault)
    async with asyncio.timeout(20):
        applied = await world.deploy()
    assert applied.action is Action.CREATED
    [record] = await world.records()
    assert (record.id, record.rollout) == (applied.service.deployment_id, None)


@pytest.mark.parametrize("fault", [unavailable, silent])
async def test_a_registry_that_fails_after_a_refusal_changes_no_refusal(
    world: RegistryWorld, fault: Any
) -> None:
    await world.prepare("1")
    world.registry = FailingRegistry(world.registering.registry, 1, fault)
    world.memory.fail_next_write(PolicyRefused("the webhook says no"))
    async with asyncio.timeout(20):
        with pytest.raises(PolicyRefused):
            await world.deploy()


async def test_without_the_registry_nothing_is_deployed_from_it_and_all_else_is(
    world: RegistryWorld,
) -> None:
    await world.prepare("1")
    world.registry = FailingRegistry(world.registering.registry, 0, unavailable)
    with pytest.raises(RegistryUnavailable):
        await world.deploy()
    assert world.service() is None
    assert (await world.plain(PLAIN, "theirs")).action is Action.CREATED
