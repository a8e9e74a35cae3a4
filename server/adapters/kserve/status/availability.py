"""Count the pods of a workload that answer, and those that count as stable."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from server.adapters.kserve.objects import parse_time
from server.adapters.kserve.status.components import Workload


def count_ready(workload: Workload, now: datetime) -> tuple[int, int]:
    """Count the ready pods: those that count as stable, and those that exited recently.

    A probe may find the port open before the model is loaded, and again after each exit.
    """
    exited = [bool(p.stable_at(now)) for p in workload.pods if p.is_ready]
    return exited.count(False), exited.count(True)


def stable_at(workloads: Sequence[Workload], now: datetime) -> datetime | None:
    """Return when the new pods will count as stable; None if none exited recently."""
    pods = [p for w in workloads for p in w.new_pods if p.is_live]
    return max((at for p in pods for at in p.stable_at(now)), default=None)


def unavailable_since(workloads: Sequence[Workload], now: datetime) -> datetime:
    """Return since when no pod is ready, as far as the cluster reports it."""
    times = [
        parse_time(p.conditions.get("Ready", {}).get("lastTransitionTime")) or p.created_at
        for w in workloads
        for p in w.pods
    ]
    for condition in (w.deployment.available_condition for w in workloads):
        since = parse_time(condition.get("lastTransitionTime"))
        if condition.get("status") == "False" and since:
            times.append(since)
    return min(now, max(times, default=now))
