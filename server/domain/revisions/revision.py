"""A revision of a service: the content of one of its rollouts, and its outcome. Pure.

A change of scaling, of the rollout strategy or of the stop annotation alone makes no revision: the
content of the newest one changes instead. A restart makes one with the content of the one before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from itertools import takewhile

from server.domain.rollout.rollout_id import End, Rollout, RolloutStatus, outcome
from server.domain.rollout.status import Failure, InferenceServiceStatus
from server.domain.service.commands import STOP_ANNOTATION
from server.domain.service.inference_service import InferenceService, InferenceServiceSpec

MOST_REVISIONS = 10


class RevisionOutcome(StrEnum):
    """The outcomes of a rollout, by the API's names. READY is final, FAILED may become READY."""

    READY = "READY"
    FAILED = "FAILED"
    SUPERSEDED = "SUPERSEDED"


@dataclass(frozen=True, slots=True)
class RevisionContent:
    """The content that a Deploy sets, as users read it."""

    spec: InferenceServiceSpec
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of a service; its number is the generation of its rollout.

    `content` is None if it is not known, or has nothing that fits the API. `gap`: it was
    overwritten while no server ran, or before the cluster took it, so that nothing but its number
    is known. `outcome` None: it is not decided. `ready_time` is set for READY, `failure` for
    FAILED. `rollback_of` is the number of the revision that it went back to; 0: it is no rollback.
    `deployment_id` and `deployed_by`: as of an InferenceService. `content_digest` is the hash of
    the part of the content whose change makes a revision, where a cluster compares contents that
    it does not hold in memory; else it is empty. With one and no content, what is stored of the
    content cannot be parsed.
    """

    rollout: Rollout
    content: RevisionContent | None
    create_time: datetime | None = None
    outcome: RevisionOutcome | None = None
    ready_time: datetime | None = None
    failure: Failure | None = None
    deployed_by: str = ""
    rollback_of: int = 0
    deployment_id: str = ""
    gap: bool = False
    content_digest: str = ""

    @property
    def number(self) -> int:
        """Return the number by which callers name it."""
        return self.rollout.generation


@dataclass(frozen=True, slots=True)
class ServiceHistory:
    """A service, and its revisions, newest first. The first one has the content of the service."""

    service: InferenceService
    revisions: Sequence[Revision]


def content_of_service(service: InferenceService) -> RevisionContent | None:
    """Return the content of a service; None if nothing of it fits the API."""
    if service.spec is None:
        return None
    return RevisionContent(service.spec, service.labels, service.annotations)


def rollout_content(content: RevisionContent) -> RevisionContent:
    """Return the part of a content whose change makes a revision."""
    annotations = {k: v for k, v in content.annotations.items() if k != STOP_ANNOTATION}
    return replace(content, spec=content.spec.of_pods, annotations=annotations)


def same_rollout_content(one: RevisionContent | None, other: RevisionContent | None) -> bool:
    """Report whether two contents are of one revision. An unknown content is like no other."""
    if one is None or other is None:
        return False
    return rollout_content(one) == rollout_content(other)


def revision_of(service: InferenceService, create_time: datetime | None) -> Revision:
    """Return the revision of a service's newest rollout, from the service alone."""
    new = Revision(
        service.rollout,
        content_of_service(service),
        create_time,
        deployed_by=service.deployed_by,
        deployment_id=service.deployment_id,
    )
    return with_status(new, service.rollout, service.status)


def with_status(newest: Revision, rollout: Rollout, status: InferenceServiceStatus) -> Revision:
    """Return the newest revision of a service with the outcome that its status shows.

    `rollout` is the service's newest one, whose generation may be later than the revision's.
    """
    if newest.outcome is RevisionOutcome.READY or newest.rollout.uid != rollout.uid:
        return newest
    ended = outcome(rollout, RolloutStatus(rollout, status))
    if ended and ended.end is End.READY:
        ready_time = status.last_transition_time
        return replace(newest, outcome=RevisionOutcome.READY, ready_time=ready_time, failure=None)
    if ended and ended.end is End.FAILED:
        return replace(newest, outcome=RevisionOutcome.FAILED, failure=ended.failure)
    return newest


def superseded(revision: Revision) -> Revision:
    """Return a revision that a newer one has replaced."""
    return replace(revision, outcome=revision.outcome or RevisionOutcome.SUPERSEDED)


def needs_storing(stored: Revision, now: Revision) -> bool:
    """Report whether a newest revision has news; each crash of a container is none."""
    return _news(stored) != _news(now)


def last_ready(revisions: Sequence[Revision]) -> Revision | None:
    """Return the revision that a rollback goes to by default; None: there is none.

    It is the newest one before the present that was READY and has another content. If the present
    content came by a rollback to what was READY, it is the present one, even if it fails now: a
    second rollback goes no further back. `revisions` begin with the present one.
    """
    if not revisions:
        return None
    present = revisions[0]
    if _standing_rollback(revisions):
        return present
    return next((r for r in revisions if _was_ready(r) and not _same(r, present)), None)


def to_keep(revisions: Sequence[Revision], most: int = MOST_REVISIONS) -> list[Revision]:
    """Return the revisions to keep: the newest `most`, the newest READY one and the newest READY
    one of another content, and those that show that a rollback goes nowhere. All are in their
    order; at most `most` and four more."""
    # One of both has another content than the next Deploy.
    ready = next(filter(_was_ready, revisions), None)
    other = next((r for r in revisions if _was_ready(r) and ready and not _same(r, ready)), None)
    kept = [*revisions[:most], ready, other, *_standing_rollback(revisions)]
    run = _run_of_present(revisions)
    earlier = [r for r in (ready, other) if r and r.rollback_of and r not in run]
    if any(_same(r, revisions[0]) for r in earlier):
        # What is between: else an earlier rollback would look as if the present came by it.
        kept.append(revisions[len(run)])
    return [revision for revision in revisions if revision in kept]


def _standing_rollback(revisions: Sequence[Revision]) -> Sequence[Revision]:
    """Return the rollback that the present content came by, and the READY revision of that content
    or that it went to. Empty without both: a rollback to what never was READY does not stand.

    Restarts since the rollback change nothing. Its content can be another one than that of its
    target, where a cluster changed it.
    """
    rollback = next((r for r in _run_of_present(revisions) if r.rollback_of), None)
    if rollback is None:
        return []
    ready = next(
        (
            r
            for r in revisions
            if r.outcome is RevisionOutcome.READY
            and (_same(r, rollback) or r.number == rollback.rollback_of)
        ),
        None,
    )
    return [rollback, ready] if ready else []


def _run_of_present(revisions: Sequence[Revision]) -> list[Revision]:
    """Return the newest revision, and those right before it with its content."""
    earlier = takewhile(lambda r: _same(r, revisions[0]), revisions[1:])
    return [*revisions[:1], *earlier]


def _same(one: Revision, other: Revision) -> bool:
    if one.content_digest or other.content_digest:
        return one.content_digest == other.content_digest
    return same_rollout_content(one.content, other.content)


def _was_ready(revision: Revision) -> bool:
    known = revision.content is not None or revision.content_digest
    return revision.outcome is RevisionOutcome.READY and bool(known)


def _news(revision: Revision) -> tuple[object, ...]:
    failure = revision.failure
    return revision.outcome, failure and failure.reason, bool(failure and failure.log_lines)
