"""How a container of a pod has fared: its exits, and whether it is to be believed again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from server.adapters.kserve.objects import Object, get_condition, get_list, get_map, parse_time
from server.adapters.kserve.status.grace_periods import GracePeriods


@dataclass(frozen=True, slots=True)
class Exit:
    """The last end of a container. `soon`: the run before it was short; `count`: ends so far."""

    code: int
    reason: str
    message: str
    at: datetime | None
    ran_for: float | None
    count: int
    soon: bool

    @property
    def repeated(self) -> bool:
        """It ends again and again."""
        return self.soon and self.count > 1

    @property
    def never_started(self) -> bool:
        """The container runtime could not run its command."""
        return self.reason in ("StartError", "ContainerCannotRun")


def init_statuses(pod: Object) -> list[Object]:
    """The pod's init containers as its status has them, in the order in which they run."""
    return get_list(pod, "status", "initContainerStatuses")


def main_statuses(pod: Object) -> list[Object]:
    """The pod's main containers as its status has them."""
    return get_list(pod, "status", "containerStatuses")


def last_exit(status: Object, grace: GracePeriods) -> Exit | None:
    """The container's last end, or None if it never ended."""
    ended_now = get_map(status, "state", "terminated")
    ended = ended_now or get_map(status, "lastState", "terminated")
    if not ended:
        return None
    started, finished = _started_at(ended), parse_time(ended.get("finishedAt"))
    ran_for = (finished - started).total_seconds() if started and finished else None
    waits_again = bool(get_map(status, "state", "waiting"))
    exits = int(status.get("restartCount") or 0) + bool(ended_now or waits_again)
    soon = ran_for is None or ran_for < grace.recovered.total_seconds()
    return Exit(
        int(ended.get("exitCode") or 0),
        str(ended.get("reason") or ""),
        str(ended.get("message") or "").strip(),
        finished,
        ran_for,
        exits,
        soon,
    )


def _started_at(ended: Object) -> datetime | None:
    """Of a container that never started containerd tells the beginning of time."""
    started = parse_time(ended.get("startedAt"))
    return started if started and started.timestamp() > 0 else None


def stable_at(status: Object, now: datetime, grace: GracePeriods) -> datetime | None:
    """When the container will have stayed up long enough since its last end.

    None: it never ended, or it came back after a run long enough to be believed at once.
    """
    ended = last_exit(status, grace)
    if ended is None:
        return None
    up_since = running_since(status)
    if up_since and not ended.soon:
        return None
    return (up_since or now) + grace.stable


def running_since(status: Object) -> datetime | None:
    """Since when the container's present run lasts; None if it does not run."""
    return parse_time(get_map(status, "state", "running").get("startedAt"))


def all_running_since(pod: Object) -> datetime | None:
    """Since when the last of the pod's main containers runs; None unless all do."""
    starts = [running_since(s) for s in main_statuses(pod)]
    started = [s for s in starts if s]
    return max(started) if started and len(started) == len(starts) else None


def unready_since(pod: Object) -> datetime | None:
    """Since when all of the pod's main containers run without its being ready, if they do."""
    started = all_running_since(pod)
    turned = parse_time(get_condition(pod, "Ready").get("lastTransitionTime"))
    return max(started, turned or started) if started and not is_ready(pod) else None


def doublings(since: datetime, now: datetime, grace: GracePeriods) -> int:
    """How often the time after which a pod is said not to answer has doubled since then."""
    return max((now - since) // grace.unanswering, 1).bit_length() - 1


def unsteady(pod: Object, now: datetime, grace: GracePeriods) -> Iterator[datetime]:
    """When each main container that ended lately will be believed again."""
    for status in main_statuses(pod):
        stable = stable_at(status, now, grace)
        if stable and stable > now:
            yield stable


def is_ready(pod: Object) -> bool:
    """Whether the pod takes part in answering: Ready, and not on its way out."""
    if get_map(pod, "metadata").get("deletionTimestamp"):
        return False
    conditions = get_list(pod, "status", "conditions")
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def is_live(pod: Object) -> bool:
    """Whether the pod is meant to run: neither on its way out nor ended for good."""
    ended = get_map(pod, "status").get("phase") in ("Failed", "Succeeded")
    return not ended and not get_map(pod, "metadata").get("deletionTimestamp")
