"""What the record of a deployment comes to say: pure, from the record and what is seen of it now.

Nothing depends on what was seen before: states may be passed over, come twice or come late. A
record at its end never changes again, and no time in it moves back, whatever the clock does.
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

UNSEEN_FOR = timedelta(seconds=60)
"""After so long a Deploy is given up that no service carries: twice what a cluster has to answer
it."""


def answered(record: ModelDeployment, rollout: Rollout, now: datetime) -> ModelDeployment:
    """The record once the cluster has answered that this rollout carries it."""
    if record.end_time or record.rollout:
        return record
    return _changed(record, now, rollout=rollout)


def refused(record: ModelDeployment, error: ServiceError, now: datetime) -> ModelDeployment:
    """The record once the cluster has refused the Deploy; one that was seen to carry it is right
    all the same."""
    if record.end_time or record.rollout:
        return record
    return _failed(record, error.reason, error.message, now)


def followed(
    record: ModelDeployment, seen: InferenceService | None, now: datetime
) -> ModelDeployment:
    """The record after a look at the service of its name, by a view that may be behind.

    The very same object where there is nothing new. An absence is never believed: see `in_doubt`.
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


def in_doubt(record: ModelDeployment, seen: InferenceService | None, now: datetime) -> bool:
    """Whether only the cluster itself can tell what became of the record: its service is not what
    is `seen`. If the cluster, asked after the record was read, shows no other, it is `lost`."""
    if record.end_time or not (seen is None or _is_another(record, seen)):
        return False
    return record.rollout is not None or now - record.create_time >= UNSEEN_FOR


def lost(record: ModelDeployment, now: datetime) -> ModelDeployment:
    """The record once the cluster itself has confirmed that its service is not there."""
    if record.rollout:
        return _ended(
            record, DeploymentState.UNDEPLOYED, now, desired_state=DesiredState.UNDEPLOYED
        )
    why = (
        "the cluster never told what became of this Deploy, and no service carries it:"
        " it was not stored, or another replaced it at once"
    )
    return _failed(record, ErrorReason.WRITE_OUTCOME_UNKNOWN, why, now)


def _is_another(record: ModelDeployment, seen: InferenceService) -> bool:
    """Whether this is not the record's service, but one that was there before or came after it."""
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
    # READY may have been passed while nobody followed.
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
    # Of what cannot be stored, the record would differ from what is seen at every look.
    changed = storable(replace(record, **changes))
    if changed == record:
        return record
    return replace(changed, update_time=_never_back(record, now))


def _never_back(record: ModelDeployment, now: datetime) -> datetime:
    return max(record.update_time, now)
