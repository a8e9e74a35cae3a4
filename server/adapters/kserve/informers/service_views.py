"""From what the mirror holds of a service to the service as callers see it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from server.adapters.kserve.informers.object_cache import Mirror
from server.adapters.kserve.manifests.object_parser import parse_object, service_of
from server.adapters.kserve.objects import Object, name_of, rollout_of, uid_of
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
class Derived:
    """A service, when it must be looked at again though nothing changes, and a log to fetch."""

    service: InferenceService
    recheck_at: datetime | None = None
    log_wanted: LogRequest | None = None


@dataclass(slots=True)
class _Memory:
    """What one uid's present state alone does not tell.

    `pods`: by name, those of the failures that are held, though they may be gone.
    """

    uid: str
    staleness: StalenessCheck = field(default_factory=StalenessCheck)
    sticky_failures: StickyFailures = field(default_factory=StickyFailures)
    pods: dict[str, Object] = field(default_factory=dict)
    ready_generation: int | None = None
    log_kept: LogRequest | None = None
    logs: dict[tuple[str, str], LogExcerpt] = field(default_factory=dict)

    def keep_log(self, wanted: LogRequest, log: LogExcerpt) -> None:
        """Keep the last log only, and of a run that said nothing the lines of the one before."""
        before = self.logs.get(wanted.source, LogExcerpt())
        said = log if log.lines else before
        kept = replace(log, lines=said.lines, load_failed=said.load_failed)
        self.log_kept, self.logs = wanted, {wanted.source: kept}

    def hold(self, facts: Facts, pods: Iterable[Object]) -> None:
        """Take in what fails now, with the pods that it is about."""
        self.sticky_failures = self.sticky_failures.updated(facts)
        named = {held.problem.failure.pod for held in self.sticky_failures.by_component.values()}
        pods = (*self.pods.values(), *pods)
        self.pods = {name: pod for pod in pods if (name := name_of(pod)) in named}

    def gate(self, observed: ObservedObjects, pod: str, container: str) -> OutputGate:
        """The gate, as it is now, for what was read of a container: of its pod if that is known,
        else that of the whole service."""
        found = next((p for p in observed.pods if name_of(p) == pod), self.pods.get(pod))
        return (
            observed.output_policy.gate_for_container(found, container)
            if found
            else gate_for_service(observed)
        )


class Deriving:
    """Derives services on demand, so that nothing told can be older than what is known."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._memories: dict[ServiceKey, _Memory] = {}
        # Of each change that is not reported yet: the objects, of which evidence has been taken,
        # or what was derived from them for an answer.
        self._unreported: dict[ServiceKey, ObservedObjects | Derived] = {}

    def note(self, key: ServiceKey, now: datetime) -> None:
        """Take evidence of a change. Each change needs it: the next one may cover it."""
        self._unreported.pop(key, None)
        observed = self._mirror.observed(key)
        if observed is None:
            self._memories.pop(key, None)
            return
        try:
            self._remember(key, observed, now)
        except Exception:
            log.exception("evidence could not be taken", service=str(key))
        else:
            self._unreported[key] = observed

    def stop_noting(self) -> None:
        """Read all objects anew: later changes may not be noted."""
        self._unreported.clear()

    def keep_log(self, key: ServiceKey, wanted: LogRequest, log: LogExcerpt, now: datetime) -> None:
        """Let the last lines of a log, read `now`, go with the failure that they explain."""
        if key in self._memories:
            read = replace(
                log,
                read_at=now,
                restart_count=wanted.restart_count,
                log_read=wanted.log_read,
            )
            self._memories[key].keep_log(wanted, read)

    def derive(self, key: ServiceKey, now: datetime) -> Derived | None:
        """Derive the service for an answer; None where there is none, or nothing of it is
        understood. `report` gives the same while nothing changes."""
        unreported = self._unreported.get(key)
        derived = self._derived(key, unreported, now)
        if unreported and derived:
            self._unreported[key] = derived
        return derived

    def report(self, key: ServiceKey, now: datetime) -> Derived | None:
        """Derive the service for the feed, once for each change; None as `derive`."""
        return self._derived(key, self._unreported.pop(key, None), now)

    def _derived(
        self, key: ServiceKey, unreported: ObservedObjects | Derived | None, now: datetime
    ) -> Derived | None:
        if isinstance(unreported, Derived):
            return unreported
        observed = unreported or self._mirror.observed(key)
        if observed is None:
            return None
        try:
            memory = self._memories[key] if unreported else self._remember(key, observed, now)
            return self._derive(memory, observed, now)
        # One object that we cannot read must not keep the others from being told.
        except Exception:
            log.exception("a status could not be derived", service=str(key))
            return _without_status(key, observed)

    def _derive(self, memory: _Memory, observed: ObservedObjects, now: datetime) -> Derived:
        observed = replace(observed, logs=memory.logs)
        facts = facts_of(observed, memory.staleness, now)
        memory.hold(facts, observed.pods)
        # Whether what containers wrote may be shown can have changed since it was read.
        held = memory.sticky_failures.redacted(lambda f: memory.gate(observed, f.pod, f.container))
        facts = held.added_to(facts)
        generation = rollout_of(observed.service).generation
        facts = replace(facts, was_ready=memory.ready_generation == generation)
        decision = decide(facts)
        if decision.state is State.READY:
            memory.ready_generation = generation
        explains = failure_log_request(observed, decision, now)
        wanted = explains or startup_log_request(observed, facts)
        # Those of an earlier run of the same container too, until the newer ones are there, and
        # those of a pod that is gone.
        source = explains.source if explains else failed_container(decision.failure)
        log = memory.logs.get(source) if source else None
        lines = log.lines if log else ()
        if lines and source and (held_back := memory.gate(observed, *source).held_back):
            lines = (held_back,)
        decision = _with_log(decision, lines)
        status = status_of(observed, facts, decision, memory.ready_generation)
        missing = None if memory.log_kept == wanted else wanted
        service = observed.cache.parse(parse_object, observed.service).service(status)
        return Derived(service, decision.recheck_at, missing)

    def _remember(self, key: ServiceKey, observed: ObservedObjects, now: datetime) -> _Memory:
        uid = uid_of(observed.service)
        memory = self._memories.get(key)
        if memory is None or memory.uid != uid:
            memory = self._memories[key] = _Memory(uid)
        memory.staleness = memory.staleness.updated(observed, now)
        return memory


def _with_log(decision: Decision, lines: Sequence[str]) -> Decision:
    if not lines or decision.failure is None:
        return decision
    return replace(decision, failure=replace(decision.failure, log_lines=tuple(lines)))


def _without_status(key: ServiceKey, observed: ObservedObjects) -> Derived | None:
    status = InferenceServiceStatus(
        State.PENDING, "its state cannot be told: what the cluster says of it is not understood"
    )
    try:
        return Derived(service_of(observed.service, status))
    except Exception:
        log.exception("a service could not be read", service=str(key))
        return None
