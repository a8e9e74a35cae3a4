"""Derive the facts of one component in Standard mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from server.adapters.kserve.objects import Object, get_list, get_map
from server.adapters.kserve.status.applied_template import is_applied
from server.adapters.kserve.status.components import (
    ComponentSpec,
    ParsedDeployment,
    find_child,
    parsed_deployments,
    stable_at,
    unavailable_since,
    workload_of,
)
from server.adapters.kserve.status.diagnosis import pod_contexts, problems_of, recheck_at
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.parsed_service import ParsedService
from server.adapters.kserve.status.pods.pod_start import starting
from server.adapters.kserve.status.rollout_strategy import has_strategy, with_strategies
from server.adapters.kserve.status.runtime_changes import (
    edited_runtime,
    replacement_message,
    with_runtime_remedy,
)
from server.domain.rollout.facts import ComponentFacts
from server.domain.rollout.status import Component, ComponentStatus
from server.domain.service.spec_validation import AUTOSCALER_CLASS

_DEFAULT_CPU_UTILIZATION = 80


@dataclass(frozen=True, slots=True)
class _Progress:
    """Hold the progress of a component's Deployments, without their pods.

    The first Deployment has the scale; `deployments` has those that exist.
    """

    deployments: tuple[ParsedDeployment, ...]
    applied: bool
    complete: bool
    completed_at: datetime | None
    scaled: bool
    edited_runtime: str


def standard_facts(
    component: ComponentSpec, service: ParsedService, observed: ObservedObjects, now: datetime
) -> ComponentFacts:
    """Derive the facts of one component of the spec."""
    progress = observed.cache.parse(
        _parse_progress, service, parsed_deployments(observed), observed.autoscalers
    )[component.kind]
    if not progress.deployments:
        return ComponentFacts(ComponentStatus(component.kind, component.min_replicas))
    workloads = [workload_of(d, observed) for d in progress.deployments]
    first = progress.deployments[0]
    wanted = [w for w in workloads if w.deployment is first or w.deployment.replicas]
    counts = [w.count_ready(now) for w in wanted]
    available = min(stable for stable, _ in counts)
    recently_restarted = sum(recent for _, recent in counts)
    contexts = [pod_contexts(w, component, observed, now) for w in workloads]
    all_contexts = [c for of_workload in contexts for c in of_workload]
    started_at = max((t for d in progress.deployments if (t := d.started_at)), default=None)
    ready_by = service.ready_by(started_at)
    problems = [
        problem
        for workload, of_workload in zip(workloads, contexts, strict=True)
        for problem in problems_of(workload, component, of_workload, ready_by)
    ]
    return ComponentFacts(
        ComponentStatus(
            component.kind,
            desired_replicas=first.replicas,
            updated_replicas=first.updated if progress.applied and first.counts_template else 0,
            ready_replicas=first.ready,
            latest_revision=first.revision,
        ),
        present=True,
        applied=progress.applied,
        scaled=progress.scaled,
        complete=progress.complete,
        completed_at=progress.completed_at,
        scaled_to_zero=progress.applied and first.replicas == 0,
        pods=sum(not pod.has_ended for w in workloads for pod in w.pods),
        available=available,
        recently_restarted=recently_restarted,
        unavailable_since=None
        if available or recently_restarted
        else unavailable_since(workloads, now),
        started_at=started_at if progress.applied else None,
        ready_once=progress.completed_at is not None,
        stable_at=stable_at(workloads, now),
        starting=starting(all_contexts),
        replaced_by=replacement_message(progress.edited_runtime),
        problems=tuple(
            with_runtime_remedy(p, component, observed, progress.edited_runtime)
            for p in with_strategies(problems, component, workloads, service.written_at)
        ),
        recheck_at=min((t for t in recheck_at(all_contexts) if t > now), default=None),
    )


def _parse_progress(
    service: ParsedService,
    deployments: tuple[ParsedDeployment, ...],
    autoscalers: tuple[Object, ...],
) -> Mapping[Component, _Progress]:
    by_id = {id(d.obj): d for d in deployments}
    objects = [d.obj for d in deployments]
    progress: dict[Component, _Progress] = {}
    for component in service.components:
        children = (find_child(objects, name) for name in component.deployments)
        found = tuple(by_id[id(child)] for child in children if child)
        progress[component.kind] = _component_progress(service, component, found, autoscalers)
    return progress


def _component_progress(
    service: ParsedService,
    component: ComponentSpec,
    deployments: tuple[ParsedDeployment, ...],
    autoscalers: tuple[Object, ...],
) -> _Progress:
    if not deployments:
        return _Progress((), False, False, None, False, "")
    first = deployments[0]
    present = len(deployments) == len(component.deployments)
    applied = (
        present
        and all(is_applied(service.obj, component, d.template) for d in deployments)
        and has_strategy(first, component)
    )
    # The rollout was complete once the last Deployment was.
    times = [d.completed_at for d in deployments if d.completed_at]
    completed_at = max(times) if applied and len(times) == len(deployments) else None
    edited = ""
    if completed_at is None:
        templates = (get_map(r, "spec", "template") for r in first.replica_sets.values())
        edited = edited_runtime(component, service, first.template, templates)
    return _Progress(
        deployments,
        applied,
        present and all(_is_complete(d, component, is_first=d is first) for d in deployments),
        completed_at,
        _is_scaled(service, component, first, autoscalers),
        edited,
    )


def _is_complete(deployment: ParsedDeployment, component: ComponentSpec, *, is_first: bool) -> bool:
    """Return whether all pods are new and enough are available, as Kubernetes sees it too.

    During a scale-up Kubernetes reports Available=False, which KServe repeats.
    """
    return (
        deployment.up_to_date
        and deployment.updated >= deployment.replicas
        and deployment.total <= deployment.updated
        and deployment.available >= (component.min_replicas if is_first else deployment.replicas)
        and deployment.available_condition.get("status") != "False"
    )


def _is_scaled(
    service: ParsedService,
    component: ComponentSpec,
    deployment: ParsedDeployment,
    autoscalers: tuple[Object, ...],
) -> bool:
    """Return whether the replicas are those of the spec, and the autoscaler's bounds and target."""
    annotations = {**service.annotations, **get_map(component.spec, "annotations")}
    autoscaler_class = annotations.get(AUTOSCALER_CLASS, "hpa")
    if autoscaler_class == "none" and component.spec.get("minReplicas") is not None:
        return deployment.replicas == component.min_scale
    if deployment.replicas < component.min_replicas:
        return False
    if autoscaler_class != "hpa":
        return True
    spec = get_map(find_child(autoscalers, component.deployments[0]), "spec")
    most = max(int(component.spec.get("maxReplicas") or 0), component.min_replicas)
    bounds = (spec.get("minReplicas"), spec.get("maxReplicas"))
    return bounds == (component.min_replicas, most) and _target_fits(component.spec, spec)


def _target_fits(spec: Object, autoscaler: Object) -> bool:
    metric, target = spec.get("scaleMetric") or "cpu", spec.get("scaleTarget")
    # KServe makes something else of other metrics, and nothing of memory without a target.
    if "autoScaling" in spec or (metric, target) == ("memory", None):
        return True
    if metric not in ("cpu", "memory"):
        return True
    wanted = _DEFAULT_CPU_UTILIZATION if target is None else target
    metrics = [get_map(m, "resource") for m in get_list(autoscaler, "metrics")]
    return any(
        m.get("name") == metric and get_map(m, "target").get("averageUtilization") == wanted
        for m in metrics
    )
