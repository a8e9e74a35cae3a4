"""Derive the facts of one component in Knative mode.

The Knative Service reports whether the rollout is complete. It reports a cause only at its
deadline, ten minutes late, so causes are read from the pods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from server.adapters.kserve.objects import (
    created_at,
    get_condition,
    is_condition_true,
    parse_time,
)
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
from server.adapters.kserve.status.parsed_service import ParsedService
from server.adapters.kserve.status.pods.pod_context import PodContext
from server.adapters.kserve.status.pods.pod_start import starting
from server.adapters.kserve.status.runtime_changes import (
    edited_runtime,
    replacement_message,
    with_runtime_remedy,
)
from server.domain.rollout.facts import ComponentFacts, Problem
from server.domain.rollout.status import ComponentStatus


@dataclass(frozen=True, slots=True)
class _RevisionPods:
    """Hold a Revision with its pods and their problems."""

    revision: Revision
    workload: Workload | None
    contexts: list[PodContext]
    problems: list[Problem]

    @property
    def fails_at(self) -> datetime | None:
        """Return when its pods have failed; pods that start slowly have not."""
        return min((p.fails_at for p in self.problems if p.fails_at), default=None)


def knative_facts(
    component: ComponentSpec, service: ParsedService, observed: ObservedObjects, now: datetime
) -> ComponentFacts:
    """Derive the facts of one component of the spec."""
    found = knative_service_of(component, service, observed)
    if found is None:
        return ComponentFacts(ComponentStatus(component.kind, component.min_scale))
    revisions = {r.name: r for r in (*found.routed, found.latest) if r}
    started_at = created_at(found.latest.obj) if found.latest else None
    ready_by = service.ready_by(started_at)
    with_pods = {
        n: _revision_pods(r, component, observed, now, ready_by if r is found.latest else None)
        for n, r in revisions.items()
    }
    routed = [with_pods[r.name] for r in found.routed]
    latest = with_pods[found.latest.name] if found.latest else None
    # The rollout depends on the newest Revision, and on those that are to share its traffic.
    sharing = [r for r in routed if found.complete and r is not latest]
    examined = [*([latest] if latest else []), *sharing]
    contexts = [c for r in examined for c in r.contexts]
    problems = [p for r in examined for p in r.problems]
    if latest and not problems:
        problems = _knative_problems(found, latest, component, observed, now)
    new = [latest.workload] if latest and latest.workload else []

    serving = [r.workload for r in routed if r.workload]
    counts = [w.count_ready(now) for w in serving]
    available = sum(stable for stable, _ in counts)
    recently_restarted = sum(recent for _, recent in counts)
    # Knative holds requests until a pod has started.
    on_demand = any(r.revision.ready and not (r.fails_at and r.fails_at <= now) for r in routed)
    answers = available or recently_restarted or on_demand

    completed = found.applied and found.complete
    # Knative reports nothing about too few pods once there were enough.
    workloads = [r.workload for r in examined if r.workload]
    enough = all(w.deployment.available >= component.min_scale for w in workloads)
    completed_at = _completed_at(found) if completed else None
    edited = "" if found.complete else _edited_runtime(component, service, found)
    return ComponentFacts(
        _component_status(component, found, new),
        present=True,
        applied=found.applied,
        scaled=found.applied and all(w.deployment.replicas >= component.min_scale for w in new),
        complete=completed and (enough or not problems),
        completed_at=completed_at,
        available=available,
        recently_restarted=recently_restarted,
        unavailable_since=None if answers else unavailable_since(serving, now),
        started_at=started_at if found.applied else None,
        ready_once=found.applied and found.latest_was_ready,
        on_demand=on_demand,
        attempt=found.attempt,
        stable_at=stable_at(new, now),
        starting=starting(contexts),
        replaced_by=replacement_message(edited),
        problems=tuple(with_runtime_remedy(p, component, observed, edited) for p in problems),
        pinned=pinned_traffic(component, observed, found, completed_at) if completed_at else None,
        recheck_at=_recheck_at(found, contexts, routed, now),
    )


def _revision_pods(
    revision: Revision,
    component: ComponentSpec,
    observed: ObservedObjects,
    now: datetime,
    ready_by: datetime | None,
) -> _RevisionPods:
    if revision.deployment is None:
        return _RevisionPods(revision, None, [], [])
    workload = workload_of(revision.deployment, observed)
    contexts = pod_contexts(workload, component, observed, now)
    problems = problems_of(workload, component, contexts, ready_by)
    return _RevisionPods(revision, workload, contexts, problems)


def _component_status(
    component: ComponentSpec, found: KnativeService, new: Sequence[Workload]
) -> ComponentStatus:
    return ComponentStatus(
        component.kind,
        desired_replicas=sum(w.deployment.replicas for w in new),
        updated_replicas=sum(w.deployment.updated for w in new),
        ready_replicas=sum(r.deployment.ready for r in found.revisions if r.deployment),
        latest_revision=found.latest_name,
        traffic=found.traffic,
    )


def _recheck_at(
    found: KnativeService,
    contexts: Sequence[PodContext],
    routed: Sequence[_RevisionPods],
    now: datetime,
) -> datetime | None:
    times = [*recheck_at(contexts), *(r.fails_at for r in routed), _route_fails_at(found)]
    if found.latest and (waits := activation_waits_since(found.latest)):
        times.append(waits + ACTIVATION)
    return min((t for t in times if t and t > now), default=None)


def _edited_runtime(component: ComponentSpec, service: ParsedService, found: KnativeService) -> str:
    templates = (r.obj for r in found.revisions)
    return edited_runtime(component, service, found.template, templates)


def _completed_at(found: KnativeService) -> datetime | None:
    """Return the last time that Service or Revision became Ready: no earlier than completion."""
    objects = [found.obj, *([found.latest.obj] if found.latest else [])]
    times = [parse_time(get_condition(o, "Ready").get("lastTransitionTime")) for o in objects]
    return max((t for t in times if t), default=None)


def _knative_problems(
    found: KnativeService,
    latest: _RevisionPods,
    component: ComponentSpec,
    observed: ObservedObjects,
    now: datetime,
) -> list[Problem]:
    """Return the problems that Knative reports for the newest Revision and its route.

    Knative counts the first exit as a failure, and keeps that until a pod is ready: while a pod is
    live, the pod decides.
    """
    problems: list[Problem] = []
    if not any(c.pod.is_live for c in latest.contexts):
        problems += revision_problems(latest.revision.obj, component, observed.output_policy)
    if inactive := activation_problem(latest.revision, component, now):
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
