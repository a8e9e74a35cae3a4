"""Derive the facts of one component in Knative mode.

The Knative Service reports whether the rollout is complete. It reports a cause only at its
deadline, ten minutes late, so causes are read from the pods.
"""

from __future__ import annotations

from datetime import datetime

from server.adapters.kserve.objects import get_condition, is_condition_true, parse_time
from server.adapters.kserve.status.components import (
    ComponentSpec,
    Workload,
    stable_at,
    unavailable_since,
    workload_of,
)
from server.adapters.kserve.status.diagnosis import pod_contexts, problems_of, recheck_at
from server.adapters.kserve.status.grace_periods import ACTIVATION, ADMISSION
from server.adapters.kserve.status.knative.pinned_traffic import pinned_traffic
from server.adapters.kserve.status.knative.revision_problems import (
    activation_problem,
    activation_waits_since,
    revision_problems,
    route_problem,
)
from server.adapters.kserve.status.knative.revisions import (
    KnativeService,
    Revision,
    knative_service_of,
)
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.parsed_service import parse_service
from server.adapters.kserve.status.pods.pod_context import PodContext
from server.adapters.kserve.status.pods.pod_start import starting
from server.adapters.kserve.status.runtime_changes import (
    edited_runtime,
    replacement_message,
    with_runtime_remedy,
)
from server.domain.rollout.facts import ComponentFacts, Problem
from server.domain.rollout.status import ComponentStatus


def knative_facts(
    component: ComponentSpec, observed: ObservedObjects, now: datetime
) -> ComponentFacts:
    """Derive the facts of one component of the spec."""
    found = knative_service_of(component, observed)
    if found is None:
        return ComponentFacts(ComponentStatus(component.kind, component.min_scale))
    workloads: dict[str, Workload] = {}
    contexts: dict[str, list[PodContext]] = {}
    problems_by_deployment: dict[str, list[Problem]] = {}
    latest = found.latest
    for revision in ([latest] if latest else []) + list(found.routed):
        deployment = revision.deployment
        if deployment and deployment.uid not in workloads:
            workload = workloads[deployment.uid] = workload_of(deployment, observed)
            pods = contexts[deployment.uid] = pod_contexts(workload, component, observed, now)
            problems_by_deployment[deployment.uid] = problems_of(workload, component, pods)

    # A pod that starts slowly does not fail the Revision, nor do the remains of deleted ones.
    fail_times = [
        min((p.fails_at for p in problems if p.fails_at), default=None)
        for r in found.routed
        for problems in [problems_by_deployment.get(r.deployment.uid, []) if r.deployment else []]
    ]
    # Knative holds requests until a pod has started.
    on_demand = any(
        r.ready and not (at and at <= now) for r, at in zip(found.routed, fail_times, strict=True)
    )
    routed = [workloads[r.deployment.uid] for r in found.routed if r.deployment]
    counts = [w.count_ready(now) for w in routed]
    available = sum(stable for stable, _ in counts)
    recently_restarted = sum(recent for _, recent in counts)

    # The rollout depends on the newest Revision, and on those that are to share its traffic.
    others = found.routed if found.complete else ()
    revisions = ([latest] if latest else []) + [r for r in others if r is not latest]
    deployments = [r.deployment for r in revisions if r.deployment]
    watched = [context for d in deployments for context in contexts[d.uid]]
    of_pods = [p for d in deployments for p in problems_by_deployment[d.uid]]
    edited = "" if found.complete else _edited_runtime(component, observed, found)
    problems = of_pods if latest else []
    if latest and not of_pods:
        problems = _knative_problems(found, latest, component, observed, watched, now)
    # Knative reports nothing about too few pods once there were enough.
    enough = all(d.available >= component.min_scale for d in deployments)
    new = [workloads[latest.deployment.uid]] if latest and latest.deployment else []
    completed_at = _completed_at(found) if found.applied and found.complete else None
    recheck_times = [*recheck_at(watched), *fail_times, _route_fails_at(found)]
    if latest and (waits := activation_waits_since(latest)):
        recheck_times.append(waits + ACTIVATION)
    return ComponentFacts(
        ComponentStatus(
            component.kind,
            desired_replicas=sum(w.deployment.replicas for w in new),
            updated_replicas=sum(w.deployment.updated for w in new),
            ready_replicas=sum(r.deployment.ready for r in found.revisions if r.deployment),
            latest_revision=found.latest_name,
            traffic=found.traffic,
        ),
        present=True,
        applied=found.applied,
        scaled=found.applied and all(w.deployment.replicas >= component.min_scale for w in new),
        complete=found.applied and found.complete and (enough or not problems),
        completed_at=completed_at,
        available=available,
        recently_restarted=recently_restarted,
        unavailable_since=None
        if available or recently_restarted or on_demand
        else unavailable_since(routed, now),
        on_demand=on_demand,
        attempt=found.attempt,
        stable_at=stable_at(new, now),
        starting=starting(watched),
        replaced_by=replacement_message(edited),
        problems=tuple(with_runtime_remedy(p, component, observed, edited) for p in problems),
        pinned=pinned_traffic(component, observed, found, completed_at) if completed_at else None,
        recheck_at=min((t for t in recheck_times if t and t > now), default=None),
    )


def _edited_runtime(
    component: ComponentSpec, observed: ObservedObjects, found: KnativeService
) -> str:
    templates = (r.obj for r in found.revisions)
    return edited_runtime(component, parse_service(observed), found.template, templates)


def _completed_at(found: KnativeService) -> datetime | None:
    """Return the last time that Service or Revision became Ready: no earlier than completion."""
    objects = [found.obj, *([found.latest.obj] if found.latest else [])]
    times = [parse_time(get_condition(o, "Ready").get("lastTransitionTime")) for o in objects]
    return max((t for t in times if t), default=None)


def _knative_problems(
    found: KnativeService,
    latest: Revision,
    component: ComponentSpec,
    observed: ObservedObjects,
    watched: list[PodContext],
    now: datetime,
) -> list[Problem]:
    """Return what Knative reports of the newest Revision and its route.

    Knative counts the first exit as a failure, and keeps that until a pod is ready: while a pod is
    live, the pod decides.
    """
    pods = latest.deployment.current_uid if latest.deployment else ""
    problems: list[Problem] = []
    if not any(c.pod.is_live and c.pod.controller == pods for c in watched):
        problems += revision_problems(latest.obj, component, observed.output_policy)
    if inactive := activation_problem(latest, component, now):
        problems.append(inactive)
    if (fails_at := _route_fails_at(found)) and fails_at <= now:
        problems.append(route_problem(found.obj, component))
    return problems


def _route_fails_at(found: KnativeService) -> datetime | None:
    """Return when a ready Revision without a route counts as a problem; None if it has one."""
    routes = get_condition(found.obj, "RoutesReady")
    since = parse_time(routes.get("lastTransitionTime"))
    waits = found.latest and found.latest.ready and not is_condition_true(found.obj, "RoutesReady")
    return since + ADMISSION if waits and since else None
