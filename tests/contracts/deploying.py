"""Deploy on any cluster."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings

from server.domain.errors import NamespaceNotFound, ServiceNotFound, UnsupportedByCluster
from server.domain.rollout.status import FailureReason, State
from server.domain.service.commands import STOP_ANNOTATION, Action, Deploy
from server.domain.service.inference_service import (
    RECREATE,
    ROLLING,
    ContainerPredictor,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    Resources,
    RolloutStrategy,
    Scaling,
    SecretKeyRef,
    ServiceKey,
    Toleration,
)
from tests import strategies
from tests.contracts.world import (
    Ability,
    World,
    annotated,
    container,
    deploy,
    in_standard_mode,
    needs,
    plain,
    within,
)

EVERYTHING_ELSE = {
    "env": {"B": "2", "A": "$(B)", "MULTI": "a\nb=c", "EMPTY": ""},
    "secret_env": {"TOKEN": SecretKeyRef("credentials", "token.txt")},
    "resources": Resources({"cpu": "250m", "memory": "4Gi"}, {"memory": "6Gi"}),
    "scaling": Scaling(1, 3, 70, "cpu"),
    "service_account": "reader",
    "image_pull_policy": "IfNotPresent",
    "deployment_mode": "Standard",
    "node_selector": {"zone": "a"},
    "tolerations": (
        Toleration("gpu", "Exists", "", "NoSchedule"),
        Toleration("old", "Equal", "yes", "NoExecute", 30),
    ),
    "request_timeout": timedelta(seconds=90),
    "rollout_strategy": RolloutStrategy(ROLLING, "1", "25%"),
    "ready_timeout": timedelta(seconds=900),
}
SPECS = {
    "a bare container": container(),
    "a bare model": InferenceServiceSpec(ModelPredictor(ModelFormat("sklearn"))),
    "a container with everything": InferenceServiceSpec(
        ContainerPredictor("registry.example/x:1", ("run", "it"), ("--a", "", "b c"), 9000),
        **EVERYTHING_ELSE,
    ),
    "a model with everything": InferenceServiceSpec(
        ModelPredictor(
            ModelFormat("sklearn", "1"),
            "gs://bucket/model",
            "kserve-sklearnserver",
            "v1",
            ("--workers=1",),
        ),
        **EVERYTHING_ELSE,
    ),
    "a model with all that needs no Kubernetes": InferenceServiceSpec(
        ModelPredictor(ModelFormat("sklearn", "1"), "gs://bucket/model", args=("--verbose",)),
        env={"B": "2", "A": "$(B)", "MULTI": "a\nb=c", "EMPTY": ""},
        resources=Resources({"cpu": "250m", "memory": "4Gi"}, {"memory": "6Gi"}),
        scaling=Scaling(1, 3, 70),
        image_pull_policy="IfNotPresent",
        request_timeout=timedelta(seconds=90),
    ),
    "only a request above KServe's default limit": container(
        resources=Resources(requests={"cpu": "3", "memory": "4Gi"})
    ),
    "texts of every kind": container(
        env={"T": '\U0001f600 \u2028\u2029\ufeff\uffff \x01\x1b\x7f\x85\x9f\t\r\n\\" ${X} ñ'}
    ),
    "zero as the fewest replicas": container(scaling=Scaling(min_replicas=0)),
}

NEEDED = {
    "a bare container": [Ability.CONTAINERS],
    "a container with everything": [Ability.CONTAINERS, Ability.KUBERNETES],
    "a model with everything": [Ability.KUBERNETES],
}


class DeployConformance:
    """Creating, updating, restarting, and the guards around them."""

    async def test_a_first_deploy_creates_the_service(self, world: World) -> None:
        applied = await world.cluster.apply(deploy(world, plain(world)))
        assert applied.action is Action.CREATED
        assert applied.rollout == applied.service.rollout
        assert applied.service.spec == plain(world)
        assert applied.service.uid
        assert not applied.service.unmanaged
        assert applied.service.status.state in (State.PENDING, State.PROGRESSING)

    async def test_another_spec_is_an_update_in_a_rollout_of_its_own(self, world: World) -> None:
        first = await world.cluster.apply(deploy(world, plain(world, "1")))
        second = await world.cluster.apply(deploy(world, plain(world, "2")))
        assert second.action is Action.UPDATED
        assert second.service.uid == first.service.uid
        assert second.service.generation > first.service.generation
        assert second.rollout != first.rollout
        assert second.service.etag != first.service.etag
        assert second.service.spec == plain(world, "2")

    async def test_the_same_deploy_again_is_unchanged(self, world: World) -> None:
        first = await world.cluster.apply(deploy(world, plain(world)))
        again = await world.cluster.apply(deploy(world, plain(world)))
        assert again.action is Action.UNCHANGED
        assert again.rollout == first.rollout
        assert again.service.etag == first.service.etag

    @pytest.mark.parametrize("kind", SPECS)
    async def test_what_is_read_given_back_is_unchanged(self, world: World, kind: str) -> None:
        needs(world, *NEEDED.get(kind, ()))
        spec = within(world, SPECS[kind])
        labels, annotations = {"team": "vision"}, {"example.com/note": "a b"}
        asked = deploy(world, spec, labels=labels, annotations=annotations)
        first = await world.cluster.apply(asked)
        read = await world.cluster.read(asked.key)
        assert read is not None
        assert (read.spec, read.labels, read.annotations) == (asked.spec, labels, annotations)
        back = deploy(world, read.spec, labels=read.labels, annotations=read.annotations)
        again = await world.cluster.apply(back)
        assert (again.action, again.rollout) == (Action.UNCHANGED, first.rollout)

    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=[
            # Each example is deployed over the ones before, and each cluster runs the same test.
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
            HealthCheck.too_slow,
        ],
    )
    @given(wanted=strategies.deploys())
    async def test_whatever_is_asked_replaces_what_was_and_is_read_back(
        self, world: World, wanted: Deploy
    ) -> None:
        asked = deploy(
            world,
            in_standard_mode(world, within(world, wanted.spec)),
            labels=wanted.labels,
            annotations=annotated(world, wanted.annotations),
            force=True,
        )
        applied = await world.cluster.apply(asked)
        read = await world.cluster.read(asked.key)
        assert read is not None
        assert read.rollout == applied.rollout
        assert (read.spec, read.labels) == (asked.spec, asked.labels)
        kept = {STOP_ANNOTATION} & (read.annotations.keys() - asked.annotations.keys())
        assert {k: v for k, v in read.annotations.items() if k not in kept} == asked.annotations
        back = deploy(world, read.spec, labels=read.labels, annotations=read.annotations)
        assert (await world.cluster.apply(back)).action is Action.UNCHANGED

    async def test_a_change_of_the_strategy_alone_is_an_update_that_becomes_ready(
        self, world: World
    ) -> None:
        needs(world, Ability.PODS_OF_ANY_IMAGE)
        first = await world.cluster.apply(deploy(world, in_standard_mode(world, plain(world))))
        await world.told.ready(first.service.key, first.service.generation)
        recreate = in_standard_mode(world, plain(world, rollout_strategy=RolloutStrategy(RECREATE)))
        second = await world.cluster.apply(deploy(world, recreate))
        assert (second.action, second.service.spec) == (Action.UPDATED, recreate)
        assert second.rollout != first.rollout
        ready = await world.told.ready(second.service.key, second.service.generation)
        assert ready.rollout == second.rollout
        again = await world.cluster.apply(deploy(world, recreate))
        assert (again.action, again.rollout) == (Action.UNCHANGED, second.rollout)

    async def test_a_rollout_fails_at_its_ready_timeout_and_a_change_of_it_is_a_new_one(
        self, world: World
    ) -> None:
        needs(world, Ability.LATENESS)
        never = dataclasses.replace(world.never_ready(), ready_timeout=timedelta(seconds=2))
        first = await world.cluster.apply(deploy(world, never))

        def failed() -> bool:
            service = world.told.latest(first.service.key)
            return bool(service and service.status.state is State.FAILED)

        await world.told.until("it is FAILED", failed)
        service = world.told.latest(first.service.key)
        assert service
        assert service.status.failure
        assert service.status.failure.reason is FailureReason.PROGRESS_DEADLINE
        assert service.status.failure.rollout_id == service.rollout.id
        assert "ready_timeout of 2 s" in service.status.message

        longer = dataclasses.replace(never, ready_timeout=timedelta(seconds=3600))
        second = await world.cluster.apply(deploy(world, longer))
        assert (second.action, second.service.spec) == (Action.UPDATED, longer)
        assert second.rollout != first.rollout
        assert second.service.status.state in (State.PENDING, State.PROGRESSING)

    async def test_no_replicas_is_warned_of_where_one_always_runs(self, world: World) -> None:
        spec = in_standard_mode(world, plain(world, scaling=Scaling(min_replicas=0)))
        dry, first, again = [
            await world.cluster.apply(deploy(world, spec, validate_only=validate_only))
            for validate_only in (True, False, False)
        ]
        assert (dry.action, again.action) == (Action.CREATED, Action.UNCHANGED)
        for applied in (dry, first, again):
            [warning] = applied.warnings
            assert warning.field == "spec.scaling.min_replicas"
            assert warning.message.startswith("0 means 1")
        silent = await world.cluster.apply(deploy(world, in_standard_mode(world, plain(world))))
        assert silent.warnings == ()

    async def test_another_kind_of_predictor_is_an_update(self, world: World) -> None:
        needs(world, Ability.CONTAINERS)
        await world.cluster.apply(deploy(world, plain(world)))
        model = SPECS["a bare model"]
        applied = await world.cluster.apply(deploy(world, model))
        assert (applied.action, applied.service.spec) == (Action.UPDATED, model)

    async def test_what_is_left_out_is_removed(self, world: World) -> None:
        full = within(world, SPECS["a container with everything"])
        await world.cluster.apply(
            deploy(world, full, labels={"a": "1"}, annotations={"b": "2"}),
        )
        bare = dataclasses.replace(plain(world), deployment_mode=full.deployment_mode)
        applied = await world.cluster.apply(deploy(world, bare))
        assert applied.action is Action.UPDATED
        assert applied.service.spec == bare
        assert (applied.service.labels, applied.service.annotations) == ({}, {})

    async def test_a_mode_that_was_named_stays_where_it_is_left_out(self, world: World) -> None:
        needs(world, Ability.KUBERNETES)
        first = await world.cluster.apply(deploy(world, plain(world, deployment_mode="Standard")))
        again = await world.cluster.apply(deploy(world, plain(world)))
        assert (again.action, again.rollout) == (Action.UNCHANGED, first.rollout)
        measured = plain(world, "2", scaling=Scaling(1, 2, 80, "cpu"))
        updated = await world.cluster.apply(deploy(world, measured))
        assert updated.action is Action.UPDATED
        assert updated.service.spec == dataclasses.replace(measured, deployment_mode="Standard")

    async def test_a_change_of_labels_alone_is_a_rollout_of_its_own(self, world: World) -> None:
        first = await world.cluster.apply(deploy(world, plain(world)))
        labelled = await world.cluster.apply(deploy(world, plain(world), labels={"team": "a"}))
        assert labelled.action is Action.UPDATED
        assert labelled.rollout != first.rollout
        assert labelled.service.labels == {"team": "a"}

    async def test_selectors_see_more_labels_than_the_users(self, world: World) -> None:
        applied = await world.cluster.apply(deploy(world, plain(world), labels={"team": "a"}))
        seen = applied.service.selectable_labels
        assert seen["team"] == "a"
        assert seen["app.kubernetes.io/managed-by"] == "modelservice"

    async def test_an_unknown_namespace_is_told(self, world: World) -> None:
        needs(world, Ability.NAMESPACES)
        key = ServiceKey(world.missing_namespace, "iris")
        with pytest.raises(NamespaceNotFound):
            await world.cluster.apply(Deploy(key, plain(world)))
        assert await world.cluster.read(key) is None

    async def test_a_mode_that_the_cluster_does_not_offer_is_refused(self, world: World) -> None:
        needs(world, Ability.ONE_MODE)
        knative = plain(world, deployment_mode="Knative")
        with pytest.raises(UnsupportedByCluster):
            await world.cluster.apply(deploy(world, knative))

    async def test_a_stopped_service_stays_stopped_unless_the_deploy_says_otherwise(
        self, world: World
    ) -> None:
        needs(world, Ability.STOPPING)
        stopped = {STOP_ANNOTATION: "true"}
        await world.cluster.apply(deploy(world, plain(world, "1"), annotations=stopped))
        updated = await world.cluster.apply(deploy(world, plain(world, "2")))
        assert updated.service.annotations == stopped
        again = await world.cluster.apply(deploy(world, plain(world, "2")))
        assert again.action is Action.UNCHANGED
        started = await world.cluster.apply(
            deploy(world, plain(world, "2"), annotations={STOP_ANNOTATION: "false"})
        )
        assert started.action is Action.UPDATED
        assert started.service.annotations == {STOP_ANNOTATION: "false"}

    async def test_the_answer_is_never_ready_from_an_older_rollout(self, world: World) -> None:
        needs(world, Ability.PODS_OF_ANY_IMAGE)
        told = world.told
        first = await world.cluster.apply(deploy(world, plain(world, "1")))
        await told.ready(first.service.key, first.service.generation)
        for change in (plain(world, "2"), None):
            dry = deploy(world, change, restart=change is None, validate_only=True)
            would = await world.cluster.apply(dry)
            assert would.service.status.state in (State.PENDING, State.PROGRESSING)
        same = await world.cluster.apply(deploy(world, plain(world, "1"), validate_only=True))
        assert same.service.status.state is State.READY
        second = await world.cluster.apply(deploy(world, plain(world, "2")))
        assert second.service.status.state in (State.PENDING, State.PROGRESSING)
        await told.ready(second.service.key, second.service.generation)
        unchanged = await world.cluster.apply(deploy(world, plain(world, "2")))
        assert unchanged.service.status.state is State.READY

    async def test_a_service_names_the_user_whose_deploy_made_its_pods(self, world: World) -> None:
        first = await world.cluster.apply(deploy(world, plain(world), user="ann"))
        assert first.service.deployed_by == "ann"
        same = await world.cluster.apply(deploy(world, plain(world), user="bob"))
        assert (same.action, same.rollout) == (Action.UNCHANGED, first.rollout)
        assert same.service.deployed_by == "ann"
        rescaled = plain(world, scaling=Scaling(max_replicas=1))
        scaled = await world.cluster.apply(deploy(world, rescaled, user="bob"))
        assert (scaled.action, scaled.service.deployed_by) == (Action.UPDATED, "ann")
        restart = deploy(world, None, restart=True, request_id="job-7", user="carol")
        restarted = await world.cluster.apply(restart)
        assert (restarted.action, restarted.service.deployed_by) == (Action.RESTARTED, "carol")
        retried = await world.cluster.apply(dataclasses.replace(restart, user="dan"))
        assert (retried.rollout, retried.service.deployed_by) == (restarted.rollout, "carol")
        shown = world.told.latest(first.service.key)
        assert shown
        assert shown.deployed_by == "carol"
        nobody = await world.cluster.apply(deploy(world, plain(world, "2")))
        assert (nobody.action, nobody.service.deployed_by) == (Action.UPDATED, "")


class RestartConformance:
    """Restarts replace the pods and nothing else."""

    async def test_a_restart_alone_keeps_everything_but_the_rollout(self, world: World) -> None:
        asked = deploy(world, plain(world), labels={"a": "1"}, annotations={"b": "2"})
        first = await world.cluster.apply(asked)
        restarted = await world.cluster.apply(deploy(world, None, restart=True))
        assert restarted.action is Action.RESTARTED
        assert restarted.rollout != first.rollout
        assert restarted.service.spec == first.service.spec
        assert restarted.service.labels == {"a": "1"}
        assert restarted.service.annotations == {"b": "2"}
        same = await world.cluster.apply(asked)
        assert (same.action, same.rollout) == (Action.UNCHANGED, restarted.rollout)

    async def test_a_restart_with_the_same_spec_is_a_restart(self, world: World) -> None:
        await world.cluster.apply(deploy(world, plain(world)))
        restarted = await world.cluster.apply(deploy(world, plain(world), restart=True))
        assert restarted.action is Action.RESTARTED

    async def test_a_restart_with_another_spec_is_an_update(self, world: World) -> None:
        await world.cluster.apply(deploy(world, plain(world, "1")))
        updated = await world.cluster.apply(deploy(world, plain(world, "2"), restart=True))
        assert updated.action is Action.UPDATED

    async def test_a_retried_restart_restarts_once(self, world: World) -> None:
        await world.cluster.apply(deploy(world, plain(world)))
        restart = deploy(world, None, restart=True, request_id="job-7")
        first = await world.cluster.apply(restart)
        again = await world.cluster.apply(restart)
        assert (again.action, again.rollout) == (Action.RESTARTED, first.rollout)
        assert again.service.rollout == first.rollout

    async def test_a_bare_restart_of_an_absent_service_is_not_found(self, world: World) -> None:
        with pytest.raises(ServiceNotFound):
            await world.cluster.apply(deploy(world, None, restart=True))
