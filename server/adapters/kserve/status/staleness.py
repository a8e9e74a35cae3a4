"""Decide whether an error or a stop that KServe reports is about the present object.

Right after a write that fixes a service, the object still carries the error of the write before,
and a busy controller may repeat it. So a status counts once it was seen to change after this
process first saw the generation, or once the cluster's own times put it after the write. An event
counts if KServe acted on an object of this generation, or long after the write. Generation 1 has no
write before it.

Otherwise an error counts once it has lasted for STALE_ERROR. A second write that is rejected for
the same cause may leave the status unchanged, its event is counted with the first one's, and
Kubernetes drops an object's events after some 25.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from server.adapters.kserve.objects import Object, get_map, parse_time
from server.adapters.kserve.status.grace_periods import RECONCILE_ERROR, STALE_ERROR, STOP_CURRENT
from server.adapters.kserve.status.kserve_errors import KServeError, event_error
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.parsed_service import ParsedService, parse_service
from server.adapters.kserve.status.pods.pod_context import events_by_subject
from server.domain.rollout.facts import Problem
from server.domain.rollout.rollout_id import Rollout
from server.domain.service.commands import is_stop_requested

# Events carry the clock of KServe's controller, not that of the API server.
CLOCK_SKEW = timedelta(seconds=1)
# A controller may act on the object before a write for so long after it.
CONTROLLER_LAG = timedelta(seconds=5)
_UNKNOWN = datetime.min.replace(tzinfo=UTC)
# The first versions of a generation matter, even if its status never stops changing.
MAX_VERSIONS = 64


class ServiceEvent(NamedTuple):
    """Hold a warning about the InferenceService. `version`: that of the object KServe acted on."""

    error: KServeError | None
    last_seen: datetime | None
    version: str


@dataclass(frozen=True, slots=True)
class StalenessCheck:
    """Remember the states in which this process has seen one rollout.

    `status`: the digest of the status when the rollout was first seen. `versions`: every
    resourceVersion of the rollout. `events`: the present warnings about the service. `error_since`:
    since when an error that is newer than the write lasts. `failing_since`: since when KServe fails
    to reconcile a component. `stop_status`: the digest of the status when the service was first
    seen to be asked to stop; None while it is not.
    """

    rollout: Rollout | None = None
    status: bytes = b""
    versions: tuple[str, ...] = ()
    events: Sequence[ServiceEvent] = ()
    error_since: datetime | None = None
    failing_since: datetime | None = None
    stop_status: bytes | None = None

    def updated(self, observed: ObservedObjects, now: datetime) -> StalenessCheck:
        """Return the check with the present objects taken in. Call it at each change."""
        service, check = parse_service(observed), self
        if service.rollout != self.rollout:
            first = service.rollout.generation == 1
            check = StalenessCheck(service.rollout, b"" if first else service.status_digest)
        check = replace(check, stop_status=self._stop_status(service))
        # A race that KServe lost neither starts nor ends a failure.
        failing_since = check.failing_since if service.reconcile_failed else None
        if service.reconcile_errors:
            failing_since = failing_since or now
        versions = check.versions
        if len(versions) < MAX_VERSIONS and service.version not in versions:
            versions = (*versions, service.version)
        events = observed.cache.parse(
            _parse_events, events_by_subject(observed).get(service.uid, ())
        )
        check = replace(check, versions=versions, events=events, failing_since=failing_since)
        error_since = (check.error_since or now) if check.error(service, now) else None
        if error_since == check.error_since:
            return check
        return replace(check, error_since=error_since)

    def problem(
        self, service: ParsedService, observed: ObservedObjects, now: datetime
    ) -> Problem | None:
        """Return the error that is newer than the write, if any."""
        error = self.error(service, now)
        if error is None:
            return None
        return error.problem(_since(error, service, self.error_since or now), observed)

    def error(self, service: ParsedService, now: datetime) -> KServeError | None:
        """Return the newest error that is newer than the write: events are more exact."""
        errors = [e.error for e in self._new_events(service, now) if e.error]
        if errors:
            return max(errors, key=lambda e: e.time)
        # KServe's writes carry the resourceVersion that they are based on, so a status that was
        # written after the spec is about that spec.
        written_at = service.written_at
        is_new = service.status_error and (
            service.status_digest != self.status
            or (service.status_written_at or written_at) > written_at
            or now >= written_at + STALE_ERROR
        )
        return service.status_error if is_new else None

    def is_controller_silent(self, service: ParsedService) -> bool:
        """Return whether KServe has reported nothing since the write, by status or event."""
        return (
            service.rollout.generation != 1
            and service.status_digest == self.status
            and (service.status_written_at or service.written_at) <= service.written_at
            and not any(self._new_events(service, service.written_at))
        )

    def is_stop_current(self, service: ParsedService, now: datetime) -> bool:
        """Return whether the condition Stopped is about the present stop.

        After a start and another stop it can still be that of the stop before, while KServe acts on
        the start and makes pods.
        """
        asked_at = service.stop_asked_at
        return (
            (self.stop_status is not None and service.status_digest != self.stop_status)
            or (service.status_written_at or asked_at) > asked_at
            or now >= asked_at + STOP_CURRENT
        )

    def _stop_status(self, service: ParsedService) -> bytes | None:
        if not is_stop_requested(service.annotations):
            return None
        if self.rollout is None or self.stop_status is None:
            return service.status_digest
        # A start in between would have had a generation of its own.
        uid, generation = service.rollout
        same_stop = uid == self.rollout.uid and generation <= self.rollout.generation + 1
        return self.stop_status if same_stop else service.status_digest

    def reconcile_problem(
        self, error: KServeError, service: ParsedService, observed: ObservedObjects, now: datetime
    ) -> Problem:
        """Return the problem of a component whose pods are of this rollout.

        An error that may be about the write before is not reported until it has lasted: while
        Knative has reported nothing, a reconcile that succeeds leaves it in the status.
        """
        since = _since(error, service, self.failing_since or now)
        if (
            error.time < service.written_at
            and service.rollout.generation != 1
            and not any(e.error for e in self._new_events(service, now))
        ):
            since = max(since, service.written_at + STALE_ERROR)
        return error.problem(since, observed, RECONCILE_ERROR)

    def _new_events(self, service: ParsedService, now: datetime) -> Iterator[ServiceEvent]:
        written_at, first = service.written_at, service.rollout.generation == 1
        for event in self.events:
            last_seen = event.last_seen or written_at
            if (
                first
                or event.version in self.versions
                or last_seen > written_at + CONTROLLER_LAG
                or (written_at - CLOCK_SKEW <= last_seen and now >= written_at + STALE_ERROR)
            ):
                yield event


def _since(error: KServeError, service: ParsedService, seen: datetime) -> datetime:
    """Return since when an error lasts; this process has seen it since `seen`.

    An object in the way is tolerated for long. So it counts from the cluster's own times: a replica
    that has just started comes to the same state as the others.
    """
    if error.conflict is None or error.first_time == _UNKNOWN:
        return seen
    return min(seen, max(error.first_time, service.written_at))


def _parse_events(events: tuple[Object, ...]) -> list[ServiceEvent]:
    return [
        ServiceEvent(
            event_error(event),
            parse_time(event.get("lastTimestamp")),
            str(get_map(event, "involvedObject").get("resourceVersion", "")),
        )
        for event in events
    ]
