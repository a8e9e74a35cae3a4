"""What is due for one service, from what was seen of it and what is stored."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from server.adapters.kserve.informers.held_revision import KnownRevision
from server.adapters.kserve.revisions.pending_rollouts import (
    MOST_REFUSALS,
    Change,
    PendingRollouts,
    outcome_due,
    rollout_due,
    superseded_due,
)
from server.adapters.kserve.revisions.rollout_record import RolloutRecord
from server.domain.revisions.revision import Revision, RevisionContent, RevisionOutcome
from server.domain.rollout.failures import failure_of
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import FailureReason, InferenceServiceStatus, State
from server.domain.service.inference_service import Scaling
from tests.adapters.kserve.test_manifest import MODEL

READY, FAILED = RevisionOutcome.READY, RevisionOutcome.FAILED
SUPERSEDED = RevisionOutcome.SUPERSEDED
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
NOTHING = PendingRollouts("u")


def record(generation: int, content: int, outcome: RevisionOutcome | None = None) -> RolloutRecord:
    revision = Revision(Rollout("u", generation), RevisionContent(MODEL), NOON, outcome=outcome)
    return RolloutRecord(revision, content)


def failing(generation: int, reason: FailureReason) -> InferenceServiceStatus:
    failure = replace(failure_of(reason, "it fails"), rollout_id=Rollout("u", generation).id)
    return InferenceServiceStatus(State.FAILED, failure=failure)


def ready(since: datetime) -> InferenceServiceStatus:
    return InferenceServiceStatus(State.READY, last_transition_time=since)


def test_another_content_is_a_revision_to_create_with_the_outcome_that_was_seen() -> None:
    due = rollout_due(record(2, 20), [KnownRevision(1, 10)], NOTHING)
    assert due == record(2, 20)
    seen = PendingRollouts("u", statuses={2: ready(NOON)})
    due = rollout_due(record(2, 20), [KnownRevision(1, 10)], seen)
    assert isinstance(due, RolloutRecord)
    assert (due.revision.outcome, due.revision.ready_time) == (READY, NOON)


def test_a_revision_that_is_stored_after_a_later_one_is_superseded() -> None:
    due = rollout_due(record(2, 20), [KnownRevision(1, 10), KnownRevision(3, 30)], NOTHING)
    assert isinstance(due, RolloutRecord)
    assert due.revision.outcome is SUPERSEDED


def test_the_same_content_changes_the_later_fields_of_the_revision_before_it() -> None:
    content = RevisionContent(replace(MODEL, scaling=Scaling(2, 4)))
    scaled = record(5, 10)
    scaled = replace(scaled, revision=replace(scaled.revision, content=content))
    due = rollout_due(scaled, [KnownRevision(1, 5), KnownRevision(4, 10)], NOTHING)
    assert isinstance(due, Change)
    assert due.generation == 4
    changed = due.changed(record(4, 10))
    assert changed.seen_until == 5
    assert '"scaling"' in changed.later_fields
    # Another replica has seen a later one.
    newer = replace(record(4, 10), seen_until=6)
    assert due.changed(newer) is newer


def test_an_outcome_is_due_once() -> None:
    crashes = failing(1, FailureReason.CRASH_LOOP)
    rollout = Rollout("u", 1)
    change = outcome_due(rollout, crashes, [KnownRevision(1, 10)])
    assert change
    failed = change.changed(record(1, 10))
    assert failed.revision.outcome is FAILED
    assert outcome_due(rollout, crashes, [failed.known]) is None
    assert outcome_due(rollout, failing(1, FailureReason.OUT_OF_MEMORY), [failed.known])
    assert outcome_due(rollout, ready(NOON), [failed.known])
    assert outcome_due(rollout, crashes, [KnownRevision(1, 10, READY)]) is None


def test_an_outcome_is_of_the_revision_that_its_generation_was_seen_to_be_of() -> None:
    known = [KnownRevision(1, 10), KnownRevision(2, 20, seen_until=4)]
    change = outcome_due(Rollout("u", 4), ready(NOON), known)
    assert change
    assert change.generation == 2
    assert outcome_due(Rollout("u", 3), ready(NOON), known) is None


def test_a_rollout_is_ready_no_earlier_than_it_was_made() -> None:
    """Its service served all the time."""
    change = outcome_due(Rollout("u", 1), ready(NOON.replace(hour=6)), [KnownRevision(1, 10)])
    assert change
    ready_time = change.changed(record(1, 10)).revision.ready_time
    assert ready_time
    assert ready_time != NOON.replace(hour=6)


def test_every_revision_but_the_newest_is_given_an_outcome() -> None:
    known = [KnownRevision(1, 10), KnownRevision(2, 20, FAILED), KnownRevision(3, 30)]
    [change] = superseded_due(known)
    assert change.generation == 1
    assert change.changed(record(1, 10)).revision.outcome is SUPERSEDED
    # Another replica has stored what it was.
    was_ready = record(1, 10, READY)
    assert change.changed(was_ready) is was_ready


def test_the_oldest_are_dropped_and_those_that_were_ready_last() -> None:
    pending = PendingRollouts("u", {n: {} for n in range(1, 6)}, {1: ready(NOON)})
    pending.limit(2)
    assert [*pending.objects] == [1, 5]


def test_a_rollout_that_is_always_refused_is_dropped() -> None:
    pending = PendingRollouts("u", {1: {}, 2: {}})
    for _ in range(MOST_REFUSALS):
        assert 1 in pending.objects
        pending.refuse(1)
    assert [*pending.objects] == [2]
