"""What the cluster shows of one component, as the state table wants it (Knative mode).

The Knative Service tells whether the rollout is complete; of what keeps it from that Knative tells
only at its deadline, ten minutes late, so that is taken from the pods.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from server.adapters.kserve.objects import get_condition, get_map, is_condition_true, parse_time
from server.adapters.kserve.status.components import ComponentSpec, Workload, count, replicas_of
from server.adapters.kserve.status.diagnosis import pod_contexts, problems_of, recheck_at
from server.adapters.kserve.status.grace_periods import GracePeriods
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
    is_asked,
    knative_service_of,
    traffic_of,
)
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.pods.availability import (
    ready_pods,
    stable_at,
    trusted_pods,
    unavailable_since,
)
from server.adapters.kserve.status.pods.containers import is_live
from server.adapters.kserve.status.pods.pod_start import starting
from server.adapters.kserve.status.runtime_changes import attributed, edited_runtime, replacement
from server.domain.rollout.facts import ComponentFacts, Problem
from server.domain.rollout.status import ComponentStatus


def knative_facts(
    which: ComponentSpec, observed: ObservedObjects, now: datetime, grace: GracePeriods
) -> ComponentFacts:
    """The facts of one component that the spec names."""
    found = knative_service_of(which, observed)
    if found is None:
        return ComponentFacts(ComponentStatus(which.component, which.min_scale))
    applied = is_asked(observed.service, which, found.obj)
    new = [found.latest.workload] if found.latest and found.latest.workload else []
    ingress_ready = [r.workload for r in found.ingress_ready if r.workload]
    available = sum(len(trusted_pods(w, now, grace)) for w in ingress_ready)
    recently_restarted = sum(len(ready_pods(w)) for w in ingress_ready) - available
    hindered = [_hindered_at(r, which, observed, now, grace) for r in found.ingress_ready]
    # Requests are held until a pod is there.
    on_demand = any(
        r.ready and not (at and at <= now)
        for r, at in zip(found.ingress_ready, hindered, strict=True)
    )
    answers = available or recently_restarted or on_demand
    examined = _examined(found)
    contexts = [s for w in examined for s in pod_contexts(w, which, observed, now, grace)]
    looks = [*recheck_at(contexts), *hindered, _unrouted_at(found, grace)]
    if found.latest and (waits := activation_waits_since(found.latest)):
        looks.append(waits + grace.activation)
    edited = "" if found.complete else _edited_runtime(which, observed, found)
    problems = tuple(
        attributed(p, observed.service, which, edited)
        for p in _problems(found, examined, which, observed, now, grace)
    )
    # Of pods that are short Knative says nothing, once there were enough.
    complete = applied and found.complete and (_enough(which, examined) or not problems)
    completed_at = _completed_at(found) if applied and found.complete else None
    return ComponentFacts(
        _shown(which, found, new),
        present=True,
        applied=applied,
        scaled=applied and all(replicas_of(w.deployment) >= which.min_scale for w in new),
        complete=complete,
        completed_at=completed_at,
        available=available,
        recently_restarted=recently_restarted,
        unavailable_since=None if answers else unavailable_since(ingress_ready, now),
        on_demand=on_demand,
        attempt=found.attempt,
        stable_at=stable_at(new, now, grace),
        starting=starting(contexts),
        replaced_by=replacement(edited),
        problems=problems,
        pinned=pinned_traffic(which, observed, found, completed_at) if completed_at else None,
        recheck_at=min((t for t in looks if t and t > now), default=None),
    )


def _edited_runtime(which: ComponentSpec, observed: ObservedObjects, found: KnativeService) -> str:
    newest = get_map(found.obj, "spec", "template")
    return edited_runtime(observed.service, which, newest, (r.obj for r in found.revisions))


def _shown(which: ComponentSpec, found: KnativeService, new: Sequence[Workload]) -> ComponentStatus:
    workloads = [r.workload for r in found.revisions if r.workload]
    return ComponentStatus(
        which.component,
        desired_replicas=sum(replicas_of(w.deployment) for w in new),
        updated_replicas=sum(count(w.deployment, "updatedReplicas") for w in new),
        ready_replicas=sum(count(w.deployment, "readyReplicas") for w in workloads),
        latest_revision=found.latest_name,
        traffic=traffic_of(found.obj),
    )


def _examined(found: KnativeService) -> list[Workload]:
    """What the rollout stands and falls with: the newest Revision, and where that is to share the
    traffic, the others."""
    newest = [found.latest] if found.latest else []
    others = [r for r in found.ingress_ready if found.complete and r is not found.latest]
    return [r.workload for r in (*newest, *others) if r.workload]


def _hindered_at(
    revision: Revision,
    which: ComponentSpec,
    observed: ObservedObjects,
    now: datetime,
    grace: GracePeriods,
) -> datetime | None:
    """When a Revision's pods are given up; None: nothing keeps one from coming. One that takes its
    time to start does not, nor what is left of those that are gone."""
    workload = revision.workload
    problems = problems_of(workload, which, observed, now, grace) if workload else ()
    return min((p.fails_at for p in problems if p.fails_at), default=None)


def _enough(which: ComponentSpec, new: Sequence[Workload]) -> bool:
    return all(count(w.deployment, "availableReplicas") >= which.min_scale for w in new)


def _completed_at(found: KnativeService) -> datetime | None:
    """When all was as asked first, or later: of the turns that Knative tells, the last."""
    told_by = [found.obj, *([found.latest.obj] if found.latest else [])]
    turned = [parse_time(get_condition(o, "Ready").get("lastTransitionTime")) for o in told_by]
    return max((t for t in turned if t), default=None)


def _problems(
    found: KnativeService,
    examined: Sequence[Workload],
    which: ComponentSpec,
    observed: ObservedObjects,
    now: datetime,
    grace: GracePeriods,
) -> tuple[Problem, ...]:
    """What is wrong with the pods; where there are none, what Knative says of the Revision.

    Knative counts a first exit for a failure, and takes none back before a pod is ready.
    """
    if found.latest is None:
        return ()
    of_pods = [p for w in examined for p in problems_of(w, which, observed, now, grace)]
    if of_pods:
        return tuple(of_pods)
    workload = found.latest.workload
    tells = workload is not None and any(map(is_live, workload.new_pods))
    of_revision = (
        () if tells else revision_problems(found.latest.obj, which, observed.output_policy)
    )
    unrouted = _unrouted_at(found, grace)
    inactive = activation_problem(found.latest, which, now, grace)
    of_route = [route_problem(found.obj, which)] if unrouted and unrouted <= now else []
    return (*of_revision, *([inactive] if inactive else ()), *of_route)


def _unrouted_at(found: KnativeService, grace: GracePeriods) -> datetime | None:
    """When it will be said that nothing leads to a Revision that is ready; None where it does."""
    since = parse_time(get_condition(found.obj, "RoutesReady").get("lastTransitionTime"))
    waits = found.latest and found.latest.ready and not is_condition_true(found.obj, "RoutesReady")
    return since + grace.admission if waits and since else None
