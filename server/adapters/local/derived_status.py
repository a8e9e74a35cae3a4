"""How a service is, by what is stored of it and what is seen of its generations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from server.adapters.local.proxy.port_allocator import HOST, PortTaken
from server.adapters.local.proxy.service_address import Lost
from server.adapters.local.rollouts.generation_status import Sight
from server.adapters.local.stored_service import Record
from server.domain.rollout.facts import ComponentFacts, Facts, Problem
from server.domain.rollout.failures import failure_of
from server.domain.rollout.state_table import decide
from server.domain.rollout.status import (
    Component,
    ComponentStatus,
    FailureReason,
    InferenceServiceStatus,
    TrafficShare,
)
from server.domain.service.inference_service import InferenceService


@dataclass(frozen=True, slots=True)
class Seen:
    """All that is seen of a service.

    `current`: the generation that is asked for, once it has one; `serving`: the one that requests
    go to; `left`: how many generations are not ended yet. `lost`: why its address is not
    listened on.
    """

    current: Sight | None = None
    serving: Sight | None = None
    left: int = 0
    lost: Lost | None = None


@dataclass(frozen=True, slots=True)
class Derived:
    """The service, and when time alone may change it."""

    service: InferenceService
    recheck_at: datetime | None


def url_of(record: Record) -> str:
    """The service's address, for as long as it lives."""
    return f"http://{HOST}:{record.port}"


def derive(record: Record, seen: Seen, now: datetime) -> Derived:
    """The service with the verdict of the state table."""
    facts = facts_of(record, seen, now)
    decision = decide(facts)
    url = "" if record.deleting or record.stop_asked else url_of(record)
    status = InferenceServiceStatus(
        decision.state,
        decision.message,
        serving=facts.serving,
        latest_ready_generation=record.latest_ready_generation,
        failure=decision.failure,
        url=url,
        cluster_url=url,
        serving_runtime=_runtime(seen),
        components=tuple(component.shown for component in facts.components),
    )
    return Derived(replace(record.service, status=status), decision.recheck_at)


def facts_of(record: Record, seen: Seen, now: datetime) -> Facts:
    """What is seen, in the terms of the state table."""
    current = seen.current or Sight(record.service.generation)
    listening = seen.lost is None
    return Facts(
        rollout=record.service.rollout,
        now=now,
        written_at=record.written_at,
        components=(_predictor(record, seen, current),),
        deleting=record.deleting,
        stop_asked=record.stop_asked,
        stopped=seen.left == 0,
        reconciled=True,
        ready=current.ready and listening,
        ingress_ready=listening,
        problems=_problems(record, seen),
        activity=_doing(record, current),
    )


def _predictor(record: Record, seen: Seen, current: Sight) -> ComponentFacts:
    serving = seen.serving
    return ComponentFacts(
        _shown(record, seen, current),
        present=current.begun or serving is not None,
        applied=current.begun,
        scaled=True,
        complete=current.ready,
        completed_at=current.completed_at,
        available=int(serving is not None and seen.lost is None),
        unavailable_since=current.unavailable_since,
        stable_at=current.stable_at,
        problems=(current.problem,) if current.problem else (),
    )


def _shown(record: Record, seen: Seen, current: Sight) -> ComponentStatus:
    serving = seen.serving
    return ComponentStatus(
        Component.PREDICTOR,
        desired_replicas=0 if record.stop_asked or record.deleting else 1,
        updated_replicas=int(current.begun),
        ready_replicas=int(serving is not None),
        latest_revision=_revision(record, current),
        traffic=(TrafficShare(_revision(record, serving), 100),) if serving else (),
    )


def _revision(record: Record, sight: Sight) -> str:
    return f"{record.service.key.name}-predictor-{sight.generation}"


def _runtime(seen: Seen) -> str:
    return seen.current.runtime if seen.current else ""


def _doing(record: Record, current: Sight) -> str:
    if record.deleting or record.stop_asked:
        return "waiting for its model server to end"
    return current.activity


def _problems(record: Record, seen: Seen) -> tuple[Problem, ...]:
    if seen.lost is None:
        return ()
    message, remedy = _told(url_of(record), seen.lost.why)
    since = seen.lost.since
    failure = failure_of(FailureReason.INGRESS, message, remedy=remedy, first_seen_time=since)
    return (Problem(failure, since),)


def _told(url: str, why: OSError) -> tuple[str, str]:
    """What happened to the address, and what to do."""
    if isinstance(why, PortTaken):
        return (
            f"another process listens on {url}, the address of this service",
            "end that process; the service takes its address back then",
        )
    return (
        f"{url}, the address of this service, cannot be listened on: {why.strerror}",
        "raise this machine's limit of open files, or free memory; it is tried again",
    )
