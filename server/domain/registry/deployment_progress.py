"""Advance the record of a deployment: pure functions of the record and the present service.

Nothing depends on earlier observations: states may be skipped, repeated or late. A record that has
ended never changes again, and its times never move back, even if the clock does.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from server.domain.errors import ErrorReason, ServiceError
from server.domain.registry.deployment import (
    DeploymentState,
    DesiredState,
    ModelDeployment,
    content_of,
)
from server.domain.registry.storable_text import storable
from server.domain.rollout.rollout_id import End, Outcome, Rollout, RolloutStatus, outcome
from server.domain.rollout.status import State
from server.domain.service.inference_service import InferenceService

GIVE_UP_AFTER = timedelta(seconds=60)
"""A Deploy without an answer and without a service is given up after this: twice the time that a
cluster has to answer it."""


def with_answer(record: ModelDeployment, rollout: Rollout, now: datetime) -> ModelDeployment:
    """Return the record after the cluster has answered with this rollout."""
    if record.end_time or record.rollout:
        return record
    return _changed(record, now, rollout=rollout)


def with_refusal(record: ModelDeployment, error: ServiceError, now: datetime) -> ModelDeployment:
    """Return the record after the cluster has refused the Deploy; a record that already has a
    rollout is unchanged."""
    if record.end_time or record.rollout:
        return record
    return _failed(record, error.reason, error.message, now)


def with_status(
    record: ModelDeployment, seen: InferenceService | None, now: datetime
) -> ModelDeployment:
    """Return the record with the service of its name, as seen by a view that may be behind.

    The same object if nothing changed. An absent service proves nothing: see `needs_confirmation`.
    """
    if record.end_time or seen is None or _is_another(record, seen) or _is_behind(record, seen):
        return record
    if seen.deployment_id != record.id or _content(seen) != record.content:
        return _ended(record, DeploymentState.SUPERSEDED, now)
    verdict = _verdict(seen)
    ready_time = _ready_time(record, seen, verdict, now)
    if seen.status.state is State.DELETING:
        return _deleting(record, seen, ready_time, now)
    return _changed(
        record,
        now,
        rollout=seen.rollout,
        state=_state(ready_time, verdict),
        url=seen.status.url or record.url,
        failure=seen.status.failure,
        ready_time=ready_time,
    )


def needs_confirmation(
    record: ModelDeployment, seen: InferenceService | None, now: datetime
) -> bool:
    """Report whether only the cluster itself can decide about the record, since `seen` is not its
    service. If the cluster, asked after the record was read, has no other, use `with_loss`."""
    if record.end_time or not (seen is None or _is_another(record, seen)):
        return False
    return record.rollout is not None or now - record.create_time >= GIVE_UP_AFTER


def with_loss(record: ModelDeployment, now: datetime) -> ModelDeployment:
    """Return the record after the cluster itself has confirmed that its service is absent."""
    if record.rollout:
        return _ended(
            record, DeploymentState.UNDEPLOYED, now, desired_state=DesiredState.UNDEPLOYED
        )
    why = (
        "the cluster never answered this Deploy, and no service has it: it was not stored, or"
        " another write replaced it at once"
    )
    return _failed(record, ErrorReason.WRITE_OUTCOME_UNKNOWN, why, now)


def _is_another(record: ModelDeployment, seen: InferenceService) -> bool:
    """Report whether this is an earlier or later service of the same name."""
    if record.rollout:
        return seen.uid != record.rollout.uid
    return seen.deployment_id != record.id


def _is_behind(record: ModelDeployment, seen: InferenceService) -> bool:
    return record.rollout is not None and seen.generation < record.rollout.generation


def _content(seen: InferenceService) -> str:
    return content_of(seen.spec) if seen.spec else ""


def _verdict(seen: InferenceService) -> Outcome | None:
    return outcome(seen.rollout, RolloutStatus(seen.rollout, seen.status))


def _ready_time(
    record: ModelDeployment, seen: InferenceService, verdict: Outcome | None, now: datetime
) -> datetime | None:
    first = (record.rollout or seen.rollout).generation
    # READY may have passed while no replica followed.
    passed = (seen.status.latest_ready_generation or 0) >= first
    ready = passed or (verdict is not None and verdict.end is End.READY)
    return record.ready_time or (_never_back(record, now) if ready else None)


def _state(ready_time: datetime | None, verdict: Outcome | None) -> DeploymentState:
    if ready_time:
        return DeploymentState.DEPLOYED
    fails = verdict is not None and verdict.end is End.FAILED
    return DeploymentState.FAILED if fails else DeploymentState.PENDING


def _deleting(
    record: ModelDeployment, seen: InferenceService, ready_time: datetime | None, now: datetime
) -> ModelDeployment:
    return _changed(
        record,
        now,
        rollout=seen.rollout,
        desired_state=DesiredState.UNDEPLOYED,
        state=DeploymentState.DEPLOYED if ready_time else record.state,
        ready_time=ready_time,
    )


def _failed(
    record: ModelDeployment, reason: ErrorReason, message: str, now: datetime
) -> ModelDeployment:
    return _ended(
        record, DeploymentState.FAILED, now, error_reason=str(reason), error_message=message
    )


def _ended(
    record: ModelDeployment, state: DeploymentState, now: datetime, **changes: Any
) -> ModelDeployment:
    return _changed(record, now, state=state, end_time=_never_back(record, now), **changes)


def _changed(record: ModelDeployment, now: datetime, **changes: Any) -> ModelDeployment:
    # Unstorable text would make the record differ from the service at every look.
    changed = storable(replace(record, **changes))
    if changed == record:
        return record
    return replace(changed, update_time=_never_back(record, now))


def _never_back(record: ModelDeployment, now: datetime) -> datetime:
    return max(record.update_time, now)
