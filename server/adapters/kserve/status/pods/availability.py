"""Which pods of a workload answer, and which of them are to be believed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from server.adapters.kserve.objects import Object, created_at, get_condition, parse_time
from server.adapters.kserve.status.components import Workload
from server.adapters.kserve.status.grace_periods import GracePeriods
from server.adapters.kserve.status.pods.containers import is_live, is_ready, unsteady


def ready_pods(workload: Workload) -> list[Object]:
    """The pods that seem to answer, of whatever rollout."""
    return [p for p in workload.pods if is_ready(p)]


def trusted_pods(workload: Workload, now: datetime, grace: GracePeriods) -> list[Object]:
    """The pods that answer, without those that ended lately.

    A probe may find a port open before the model is loaded, again after each end.
    """
    return [p for p in ready_pods(workload) if not [*unsteady(p, now, grace)]]


def stable_at(workloads: Sequence[Workload], now: datetime, grace: GracePeriods) -> datetime | None:
    """When the new pods will have survived their last container exit; None if none exited."""
    pods = [p for w in workloads for p in w.new_pods if is_live(p)]
    return max((s for p in pods for s in unsteady(p, now, grace)), default=None)


def unavailable_since(workloads: Sequence[Workload], now: datetime) -> datetime:
    """Since when no pod answers, as far as the cluster tells."""
    times = [
        parse_time(get_condition(p, "Ready").get("lastTransitionTime")) or created_at(p)
        for w in workloads
        for p in w.pods
    ]
    times += [
        since
        for w in workloads
        if get_condition(w.deployment, "Available").get("status") == "False"
        and (
            since := parse_time(get_condition(w.deployment, "Available").get("lastTransitionTime"))
        )
    ]
    return min(now, max(times, default=now))
