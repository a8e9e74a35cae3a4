"""Derives a service's status from its record and its generations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from server.adapters.local.proxy.port_allocator import HOST, PortTaken
from server.adapters.local.proxy.service_address import ListenFailure
from server.adapters.local.rollouts.generation_status import GenerationStatus
from server.adapters.local.stored_service import Record
from server.domain.rollout.facts import ComponentFacts, Facts, Problem
from server.domain.rollout.failures import FAILURES, failure_of
from server.domain.rollout.state_table import decide
from server.domain.rollout.status import (
    Component,
    ComponentStatus,
    FailureReason,
    InferenceServiceStatus,
    TrafficShare,
)
from server.domain.service.inference_service import InferenceService

_LATE_REMEDY = (
    "a slow model may still become ready, and a longer spec.ready_timeout gives it more time"
)


@dataclass(frozen=True, slots=True)
class Observed:
    """The running parts of a service.

    `current` is the status of the desired generation, once that was created; `serving` that of the
    generation that gets the requests. `running` counts the generations that have not ended.
    """

    current: GenerationStatus | None = None
    serving: GenerationStatus | None = None
    running: int = 0
    listen_failure: ListenFailure | None = None


@dataclass(frozen=True, slots=True)
class Derived:
    """A service, and when time alone may change its status."""

    service: InferenceService
    recheck_at: datetime | None


def derive(record: Record, observed: Observed, now: datetime) -> Derived:
    """Return the service with the status that the state table decides on."""
    facts = facts_of(record, observed, now)
    decision = decide(facts)
    failure = decision.failure
    if failure and failure.remedy == FAILURES[FailureReason.PROGRESS_DEADLINE].remedy:
        # There are no pods here.
        failure = replace(failure, remedy=_LATE_REMEDY)
    url = "" if record.deleting or record.stop_requested else _url(record)
    status = InferenceServiceStatus(
        decision.state,
        decision.message,
        serving=facts.serving,
        latest_ready_generation=record.latest_ready_generation,
        failure=failure,
        url=url,
        cluster_url=url,
        serving_runtime=observed.current.runtime if observed.current else "",
        components=tuple(component.shown for component in facts.components),
    )
    return Derived(replace(record.service, status=status), decision.recheck_at)


def facts_of(record: Record, observed: Observed, now: datetime) -> Facts:
    """Return the facts for the state table."""
    current = observed.current or GenerationStatus(record.service.generation)
    listening = observed.listen_failure is None
    ending = record.deleting or record.stop_requested
    return Facts(
        rollout=record.service.rollout,
        now=now,
        written_at=record.written_at,
        components=(_predictor(record, observed, current),),
        deleting=record.deleting,
        stop_asked=record.stop_requested,
        stopped=observed.running == 0,
        reconciled=True,
        ready=current.ready and listening,
        ingress_ready=listening,
        problems=_problems(record, observed.listen_failure),
        ready_timeout=record.desired.spec.ready_timeout,
        activity="waiting for its model server to end" if ending else current.activity,
    )


def _predictor(record: Record, observed: Observed, current: GenerationStatus) -> ComponentFacts:
    serving = observed.serving
    return ComponentFacts(
        ComponentStatus(
            Component.PREDICTOR,
            desired_replicas=0 if record.stop_requested or record.deleting else 1,
            updated_replicas=int(current.begun),
            ready_replicas=int(serving is not None),
            latest_revision=_revision(record, current),
            traffic=(TrafficShare(_revision(record, serving), 100),) if serving else (),
        ),
        present=current.begun or serving is not None,
        applied=current.begun,
        scaled=True,
        complete=current.ready,
        completed_at=current.completed_at,
        available=int(serving is not None and observed.listen_failure is None),
        unavailable_since=current.unavailable_since,
        started_at=current.retried_at or record.written_at,
        ready_once=current.completed_at is not None or record.ready == record.desired,
        stable_at=current.stable_at,
        problems=(current.problem,) if current.problem else (),
    )


def _revision(record: Record, status: GenerationStatus) -> str:
    return f"{record.service.key.name}-predictor-{status.generation}"


def _url(record: Record) -> str:
    return f"http://{HOST}:{record.port}"


def _problems(record: Record, failed: ListenFailure | None) -> tuple[Problem, ...]:
    if failed is None:
        return ()
    if isinstance(failed.error, PortTaken):
        message = f"another process listens on {_url(record)}, the address of this service"
        remedy = "end that process; the service then takes its address back"
    else:
        message = (
            f"{_url(record)}, the address of this service, cannot be listened on:"
            f" {failed.error.strerror}"
        )
        remedy = "raise this machine's limit of open files, or free memory; it is tried again"
    failure = failure_of(
        FailureReason.INGRESS, message, remedy=remedy, first_seen_time=failed.since
    )
    return (Problem(failure, failed.since),)
