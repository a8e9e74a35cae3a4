"""Decide which rollouts of a service are revisions, and show them as a history. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Protocol, TypeVar

from server.adapters.kserve.revisions.rollout_record import RolloutRecord
from server.domain.revisions.revision import Revision, RevisionOutcome, superseded, to_keep
from server.domain.rollout.rollout_id import Rollout


class Numbered(Protocol):
    """A revision whose generation and content hash are known."""

    @property
    def generation(self) -> int:
        """Return the generation of its rollout."""
        ...

    @property
    def content_hash(self) -> int:
        """Return the hash of its content, and of the restart that made it."""
        ...

    @property
    def seen_until(self) -> int:
        """Return the newest later generation that was seen to be of it, 0 for no such."""
        ...


NumberedT = TypeVar("NumberedT", bound=Numbered)


def before(revisions: Iterable[NumberedT], generation: int) -> NumberedT | None:
    """Return the newest revision before a generation."""
    earlier = (r for r in revisions if r.generation < generation)
    return max(earlier, key=lambda r: r.generation, default=None)


def revision_at(revisions: Iterable[NumberedT], generation: int) -> NumberedT | None:
    """Return the revision that a generation was seen to be of; None if none is known."""
    newest = before(revisions, generation + 1)
    return newest if newest and generation in (newest.generation, newest.seen_until) else None


def new_revision(known: Sequence[Numbered], seen: RolloutRecord) -> RolloutRecord | None:
    """Return the revision that a rollout is, beside those that are known; None if it is none.

    A change of the fields that keep the pods, or of the stop annotation, is none. The generations
    between the newest one seen before and the rollout were not seen. Whether they were revisions
    is not known, so they count as such.
    """
    if any(k.generation == seen.generation for k in known):
        return None
    former = before(known, seen.generation)
    if former is None:
        return seen
    if former.content_hash == seen.content_hash:
        return None
    seen_until = former.seen_until if former.seen_until < seen.generation else 0
    last_seen = max(former.generation, seen_until)
    return replace(seen, unseen_after=last_seen if last_seen < seen.generation - 1 else 0)


def history_of(
    stored: Iterable[RolloutRecord], seen: Sequence[RolloutRecord], most: int
) -> list[Revision]:
    """Return the revisions of a service, newest first: the stored ones, with the gaps between them,
    and those of rollouts that were seen and are not stored yet.

    `seen` is in order and ends with the present one, whose content the first revision has. At most
    `most` and four more are returned.
    """
    records = {record.generation: record for record in stored}
    for rollout in seen:
        if new := new_revision([*records.values()], rollout):
            records[new.generation] = new
            continue
        former = before(records.values(), rollout.generation)
        if former and rollout.generation not in records:
            # It changed fields of the revision before it, whose outcome is the one of both.
            held = records[former.generation]
            changed = replace(held.revision, content=rollout.revision.content)
            if rollout.revision.outcome and held.revision.outcome is not RevisionOutcome.READY:
                now = rollout.revision
                changed = replace(
                    changed, outcome=now.outcome, ready_time=now.ready_time, failure=now.failure
                )
            seen_until = max(held.seen_until, rollout.generation)
            records[held.generation] = replace(held, revision=changed, seen_until=seen_until)
    # A rollout that another server has seen since is not the present one of this view.
    shown = [records[n] for n in sorted(records, reverse=True) if n <= seen[-1].generation]
    newest, *older = shown
    revisions = [replace(newest.revision, content=seen[-1].revision.content)]
    revisions += [superseded(record.revision) for record in older]
    gaps = [gap for newer, older in pairwise(shown) for gap in _gaps(newer, older, most)]
    revisions = sorted([*revisions, *gaps], key=lambda r: r.number, reverse=True)
    return to_keep(revisions, most)


def _gaps(newer: RolloutRecord, older: RolloutRecord, most: int) -> Iterator[Revision]:
    """Yield the newest revisions that nobody saw between two stored ones."""
    if not newer.unseen_after:
        return
    first = max(newer.unseen_after, older.generation, newer.generation - 1 - most) + 1
    for generation in range(first, newer.generation):
        yield Revision(Rollout(newer.revision.rollout.uid, generation), None, gap=True)
