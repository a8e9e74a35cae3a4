"""What the cluster shows of one component, as the state table wants it (Standard mode)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from server.adapters.kserve.objects import (
    Object,
    annotations_of,
    controller_of,
    get_condition,
    get_list,
    get_map,
    uid_of,
)
from server.adapters.kserve.status.applied_template import is_applied
from server.adapters.kserve.status.components import (
    ComponentSpec,
    Workload,
    autoscaler_of,
    completed_at,
    count,
    generation_seen,
    replicas_of,
    workloads_of,
)
from server.adapters.kserve.status.diagnosis import pod_contexts, problems_of, recheck_at
from server.adapters.kserve.status.grace_periods import GracePeriods
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.pods.availability import (
    ready_pods,
    stable_at,
    trusted_pods,
    unavailable_since,
)
from server.adapters.kserve.status.pods.pod_start import starting
from server.adapters.kserve.status.runtime_changes import attributed, edited_runtime, replacement
from server.domain.rollout.facts import ComponentFacts
from server.domain.rollout.status import ComponentStatus

AUTOSCALER_CLASS = "serving.kserve.io/autoscalerClass"
_DEFAULT_CPU_UTILIZATION = 80


def standard_facts(
    which: ComponentSpec, observed: ObservedObjects, now: datetime, grace: GracePeriods
) -> ComponentFacts:
    """The facts of one component that the spec names."""
    service = observed.service
    workloads = workloads_of(which, observed)
    present = len(workloads) == len(which.deployments)
    applied = present and all(
        is_applied(service, which, get_map(w.deployment, "spec", "template")) for w in workloads
    )
    if not workloads:
        return ComponentFacts(ComponentStatus(which.component, which.min_replicas))
    wanted = [w for w in workloads if w is workloads[0] or replicas_of(w.deployment)]
    trusted = [len(trusted_pods(w, now, grace)) for w in wanted]
    available = min(trusted)
    recently_restarted = sum(len(ready_pods(w)) for w in wanted) - sum(trusted)
    contexts = [s for w in workloads for s in pod_contexts(w, which, observed, now, grace)]
    first_completed_at = _completed_at(workloads) if applied else None
    edited = "" if first_completed_at else _edited_runtime(which, observed, workloads[0])
    return ComponentFacts(
        _shown(which, workloads[0], applied=applied),
        present=True,
        applied=applied,
        scaled=_scaled(which, observed, workloads[0]),
        complete=present and all(_complete(w, which, workloads) for w in workloads),
        completed_at=first_completed_at,
        scaled_to_zero=applied and replicas_of(workloads[0].deployment) == 0,
        available=available,
        recently_restarted=recently_restarted,
        unavailable_since=None
        if available or recently_restarted
        else unavailable_since(workloads, now),
        stable_at=stable_at(workloads, now, grace),
        starting=starting(contexts),
        replaced_by=replacement(edited),
        problems=tuple(
            attributed(p, service, which, edited)
            for w in workloads
            for p in problems_of(w, which, observed, now, grace)
        ),
        recheck_at=min((t for t in recheck_at(contexts) if t > now), default=None),
    )


def _edited_runtime(which: ComponentSpec, observed: ObservedObjects, workload: Workload) -> str:
    deployment = workload.deployment
    sets = [r for r in observed.replica_sets if controller_of(r) == uid_of(deployment)]
    newest, *others = (get_map(o, "spec", "template") for o in (deployment, *sets))
    return edited_runtime(observed.service, which, newest, others)


def _shown(which: ComponentSpec, workload: Workload, *, applied: bool) -> ComponentStatus:
    deployment = workload.deployment
    current = applied and generation_seen(deployment)
    return ComponentStatus(
        which.component,
        desired_replicas=replicas_of(deployment),
        updated_replicas=count(deployment, "updatedReplicas") if current else 0,
        ready_replicas=count(deployment, "readyReplicas"),
        latest_revision=str(
            annotations_of(workload.current).get("deployment.kubernetes.io/revision", "")
        ),
    )


def _complete(workload: Workload, which: ComponentSpec, workloads: Sequence[Workload]) -> bool:
    """All pods are new, and enough are available, for Kubernetes' own taste too.

    While it scales up Kubernetes says otherwise, and KServe repeats that.
    """
    deployment = workload.deployment
    replicas, updated = replicas_of(deployment), count(deployment, "updatedReplicas")
    enough = which.min_replicas if workload is workloads[0] else replicas
    return (
        generation_seen(deployment)
        and updated >= replicas
        and count(deployment, "replicas") <= updated
        and count(deployment, "availableReplicas") >= enough
        and get_condition(deployment, "Available").get("status") != "False"
    )


def _completed_at(workloads: Sequence[Workload]) -> datetime | None:
    """When the last of the Deployments first had all its pods new and available."""
    times = [completed_at(w) for w in workloads]
    return max(t for t in times if t) if all(times) else None


def _scaled(which: ComponentSpec, observed: ObservedObjects, workload: Workload) -> bool:
    """The Deployment has the replicas asked for, and its autoscaler the bounds and the target."""
    replicas = replicas_of(workload.deployment)
    service = annotations_of(observed.service)
    autoscaling = {**service, **get_map(which.spec, "annotations")}.get(AUTOSCALER_CLASS, "hpa")
    if autoscaling == "none" and which.spec.get("minReplicas") is not None:
        return replicas == int(which.spec["minReplicas"])
    if replicas < which.min_replicas:
        return False
    return autoscaling != "hpa" or _autoscaler_fits(which, autoscaler_of(which, observed))


def _autoscaler_fits(which: ComponentSpec, autoscaler: Object) -> bool:
    spec = get_map(autoscaler, "spec")
    most = max(int(which.spec.get("maxReplicas") or 0), which.min_replicas)
    bounds = (spec.get("minReplicas"), spec.get("maxReplicas"))
    return bounds == (which.min_replicas, most) and _target_fits(which.spec, spec)


def _target_fits(asked: Object, autoscaler: Object) -> bool:
    metric, target = asked.get("scaleMetric") or "cpu", asked.get("scaleTarget")
    # Of other metrics KServe makes something else, and of memory without a target nothing.
    if "autoScaling" in asked or (metric, target) == ("memory", None):
        return True
    if metric not in ("cpu", "memory"):
        return True
    wanted = _DEFAULT_CPU_UTILIZATION if target is None else target
    metrics = [get_map(m, "resource") for m in get_list(autoscaler, "metrics")]
    return any(
        m.get("name") == metric and get_map(m, "target").get("averageUtilization") == wanted
        for m in metrics
    )
