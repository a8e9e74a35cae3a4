"""Random histories of a cluster, with faults at every step, against the core without I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2 import DeployRequest, WatchStatusRequest
from modelservice_client.core import errors, watching
from modelservice_client.core.retry import LONGEST_BACKOFF_SECONDS

from tests.client.core_world import EVENTS, FAULTS, RARE, Message, Over, World, history

NAMES = ("a", "b")
events = st.lists(st.tuples(st.sampled_from(EVENTS), st.sampled_from(NAMES)), max_size=20)
faults = st.lists(st.sampled_from(FAULTS), max_size=60)
# RetryInfo of the script and the longest backoff.
LONGEST_PAUSE_SECONDS = 1.0 + LONGEST_BACKOFF_SECONDS
jitter = st.sampled_from((0.0, 0.3, 0.999))
SHOWN = (Message.TYPE_SNAPSHOT, Message.TYPE_CHANGED)
# Without I/O one takes a millisecond, so CI draws 2,000 of them, and `make soak` 20,000.
histories = settings(max_examples=5 * settings().max_examples)


def check_shown(emitted: Sequence[Message]) -> dict[str, Message]:
    """Nothing is shown twice, or goes back in time, or comes after its end; what is there last."""
    there: dict[str, Message] = {}
    deleted: set[str] = set()
    for message in emitted:
        service = message.service
        if message.type in SHOWN:
            assert service.uid not in deleted
            before = there.get(service.name)
            if before:
                assert before.service.uid == service.uid, "the old one's end was not shown"
                assert version_of(before) < version_of(message)
            there[service.name] = message
        elif message.type == Message.TYPE_DELETED:
            assert there.pop(service.name).service.uid == service.uid
            deleted.add(service.uid)
        else:
            assert message.type == Message.TYPE_SYNCED
    assert [m.type for m in emitted].count(Message.TYPE_SYNCED) <= 1
    return there


def version_of(message: Message) -> int:
    return int(message.service.status.message.removeprefix("at "))


@histories
@given(events, faults, jitter, st.sampled_from(("", *NAMES)), st.booleans())
def test_a_watch_shows_each_state_once_in_order_and_the_last_one_in_the_end(
    events: list[tuple[str, str]], faults: list[str], jitter: float, name: str, exact: bool
) -> None:
    world = World(history(events), faults, exact=exact)
    request = WatchStatusRequest(namespace="ns", name=name)
    with pytest.raises(Over):
        world.run(watching.watch(world.policy(lambda: jitter, 1e9), request, None))
    there = check_shown(world.emitted)
    assert {key: version_of(message) for key, message in there.items()} == {
        key: stored.version for key, stored in world.versions[-1].items() if not name or key == name
    }


def outcome_of(world: World, routine: Any) -> Any:
    try:
        return world.run(routine)
    except errors.ModelServiceError as error:
        return error


@histories
@given(events, faults, jitter, st.integers(0, 12), st.booleans())
def test_a_wait_ends_as_the_rollout_did(
    events: list[tuple[str, str]], faults: list[str], jitter: float, begins: int, exact: bool
) -> None:
    versions = [*history([("deploy", "a"), *events])]
    world = World(versions, faults, exact=exact)
    first = versions[1]["a"].rollout_id
    request = WatchStatusRequest(namespace="ns", name="a", rollout_id=first)
    world.now = min(1 + begins, len(versions) - 1)
    decisions = [decision(first, cluster.get("a")) for cluster in versions[1:]]
    outcome = outcome_of(
        world, watching.wait_ready(world.policy(lambda: jitter, 1e9), request, 9e9)
    )
    check_shown(world.emitted)
    kind = type(outcome) if isinstance(outcome, Exception) else None
    if isinstance(outcome, errors.Timeout):
        assert decisions[-1] == "undecided"
    else:
        assert kind in decisions
    if decisions[-1] != "undecided":
        assert not isinstance(outcome, errors.Timeout)


def decision(rollout_id: str, stored: Any) -> Any:
    try:
        return None if World._is_ready(rollout_id, stored) else "undecided"
    except errors.ModelServiceError as error:
        return type(error)


@histories
@given(faults, jitter, st.sampled_from((0.5, 5.0, 40.0, 600.0)), st.sampled_from((5.0, 60.0)))
def test_a_deploy_is_one_rollout_and_keeps_its_budget(
    faults: list[str], jitter: float, timeout: float, patience: float
) -> None:
    world = World(history([]), faults)
    request = DeployRequest(namespace="ns", name="a", request_id="r-1")
    routine = watching.deploy_and_wait(world.policy(lambda: jitter, patience), request, timeout)
    outcome = outcome_of(world, routine)
    assert set(world.request_ids) <= {"r-1"}
    assert len(world.rollouts) <= 1
    check_shown(world.emitted)
    # A stream may be received from for a moment after its end.
    assert world.time - world.stopped_for <= timeout + 0.1
    if isinstance(outcome, errors.NotReachable):
        # The last pause that would have passed the end, or the end of the patience.
        assert world.time >= min(patience, timeout) - LONGEST_PAUSE_SECONDS
    elif isinstance(outcome, errors.ModelServiceError):
        assert outcome.request_id == "r-1"
        assert isinstance(outcome, errors.Timeout | errors.Unavailable)
    else:
        assert outcome.status.message.startswith("at ")
        assert outcome.rollout_id == world.rollouts["r-1"]


# What becomes of a service after its Deploy and after its Rollback. A "deploy" is another's.
LIVES = st.lists(st.sampled_from(("progress", "fail", "ready", "deploy", "delete")), max_size=4)


@given(LIVES, LIVES, faults, jitter, st.booleans())
def test_a_rollout_that_fails_is_rolled_back_once_and_no_other_one_is(
    deployed: list[str], rolled_back: list[str], faults: list[str], jitter: float, exact: bool
) -> None:
    versions = history([("deploy", "a"), ("ready", "a")])
    world = World(versions, faults, exact=exact)
    world.now = 2
    world.deployed, world.rolled_back = deployed, rolled_back
    request = DeployRequest(namespace="ns", name="a", request_id="r-1")
    routine = watching.deploy_and_wait(
        world.policy(lambda: jitter, 1e9), request, 9e9, rollback_on_failure=True
    )
    outcome = outcome_of(world, routine)
    own, back = world.rollouts["r-1"], world.rollouts.get("r-1-on-failure")
    assert set(world.request_ids) <= {"r-1", "r-1-on-failure"}
    # Whatever was sent twice, and whoever deployed meanwhile.
    assert world.undone == ([own] if back else [])
    if isinstance(outcome, errors.RolledBack):
        assert outcome.service
        assert (outcome.service.rollout_id, outcome.restored.rollout_id) == (own, back)
        assert outcome.revision in (0, 1)
    elif isinstance(outcome, errors.RolloutFailed):
        # Another's rollout, a deletion, or a rollback that did not become ready.
        why = outcome.rollback_error
        assert isinstance(why, errors.RolloutEnded | errors.NotFound | errors.Timeout)
        assert back or not isinstance(why, errors.RolloutFailed | errors.Timeout)
    else:
        assert back is None


@histories
@given(events, faults, jitter, st.booleans())
def test_a_wait_for_the_end_of_a_service_ends_when_it_is_gone(
    events: list[tuple[str, str]], faults: list[str], jitter: float, exact: bool
) -> None:
    versions = history([("deploy", "a"), *events, ("delete", "a")])
    world = World(versions, faults, exact=exact)
    world.now = 1
    first = versions[1]["a"]
    request = WatchStatusRequest(namespace="ns", name="a", rollout_id=first.rollout_id)
    world.run(watching.wait_gone(world.policy(lambda: jitter, 1e9), request, 9e9))
    there = check_shown(world.emitted)
    assert first.uid not in [message.service.uid for message in there.values()]


# A service that comes, goes on, fails, is deployed again and becomes ready, beside one that goes.
LIFE = [
    *(("deploy", "a"), ("deploy", "b"), ("progress", "a"), ("fail", "a"), ("delete", "b")),
    *(("deploy", "a"), ("progress", "a"), ("ready", "a")),
]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", ["", "a"])
def test_each_fault_at_each_message_of_a_watch_is_met_and_changes_nothing(
    name: str, exact: bool
) -> None:
    met: Counter[str] = Counter()
    for fault in ("cut and switch", *RARE):
        for before in range(30):
            # The cluster goes on at each step, and once more while the fault is met.
            world = World(history(LIFE), ["advance"] * before + [fault, "advance"], exact=exact)
            request = WatchStatusRequest(namespace="ns", name=name)
            with pytest.raises(Over):
                world.run(watching.watch(world.policy(lambda: 0.3, 1e9), request, None))
            there = check_shown(world.emitted)
            assert {key: version_of(message) for key, message in there.items()} == {"a": len(LIFE)}
            met += world.met
    # An answer that is lost is one of Deploy or Get; a watch of one service needs no RESET where
    # tokens are exact, but where the stream was overrun.
    assert met.keys() >= {*RARE} - {"lose answer", "reset", "overrun"} | {"RESET"}
    assert ("VIEW_BEHIND" in met) is (exact and name != "")


def test_a_rollback_on_failure_meets_every_end() -> None:
    ends = {
        (("ready",), ()): InferenceService,
        (("fail",), ("ready",)): errors.RolledBack,
        (("fail",), ("fail",)): errors.RolloutFailed,
        (("fail",), ("deploy",)): errors.Superseded,
        (("fail",), ("delete",)): errors.ServiceDeleted,
        (("fail",), ()): errors.Timeout,
        (("progress", "deploy"), ()): errors.Superseded,
        (("progress", "delete"), ()): errors.ServiceDeleted,
    }
    for (deployed, rolled_back), kind in ends.items():
        world = World(history([("deploy", "a"), ("ready", "a")]), ["lose answer"])
        world.now = 2
        world.deployed, world.rolled_back = deployed, rolled_back
        request = DeployRequest(namespace="ns", name="a", request_id="r-1")
        policy = world.policy(lambda: 0.3, 1e9)
        end = outcome_of(
            world, watching.deploy_and_wait(policy, request, 600, rollback_on_failure=True)
        )
        if type(end) is errors.RolloutFailed:
            end = end.rollback_error
        assert type(end) is kind, (deployed, rolled_back)


def test_a_rollout_that_another_has_replaced_is_not_rolled_back() -> None:
    # The other one comes after this rollout has failed, and before its Rollback.
    world = World(history([("deploy", "a"), ("ready", "a")]), ["ok"] * 6 + ["advance"])
    world.now = 2
    world.deployed = ("fail", "deploy")
    request = DeployRequest(namespace="ns", name="a", request_id="r-1")
    policy = world.policy(lambda: 0.3, 1e9)
    routine = watching.deploy_and_wait(policy, request, 600, rollback_on_failure=True)
    end = outcome_of(world, routine)
    assert type(end) is errors.RolloutFailed
    assert type(end.rollback_error) is errors.Superseded
    assert world.undone == []


def test_the_drawn_histories_meet_every_fault() -> None:
    met: Counter[str] = Counter()
    for seed in range(100):
        drawn = Random(seed)
        chosen = [(drawn.choice(EVENTS), drawn.choice(NAMES)) for _ in range(20)]
        versions = history([("deploy", "a"), *chosen, ("delete", "a")])
        world = World(versions, drawn.choices(FAULTS, k=60), exact=bool(seed % 2))
        world.now = 1
        rollout_id = versions[1]["a"].rollout_id
        request = WatchStatusRequest(namespace="ns", name="a", rollout_id=rollout_id)
        outcome_of(world, watching.wait_ready(world.policy(drawn.random, 1e9), request, 9e9))
        met += world.met
        request = DeployRequest(namespace="ns", name="a", request_id="r-1")
        world = World(history([]), drawn.choices(FAULTS, k=60))
        outcome_of(world, watching.deploy_and_wait(world.policy(drawn.random), request, 600))
        met += world.met
    assert met.keys() >= {*RARE} - {"reset", "overrun"} | {"RESET", "VIEW_BEHIND"}
