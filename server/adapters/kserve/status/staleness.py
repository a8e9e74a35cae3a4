"""Whether KServe refuses what was asked, by staleness that is newer than the write.

Right after a fixing write the object still carries the refusal of the one before, and a busy
controller may go on saying so. So a status counts when it was seen to move after this process first
held the generation, or when the cluster's own times put it after the write; an event when KServe
looked at an object of this generation, or long after the write. A generation of 1 has no write
before it.

Where nothing tells, a refusal that has stood for a while counts too: a second write that is refused
for the same cause may leave the status as it was, its event is counted with the first one's, and
Kubernetes drops an object's events after some 25.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from server.adapters.kserve.objects import (
    Object,
    created_at,
    get_list,
    get_map,
    parse_time,
    rollout_of,
    uid_of,
)
from server.adapters.kserve.status.grace_periods import GRACE_PERIODS, GracePeriods
from server.adapters.kserve.status.kserve_errors import (
    READY_CONDITIONS,
    KServeError,
    error_in_event,
    error_in_status,
    is_reconcile_error,
    reconcile_error,
)
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.domain.rollout.facts import Problem
from server.domain.rollout.rollout_id import Rollout

# Events carry the clock of KServe's controller, not the API server's.
CLOCKS_DIFFER_BY = timedelta(seconds=1)
# How long after a write a controller may still act on the object before it.
CONTROLLER_LAGS_BY = timedelta(seconds=5)
# Of a service whose status never rests; the first ones matter.
MOST_VERSIONS = 64


@dataclass(frozen=True, slots=True)
class StalenessCheck:
    """What a process remembers of one rollout: the status when it first held it, and every
    resourceVersion that the object has had since.

    `error_since`: when a refusal newer than the write was first seen to stand. `failing_since`:
    when KServe was first seen to fail at reconciling a component, which it has not got over since.
    """

    rollout: Rollout | None = None
    status: Object = field(default_factory=dict)
    versions: frozenset[str] = frozenset()
    error_since: datetime | None = None
    failing_since: datetime | None = None

    def updated(self, observed: ObservedObjects, now: datetime) -> StalenessCheck:
        """Take in what is seen now; to be called at each change."""
        rollout = rollout_of(observed.service)
        held = self if rollout == self.rollout else _first_held(rollout, observed)
        held = replace(
            held,
            versions=_with_version(held.versions, observed.service),
            failing_since=held.failing_since_by(observed.service, now),
        )
        if held.error(observed, now) is None:
            return replace(held, error_since=None)
        return replace(held, error_since=held.error_since or now)

    def problem(
        self, observed: ObservedObjects, now: datetime, grace: GracePeriods
    ) -> Problem | None:
        """The refusal that stands, if any."""
        error = self.error(observed, now, grace)
        if error is None:
            return None
        since = self.error_since or now
        return Problem(error.failure(since, observed), since)

    def is_unheard(self, observed: ObservedObjects) -> bool:
        """Whether KServe has said nothing since the write, in the status or by an event."""
        service, written = observed.service, written_at(observed.service)
        return (
            not self._first_generation()
            and get_map(service, "status") == self.status
            and (_status_written_at(service) or written) <= written
            and not any(self._new_events(observed, written, GRACE_PERIODS))
        )

    def failing_since_by(self, service: Object, now: datetime) -> datetime | None:
        """Since when reconciles fail; a race that KServe lost neither begins nor ends that."""
        if not any(is_reconcile_error(service, kind) for kind in READY_CONDITIONS):
            return None
        fails = any(reconcile_error(service, kind) for kind in READY_CONDITIONS)
        return self.failing_since or (now if fails else None)

    def reconcile_problem(
        self, observed: ObservedObjects, ready_condition: str, now: datetime, grace: GracePeriods
    ) -> Problem | None:
        """What keeps KServe from making all of a component whose pods are of this rollout.

        Of an error that may be the one of the write before, nothing is said until it has stood for
        long: where Knative has reported nothing yet, a reconcile that succeeds leaves it there.
        """
        service = observed.service
        error = reconcile_error(service, ready_condition)
        if error is None:
            return None
        written = written_at(service)
        since = self.failing_since or now
        if (
            error.at < written
            and not self._first_generation()
            and not any(map(error_in_event, self._new_events(observed, now, grace)))
        ):
            since = max(since, written + grace.refusal_in_doubt)
        return Problem(error.failure(since, observed), since, grace.unreconciled)

    def error(
        self, observed: ObservedObjects, now: datetime, grace: GracePeriods = GRACE_PERIODS
    ) -> KServeError | None:
        """The newest refusal that is newer than the write. An event tells more than the status."""
        events = self._new_events(observed, now, grace)
        told = [r for e in events if (r := error_in_event(e))]
        if told:
            return max(told, key=lambda r: r.at)
        if self._status_is_new(observed.service, now, grace):
            return error_in_status(observed.service)
        return None

    def _new_events(
        self, observed: ObservedObjects, now: datetime, grace: GracePeriods
    ) -> Iterator[Object]:
        written = written_at(observed.service)
        for event in _events_of(observed):
            last = parse_time(event.get("lastTimestamp")) or written
            about_then = written - CLOCKS_DIFFER_BY <= last
            if (
                self._is_about_this(event)
                or last > written + CONTROLLER_LAGS_BY
                or (about_then and now >= written + grace.refusal_in_doubt)
            ):
                yield event

    def _is_about_this(self, event: Object) -> bool:
        """Whether KServe had the write when it first said so."""
        seen = get_map(event, "involvedObject").get("resourceVersion")
        return self._first_generation() or seen in self.versions

    def _first_generation(self) -> bool:
        return self.rollout is not None and self.rollout.generation == 1

    def _status_is_new(self, service: Object, now: datetime, grace: GracePeriods) -> bool:
        written = written_at(service)
        # KServe's writes carry the resourceVersion that they rest on, so that a status written
        # after the spec is about that spec.
        return (
            get_map(service, "status") != self.status
            or (_status_written_at(service) or written) > written
            or now >= written + grace.refusal_in_doubt
        )


def written_at(service: Object) -> datetime:
    """When the spec was last written, by the API server's clock, in whole seconds."""
    times = [
        parse_time(entry.get("time"))
        for entry in get_list(service, "metadata", "managedFields")
        if not entry.get("subresource") and "f:spec" in get_map(entry, "fieldsV1")
    ]
    return max((t for t in times if t), default=created_at(service))


def _first_held(rollout: Rollout, observed: ObservedObjects) -> StalenessCheck:
    if rollout.generation == 1:
        return StalenessCheck(rollout)
    return StalenessCheck(rollout, get_map(observed.service, "status"))


def _status_written_at(service: Object) -> datetime | None:
    times = [
        parse_time(entry.get("time"))
        for entry in get_list(service, "metadata", "managedFields")
        if entry.get("subresource") == "status"
    ]
    return max((t for t in times if t), default=None)


def _events_of(observed: ObservedObjects) -> Iterator[Object]:
    uid = uid_of(observed.service)
    return (e for e in observed.events if get_map(e, "involvedObject").get("uid") == uid)


def _with_version(versions: frozenset[str], service: Object) -> frozenset[str]:
    version = str(get_map(service, "metadata").get("resourceVersion", ""))
    return versions if len(versions) >= MOST_VERSIONS else versions | {version}
