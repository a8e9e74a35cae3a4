"""Whatever order things come in, a record ends at what the cluster says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from server.domain.errors import ErrorReason, PolicyRefused
from server.domain.registry.deployment import (
    DeploymentState,
    DesiredState,
    ModelDeployment,
    content_of,
)
from server.domain.registry.deployment_progress import (
    GIVE_UP_AFTER,
    needs_confirmation,
    with_answer,
    with_loss,
    with_refusal,
    with_status,
)
from server.domain.rollout.failures import failure_of
from server.domain.rollout.status import FailureReason, InferenceServiceStatus, State
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceService,
    InferenceServiceSpec,
    Scaling,
    ServiceKey,
)

KEY = ServiceKey("staging", "fraud-staging")
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
PENDING = InferenceServiceStatus(State.PENDING)
READY = InferenceServiceStatus(State.READY, latest_ready_generation=1, url="http://fraud.test")
TROUBLE = failure_of(FailureReason.IMAGE_PULL, "the image is not there")


def spec(image: str = "fraud:1", **others: Any) -> InferenceServiceSpec:
    return InferenceServiceSpec(predictor=ContainerPredictor(image), **others)


def record(**fields: Any) -> ModelDeployment:
    new = ModelDeployment(
        id="d1",
        project="risk",
        model="fraud",
        version="1",
        environment="staging",
        model_id="m1",
        version_id="v1",
        environment_id="e1",
        service=KEY,
        content=content_of(spec()),
        create_time=BEGAN,
        update_time=BEGAN,
    )
    return replace(new, **fields)


def service(**fields: Any) -> InferenceService:
    made = InferenceService(
        KEY, "u1", 1, spec(), PENDING, etag="", create_time=BEGAN, deployment_id="d1"
    )
    return replace(made, **fields)


def failing(state: State, rollout_id: str = "") -> InferenceServiceStatus:
    return InferenceServiceStatus(state, failure=replace(TROUBLE, rollout_id=rollout_id))


DEPLOYED = with_status(record(), service(status=READY), BEGAN + SECOND)


def test_a_rollout_that_becomes_ready_is_deployed_from_that_moment_on() -> None:
    pending = with_status(record(), service(), BEGAN + SECOND)
    assert (pending.state, pending.rollout) == (DeploymentState.PENDING, service().rollout)
    deployed = with_status(pending, service(status=READY), BEGAN + 2 * SECOND)
    assert deployed.state is DeploymentState.DEPLOYED
    assert deployed.ready_time == deployed.update_time == BEGAN + 2 * SECOND
    assert deployed.url == "http://fraud.test"
    assert with_status(deployed, service(status=READY), BEGAN + 3 * SECOND) is deployed


def test_later_trouble_is_told_and_does_not_undo_that_it_was_deployed() -> None:
    troubled = with_status(DEPLOYED, service(status=failing(State.FAILED)), BEGAN + 2 * SECOND)
    assert (troubled.state, troubled.failure) == (DeploymentState.DEPLOYED, TROUBLE)
    recovered = with_status(troubled, service(status=READY), BEGAN + 3 * SECOND)
    assert recovered.failure is None
    assert recovered.ready_time == DEPLOYED.ready_time


def test_the_last_address_that_is_known_is_told() -> None:
    stopped = service(generation=2, status=InferenceServiceStatus(State.STOPPED))
    assert with_status(DEPLOYED, stopped, BEGAN + 2 * SECOND).url == "http://fraud.test"


@pytest.mark.parametrize("state", [State.FAILED, State.DEGRADED])
def test_a_rollout_that_fails_may_still_be_deployed(state: State) -> None:
    shown = service(status=failing(state, service().rollout.id))
    failed = with_status(record(), shown, BEGAN)
    assert (failed.state, failed.end_time) == (DeploymentState.FAILED, None)
    assert failed.failure == shown.status.failure
    assert with_status(failed, service(status=READY), BEGAN).state is DeploymentState.DEPLOYED


def test_a_text_that_no_database_stores_is_told_once() -> None:
    failure = replace(TROUBLE, message="bad magic \0", log_lines=("\udcff", "fine"))
    seen = service(status=InferenceServiceStatus(State.FAILED, failure=failure, url="http://\0"))
    failed = with_status(record(), seen, BEGAN)
    assert failed.failure == replace(failure, message="bad magic \ufffd", log_lines=("?", "fine"))
    assert with_status(failed, seen, BEGAN + SECOND) is failed
    assert with_refusal(record(), PolicyRefused("\0"), BEGAN).error_message == "\ufffd"


def test_a_service_degraded_by_something_else_does_not_fail_the_record() -> None:
    degraded = with_status(record(), service(status=failing(State.DEGRADED, "another")), BEGAN)
    assert degraded.state is DeploymentState.PENDING
    assert degraded.failure is not None


def test_a_ready_that_nobody_followed_counts_once_it_is_told() -> None:
    pending = with_status(record(), service(), BEGAN)
    passed = InferenceServiceStatus(State.PROGRESSING, latest_ready_generation=1)
    assert with_status(pending, service(status=passed), BEGAN).state is DeploymentState.DEPLOYED
    scaled = service(generation=2, status=replace(passed, latest_ready_generation=1))
    assert with_status(pending, scaled, BEGAN).state is DeploymentState.DEPLOYED


def test_a_ready_of_an_older_deployment_is_not_this_ones() -> None:
    newer = service(generation=2, status=replace(PENDING, latest_ready_generation=1))
    assert with_status(record(), newer, BEGAN).state is DeploymentState.PENDING


def test_scaling_and_restarts_go_on_with_the_same_record() -> None:
    scaled = service(generation=2, spec=spec(scaling=Scaling(min_replicas=2)), status=PENDING)
    after = with_status(DEPLOYED, scaled, BEGAN)
    assert (after.state, after.rollout) == (DeploymentState.DEPLOYED, scaled.rollout)


@pytest.mark.parametrize(
    "seen",
    [
        service(generation=2, spec=spec("edited:1")),
        service(generation=2, spec=None),
        service(generation=2, deployment_id="d2"),
        service(generation=2, deployment_id=""),
    ],
    ids=["edited", "unreadable", "deployed anew", "deployed without a registry"],
)
def test_what_replaces_it_ends_it(seen: InferenceService) -> None:
    ended = with_status(DEPLOYED, seen, BEGAN + 5 * SECOND)
    assert ended.state is DeploymentState.SUPERSEDED
    assert ended.end_time == BEGAN + 5 * SECOND
    assert ended.rollout == DEPLOYED.rollout


def test_a_view_that_is_behind_changes_nothing() -> None:
    ahead = replace(DEPLOYED, rollout=service(generation=3).rollout)
    for behind in (service(generation=2, deployment_id="d0"), service(uid="u0", generation=9)):
        assert with_status(ahead, behind, BEGAN) is ahead
    assert with_status(DEPLOYED, None, BEGAN) is DEPLOYED


def test_a_delete_is_wished_first_and_told_once_the_cluster_confirms_it() -> None:
    status = InferenceServiceStatus(State.DELETING)
    deleting = with_status(DEPLOYED, service(status=status), BEGAN)
    assert deleting.desired_state is DesiredState.UNDEPLOYED
    assert (deleting.state, deleting.rollout) == (DEPLOYED.state, DEPLOYED.rollout)
    for seen in (None, service(uid="u2")):
        assert needs_confirmation(deleting, seen, BEGAN)
    gone = with_loss(deleting, BEGAN + 9 * SECOND)
    assert gone.state is DeploymentState.UNDEPLOYED
    assert gone.end_time == BEGAN + 9 * SECOND


def test_what_nobody_carries_is_given_up_after_a_while() -> None:
    for seen in (None, service(deployment_id="d0")):
        assert not needs_confirmation(record(), seen, BEGAN + GIVE_UP_AFTER - SECOND)
        assert needs_confirmation(record(), seen, BEGAN + GIVE_UP_AFTER)
    assert not needs_confirmation(record(), service(), BEGAN + GIVE_UP_AFTER)
    given_up = with_loss(record(), BEGAN + GIVE_UP_AFTER)
    assert given_up.state is DeploymentState.FAILED
    assert given_up.error_reason == ErrorReason.WRITE_OUTCOME_UNKNOWN
    assert "no service has it" in given_up.error_message
    assert given_up.end_time


def test_a_refusal_ends_it_with_its_error() -> None:
    failed = with_refusal(record(), PolicyRefused("the policy says no"), BEGAN + SECOND)
    assert (failed.state, failed.end_time) == (DeploymentState.FAILED, BEGAN + SECOND)
    assert (failed.error_reason, failed.error_message) == ("POLICY_REFUSED", "the policy says no")


def test_what_is_told_late_does_not_undo_what_was_seen() -> None:
    moved = replace(DEPLOYED, rollout=service(generation=2).rollout)
    assert with_answer(moved, service().rollout, BEGAN) is moved
    assert with_refusal(DEPLOYED, PolicyRefused("no"), BEGAN) is DEPLOYED


def test_a_clock_that_goes_back_takes_no_time_with_it() -> None:
    gone = with_loss(DEPLOYED, BEGAN - timedelta(hours=1))
    assert gone.end_time == gone.update_time == DEPLOYED.update_time


class World(RuleBasedStateMachine):
    """One name in a cluster, who writes it, who tells late, and followers that are behind."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = BEGAN
        self.number = 0
        self.shown: list[InferenceService | None] = [None]
        self.records: dict[str, ModelDeployment] = {}
        self.unheard: list[Callable[[], None]] = []

    @property
    def present(self) -> InferenceService | None:
        return self.shown[-1]

    @property
    def live(self) -> bool:
        return self.present is not None and self.present.status.state is not State.DELETING

    @rule(
        image=st.sampled_from(["fraud:1", "fraud:2"]),
        fate=st.sampled_from(["stored", "lost", "refused"]),
    )
    @precondition(lambda self: self.present is None or self.live)
    def deploy(self, image: str, fate: str) -> None:
        self.number += 1
        name = f"d{self.number}"
        self.records[name] = record(
            id=name, content=content_of(spec(image)), create_time=self.clock, update_time=self.clock
        )
        if fate == "stored":
            self._write(spec=spec(image), deployment_id=name)
            rollout = self.present.rollout
            self.unheard.append(lambda: self._take(name, with_answer, rollout))
        elif fate == "refused":
            self.unheard.append(lambda: self._take(name, with_refusal, PolicyRefused("no")))

    @rule()
    @precondition(lambda self: self.unheard)
    def tell(self) -> None:
        self.unheard.pop(0)()

    @rule()
    @precondition(lambda self: self.unheard)
    def die_untold(self) -> None:
        self.unheard.pop()

    @rule(replicas=st.integers(1, 9))
    @precondition(lambda self: self.live)
    def scale(self, replicas: int) -> None:
        assert self.present.spec
        self._write(spec=replace(self.present.spec, scaling=Scaling(min_replicas=replicas)))

    @rule()
    @precondition(lambda self: self.live)
    def edit(self) -> None:
        self.number += 1
        self._write(spec=spec(f"edited:{self.number}"))

    @rule()
    @precondition(lambda self: self.present is None or self.live)
    def deploy_without_a_registry(self) -> None:
        self.number += 1
        self._write(spec=spec(f"other:{self.number}"), deployment_id="")

    @rule(state=st.sampled_from([State.PROGRESSING, State.READY, State.FAILED, State.DEGRADED]))
    @precondition(lambda self: self.live)
    def come_to_be(self, state: State) -> None:
        generation = self.present.generation
        ready = generation if state is State.READY else self.present.status.latest_ready_generation
        trouble = replace(TROUBLE, rollout_id=self.present.rollout.id)
        failure = trouble if state in (State.FAILED, State.DEGRADED) else None
        status = InferenceServiceStatus(state, latest_ready_generation=ready, failure=failure)
        self.shown.append(replace(self.present, status=status))

    @rule()
    @precondition(lambda self: self.live)
    def delete(self) -> None:
        dying = replace(self.present.status, state=State.DELETING)
        self._write(status=dying, delete_time=self.clock)

    @rule()
    @precondition(lambda self: self.present is not None)
    def go(self) -> None:
        self.shown.append(None)

    @rule(seconds=st.integers(-3600, 3600))
    def pass_time(self, seconds: int) -> None:
        self.clock += timedelta(seconds=seconds)

    @rule(behind=st.integers(0, 5))
    def follow(self, behind: int) -> None:
        """Any follower, the one who was stopped past its lease too."""
        view = self.shown[max(0, len(self.shown) - 1 - behind)]
        for name, read in self.records.items():
            if not needs_confirmation(read, view, self.clock):
                self._take(name, with_status, view)
            elif needs_confirmation(read, self.present, self.clock):
                self._take(name, with_loss)

    def teardown(self) -> None:
        self.clock = max([self.clock, *(r.update_time for r in self.records.values())])
        self.clock += GIVE_UP_AFTER
        self.follow(0)
        for found in self.records.values():
            self._assert_true(found)

    def _write(self, **changes: Any) -> None:
        if self.present is None:
            self.number += 1
            made = service(uid=f"u{self.number}", deployment_id="")
        else:
            made = replace(self.present, generation=self.present.generation + 1)
            made = replace(made, status=replace(made.status, state=State.PENDING, failure=None))
        self.shown.append(replace(made, **changes))

    def _take(self, name: str, change: Callable[..., ModelDeployment], *with_what: Any) -> None:
        before = self.records[name]
        after = self.records[name] = change(before, *with_what, self.clock)
        assert after is before or (after != before and not before.end_time)
        assert before.update_time <= after.update_time
        assert before.ready_time in (None, after.ready_time)
        for told, earlier in (
            (after.ready_time, before.ready_time),
            (after.end_time, before.end_time),
        ):
            assert told == earlier or before.update_time <= told <= after.update_time

    def _assert_true(self, found: ModelDeployment) -> None:
        seen = self.present
        if seen is None or seen.deployment_id != found.id or content_of(seen.spec) != found.content:
            assert found.end_time, found
            assert found.state is not DeploymentState.PENDING
            return
        assert not found.end_time, found
        assert found.rollout is not None
        assert found.rollout.uid == seen.uid
        if seen.status.state is State.DELETING:
            assert found.desired_state is DesiredState.UNDEPLOYED
            return
        assert (found.rollout, found.failure) == (seen.rollout, seen.status.failure)
        assert found.desired_state is DesiredState.DEPLOYED
        if not found.ready_time:
            failing = seen.status.state in (State.FAILED, State.DEGRADED)
            assert found.state is (DeploymentState.FAILED if failing else DeploymentState.PENDING)
            assert seen.status.state is not State.READY
        else:
            assert found.state is DeploymentState.DEPLOYED


def test_any_interleaving_ends_in_what_the_cluster_says() -> None:
    run_state_machine_as_test(World)
