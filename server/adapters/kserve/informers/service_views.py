"""Derive services, as callers see them, from the cached objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from server.adapters.kserve.informers.object_cache import ObjectCache
from server.adapters.kserve.manifests.object_parser import parse_object, service_of
from server.adapters.kserve.objects import Object, name_of, uid_of
from server.adapters.kserve.status.knative.sticky_failures import StickyFailures
from server.adapters.kserve.status.observed_objects import LogExcerpt, ObservedObjects
from server.adapters.kserve.status.pods.failure_log import (
    LogRequest,
    failed_container,
    failure_log_request,
    startup_log_request,
)
from server.adapters.kserve.status.pods.redaction import gate_for_service
from server.adapters.kserve.status.service_status import facts_of, status_of
from server.adapters.kserve.status.staleness import StalenessCheck
from server.domain.rollout.container_output import OutputGate
from server.domain.rollout.facts import Facts
from server.domain.rollout.state_table import Decision, decide
from server.domain.rollout.status import InferenceServiceStatus, State
from server.domain.service.inference_service import InferenceService, ServiceKey

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A derived service, the time at which its status may change by itself, and a log to fetch."""

    service: InferenceService
    recheck_at: datetime | None = None
    log_wanted: LogRequest | None = None


@dataclass(slots=True)
class _History:
    """What the present objects of one uid do not show.

    `pods`: by name, the pods of the sticky failures, deleted ones too.
    """

    uid: str
    staleness: StalenessCheck = field(default_factory=StalenessCheck)
    sticky_failures: StickyFailures = field(default_factory=StickyFailures)
    pods: dict[str, Object] = field(default_factory=dict)
    ready_generation: int | None = None
    log_kept: LogRequest | None = None
    logs: dict[tuple[str, str], LogExcerpt] = field(default_factory=dict)

    def keep_log(self, wanted: LogRequest, log: LogExcerpt) -> None:
        """Keep the last log. If its run wrote nothing, keep the lines of the run before."""
        before = self.logs.get(wanted.source, LogExcerpt())
        shown = log if log.lines else before
        kept = replace(log, lines=shown.lines, load_failed=shown.load_failed)
        self.log_kept, self.logs = wanted, {wanted.source: kept}

    def hold(self, facts: Facts, pods: Iterable[Object]) -> None:
        """Keep the present failures, with their pods."""
        self.sticky_failures = self.sticky_failures.updated(facts)
        named = {held.problem.failure.pod for held in self.sticky_failures.by_component.values()}
        pods = (*self.pods.values(), *pods)
        self.pods = {name: pod for pod in pods if (name := name_of(pod)) in named}

    def gate(self, observed: ObservedObjects, pod: str, container: str) -> OutputGate:
        """Return the present gate for a container's text: of its pod if that is known, else of the
        whole service."""
        found = next((p for p in observed.pods if name_of(p) == pod), self.pods.get(pod))
        return (
            observed.output_policy.gate_for_container(found, container)
            if found
            else gate_for_service(observed)
        )


class ServiceViews:
    """Derive services on demand, so that no report is older than the cached objects."""

    def __init__(self, object_cache: ObjectCache) -> None:
        self._object_cache = object_cache
        self._histories: dict[ServiceKey, _History] = {}
        # The objects of each change that is recorded and not derived yet.
        self._recorded: dict[ServiceKey, ObservedObjects] = {}

    def record(self, key: ServiceKey, now: datetime) -> None:
        """Record a change in the service's history. The next change may overwrite its objects."""
        self._recorded.pop(key, None)
        observed = self._object_cache.observed(key)
        if observed is None:
            self.forget(key)
            return
        try:
            self._update_history(key, observed, now)
        except Exception:
            log.exception("a change could not be recorded", service=str(key))
        else:
            self._recorded[key] = observed

    def forget(self, key: ServiceKey) -> None:
        """Forget a deleted service."""
        self._histories.pop(key, None)

    def stop_recording(self) -> None:
        """Forget the recorded objects: later changes may not be recorded."""
        self._recorded.clear()

    def keep_log(self, key: ServiceKey, wanted: LogRequest, log: LogExcerpt, now: datetime) -> None:
        """Show the last lines of a log, read `now`, with the failure that they explain."""
        if key in self._histories:
            read = replace(
                log,
                read_at=now,
                restart_count=wanted.restart_count,
                log_read=wanted.log_read,
            )
            self._histories[key].keep_log(wanted, read)

    def derive(self, key: ServiceKey, now: datetime) -> ServiceView | None:
        """Derive the service as it is now. None if there is none, or it cannot be read at all."""
        recorded = self._recorded.pop(key, None)
        observed = recorded or self._object_cache.observed(key)
        if observed is None:
            return None
        try:
            history = self._histories[key] if recorded else self._update_history(key, observed, now)
            return self._derive(history, observed, now)
        # An object that we cannot read must not stop the reports of other services.
        except Exception:
            log.exception("a status could not be derived", service=str(key))
            return _without_status(key, observed)

    def _derive(self, history: _History, observed: ObservedObjects, now: datetime) -> ServiceView:
        if history.logs:
            observed = replace(observed, logs=history.logs)
        facts = facts_of(observed, history.staleness, now)
        history.hold(facts, observed.pods)
        # The text of containers may have been readable then, and may not be shown now.
        held = history.sticky_failures.redacted(
            lambda f: history.gate(observed, f.pod, f.container)
        )
        facts = held.added_to(facts)
        generation = facts.rollout.generation
        if history.ready_generation == generation:
            facts = replace(facts, was_ready=True)
        decision = decide(facts)
        if decision.state is State.READY:
            history.ready_generation = generation
        explains = failure_log_request(observed, decision, now)
        wanted = explains or startup_log_request(observed, facts)
        # Lines of an earlier run of the container are shown until newer ones are read, and lines of
        # a deleted pod stay.
        source = explains.source if explains else failed_container(decision.failure)
        log = history.logs.get(source) if source else None
        lines = log.lines if log else ()
        if lines and source and (held_back := history.gate(observed, *source).held_back):
            lines = (held_back,)
        decision = _with_log(decision, lines)
        status = status_of(observed, facts, decision, history.ready_generation)
        missing = None if history.log_kept == wanted else wanted
        service = observed.cache.parse(parse_object, observed.service).service(status)
        return ServiceView(service, decision.recheck_at, missing)

    def _update_history(
        self, key: ServiceKey, observed: ObservedObjects, now: datetime
    ) -> _History:
        uid = uid_of(observed.service)
        history = self._histories.get(key)
        if history is None or history.uid != uid:
            history = self._histories[key] = _History(uid)
        history.staleness = history.staleness.updated(observed, now)
        return history


def _with_log(decision: Decision, lines: Sequence[str]) -> Decision:
    if not lines or decision.failure is None:
        return decision
    return replace(decision, failure=replace(decision.failure, log_lines=tuple(lines)))


def _without_status(key: ServiceKey, observed: ObservedObjects) -> ServiceView | None:
    status = InferenceServiceStatus(
        State.PENDING, "the state is unknown: an object of the service could not be read"
    )
    try:
        return ServiceView(service_of(observed.service, status))
    except Exception:
        log.exception("a service could not be read", service=str(key))
        return None
