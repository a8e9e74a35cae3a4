"""Waits for a rollout: their ends, by the awaited rollout and the present state alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.domain.rollout.rollout_id import (
    End,
    Rollout,
    RolloutStatus,
    outcome,
    stop_outcome,
)
from server.domain.rollout.status import InferenceServiceStatus, State

rollouts = st.builds(Rollout, st.sampled_from(["a", "b"]), st.integers(1, 3))
statuses = st.builds(InferenceServiceStatus, st.sampled_from(State))
presents = st.builds(RolloutStatus, rollouts, statuses)


def is_there(awaited: Rollout, present: RolloutStatus) -> bool:
    same = present.rollout.uid == awaited.uid
    return same and present.status.state is not State.DELETING


@given(rollouts, st.booleans())
def test_no_wait_goes_on_without_its_service(awaited: Rollout, stop_asked: bool) -> None:
    for decided in (outcome(awaited, None), stop_outcome(awaited, None, stop_asked=stop_asked)):
        assert decided
        assert decided.end is End.GONE


@given(rollouts, presents, st.booleans())
def test_a_wait_for_a_stop_has_one_end_for_each_present_state(
    awaited: Rollout, present: RolloutStatus, stop_asked: bool
) -> None:
    decided = stop_outcome(awaited, present, stop_asked=stop_asked)
    newer = present.rollout.generation - awaited.generation
    if not is_there(awaited, present):
        expected = End.GONE
    elif newer < 0:
        expected = None
    elif present.status.state is State.STOPPED:
        expected = End.STOPPED
    elif stop_asked and present.status.state in (State.PENDING, State.PROGRESSING):
        expected = None
    else:
        expected = End.SUPERSEDED if newer else End.NOT_STOPPING
    assert (decided.end if decided else None) is expected
