"""Decide what is due for one service: which revisions to create, and which to change. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from server.adapters.kserve.informers.held_revision import KnownRevision
from server.adapters.kserve.objects import Object
from server.adapters.kserve.revisions.history import before, new_revision, revision_at
from server.adapters.kserve.revisions.rollout_record import (
    RolloutRecord,
    later_fields_of,
    news_of,
)
from server.domain.revisions.revision import Revision, superseded, with_status
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import InferenceServiceStatus, State

MOST_REFUSALS = 5


@dataclass(slots=True)
class PendingRollouts:
    """The rollouts of one uid of a service that were seen and are not stored yet.

    `objects` has the InferenceService of each generation, `statuses` the status that may decide its
    outcome, and `refused` how often the API server refused it.
    """

    uid: str
    objects: dict[int, Object] = field(default_factory=dict)
    statuses: dict[int, InferenceServiceStatus] = field(default_factory=dict)
    refused: Counter[int] = field(default_factory=Counter)

    @property
    def is_empty(self) -> bool:
        """Return whether all is stored."""
        return not self.objects and not self.statuses

    def was_ready(self, generation: int) -> bool:
        """Return whether a generation was seen READY."""
        status = self.statuses.get(generation)
        return status is not None and status.state is State.READY

    def limit(self, most: int) -> None:
        """Drop the oldest generations that are too many; those that were READY come last."""
        for seen in (self.objects, self.statuses):
            while len(seen) > most:
                del seen[min(seen, key=lambda generation: (self.was_ready(generation), generation))]

    def add(self, other: PendingRollouts) -> None:
        """Add the generations of the same uid that are not here yet."""
        self.objects = other.objects | self.objects
        self.statuses = other.statuses | self.statuses

    def refuse(self, generation: int) -> None:
        """Note that the API server refused a generation; one that it always refuses is dropped."""
        self.refused[generation] += 1
        if self.refused[generation] >= MOST_REFUSALS:
            self.objects.pop(generation, None)

    def with_outcome(self, record: RolloutRecord) -> RolloutRecord:
        """Return a record with the outcome that was seen of its generation."""
        status = self.statuses.get(record.generation)
        if status is None:
            return record
        rollout = record.revision.rollout
        return replace(record, revision=with_outcome_now(record.revision, rollout, status))

    def with_outcomes(self, stored: Sequence[RolloutRecord]) -> list[RolloutRecord]:
        """Return the stored revisions with the outcomes that are not stored yet."""
        records = {record.generation: record for record in stored}
        for generation, status in sorted(self.statuses.items()):
            record = revision_at(records.values(), generation)
            if record is not None:
                rollout = Rollout(self.uid, generation)
                revision = with_outcome_now(record.revision, rollout, status)
                records[record.generation] = replace(record, revision=revision)
        return list(records.values())


@dataclass(frozen=True, slots=True)
class Change:
    """Change the stored revision of a generation. What `changed` returns as it was is not sent."""

    generation: int
    changed: Callable[[RolloutRecord], RolloutRecord]


def rollout_due(
    record: RolloutRecord, known: Sequence[KnownRevision], pending: PendingRollouts
) -> RolloutRecord | Change:
    """Return what is due for a rollout that is not stored: a revision to create, or a change.

    A rollout that makes no revision changes the later fields of the one before it.
    """
    new = new_revision(known, record)
    if new is None:
        former = before(known, record.generation)
        assert former
        return Change(former.generation, lambda stored: _with_later_fields(stored, record))
    new = pending.with_outcome(new)
    if any(k.generation > record.generation for k in known):
        return replace(new, revision=superseded(new.revision))
    return new


def outcome_due(
    rollout: Rollout, status: InferenceServiceStatus, known: Sequence[KnownRevision]
) -> Change | None:
    """Return the change that the status of a rollout makes; None if it makes none."""
    stored = revision_at(known, rollout.generation)
    if stored is None or not is_news(stored, rollout, status):
        return None
    return _change_of_outcome(stored, lambda r: with_outcome_now(r, rollout, status))


def superseded_due(known: Sequence[KnownRevision]) -> list[Change]:
    """Return the changes that give the revisions before the newest one an outcome."""
    return [_change_of_outcome(k, superseded) for k in known[:-1] if k.outcome is None]


def is_news(stored: KnownRevision, rollout: Rollout, status: InferenceServiceStatus) -> bool:
    """Return whether the status of a rollout gives a stored revision another outcome."""
    revision = Revision(Rollout(rollout.uid, stored.generation), None, outcome=stored.outcome)
    changed = with_status(revision, rollout, status)
    return changed is not revision and news_of(changed) != stored.news


def with_outcome_now(
    newest: Revision, rollout: Rollout, status: InferenceServiceStatus
) -> Revision:
    """Return the newest revision with the outcome that the status shows.

    A service that served all the time has been READY since before the rollout: the rollout itself
    is READY from now on.
    """
    changed = with_status(newest, rollout, status)
    if changed is newest or changed.ready_time is None or changed.create_time is None:
        return changed
    if changed.ready_time >= changed.create_time:
        return changed
    return replace(changed, ready_time=datetime.now(UTC))


def _change_of_outcome(stored: KnownRevision, change: Callable[[Revision], Revision]) -> Change:
    def changed(record: RolloutRecord) -> RolloutRecord:
        revision = change(record.revision)
        # Each crash of a container changes the failure, and is no news.
        same = news_of(revision) == news_of(record.revision)
        return record if same else replace(record, revision=revision)

    return Change(stored.generation, changed)


def _with_later_fields(stored: RolloutRecord, later: RolloutRecord) -> RolloutRecord:
    if stored.seen_until > later.generation:
        return stored
    fields = later_fields_of(later.revision.content)
    return replace(stored, later_fields=fields, seen_until=later.generation)
