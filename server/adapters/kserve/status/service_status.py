"""From what the cluster shows of a service to its facts, and from a verdict to its status."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from server.adapters.kserve.modes import (
    KNATIVE,
    MODEL_MESH,
    STANDARD,
    mode_of,
    present_name,
    settled_mode_of,
)
from server.adapters.kserve.names import UPDATES_DISABLED_ANNOTATION
from server.adapters.kserve.objects import (
    Object,
    annotations_of,
    created_at,
    get_condition,
    get_list,
    get_map,
    is_condition_true,
    parse_time,
    rollout_of,
)
from server.adapters.kserve.status.components import component_specs
from server.adapters.kserve.status.grace_periods import GRACE_PERIODS, GracePeriods
from server.adapters.kserve.status.knative.knative_facts import knative_facts
from server.adapters.kserve.status.knative.reconcile_warnings import (
    reconcile_warning,
    unexplained_unready,
)
from server.adapters.kserve.status.name_conflicts import foreign_knative_service
from server.adapters.kserve.status.namespace_deletion import is_namespace_deleting
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.pods.redaction import with_redacted_conditions
from server.adapters.kserve.status.remaining_objects import remains_of_deletion, remains_of_stop
from server.adapters.kserve.status.runtime_changes import serving_runtime_of
from server.adapters.kserve.status.staleness import StalenessCheck, written_at
from server.adapters.kserve.status.standard_facts import standard_facts
from server.domain.rollout.facts import Facts, Problem
from server.domain.rollout.failures import failure_of
from server.domain.rollout.state_table import Decision
from server.domain.rollout.status import Condition, FailureReason, InferenceServiceStatus
from server.domain.service.commands import is_stop_requested

# Of a condition, as Kubernetes bounds its own; the InferenceService's schema does not.
_LONGEST_TYPE, _LONGEST_REASON, _LONGEST_MESSAGE = 316, 1024, 32_768


def facts_of(
    observed: ObservedObjects,
    staleness: StalenessCheck,
    now: datetime,
    grace: GracePeriods = GRACE_PERIODS,
) -> Facts:
    """Read the facts. `staleness` has been updated with this very `observed`."""
    service = observed.service
    annotations = annotations_of(service)
    facts_of_component = knative_facts if mode_of(service) == KNATIVE else standard_facts
    parts = list(component_specs(service))
    components = tuple(facts_of_component(p, observed, now, grace) for p in parts)
    shown = with_redacted_conditions(observed)
    complaints = [reconcile_warning(shown, p, c) for p, c in zip(parts, components, strict=True)]
    explained = list(zip(parts, complaints, strict=True))
    components_ready = all(is_condition_true(service, p.ready_condition) or c for p, c in explained)
    errors = [
        problem
        for p, c in explained
        if c is None
        and (problem := staleness.reconcile_problem(observed, p.ready_condition, now, grace))
    ]
    ready = components_ready and is_condition_true(service, "IngressReady")
    warnings = [c.warning for c in complaints if c and c.warning]
    if ready and not any(complaints) and (denied := unexplained_unready(shown)):
        warnings.append(denied)
    ingress_at = _ingress_missed_at(service, grace, components_ready=components_ready)
    written = written_at(service)
    foreign = _foreign_object(observed, written + grace.unreconciled)
    looks = [
        written + grace.refusal_in_doubt,
        *(e.since + grace.reconciling for e in errors),
    ]
    if ingress_at:
        looks.append(ingress_at)
    return Facts(
        rollout=rollout_of(service),
        now=now,
        written_at=written,
        components=components,
        deleting=bool(get_map(service, "metadata").get("deletionTimestamp")),
        namespace_deleting=is_namespace_deleting(observed),
        stop_asked=is_stop_requested(annotations) and _can_stop(observed),
        stopped=is_condition_true(service, "Stopped") and not observed.pods,
        reconciled=bool(get_condition(service, "Ready")) or mode_of(service) == MODEL_MESH,
        ready=ready,
        ingress_ready=_routed(service, components_ready=components_ready) and not errors,
        # KServe obeys it only while the service is Ready.
        updates_disabled=observed.release.disables_updates
        and annotations.get(UPDATES_DISABLED_ANNOTATION) == "true"
        and is_condition_true(service, "Ready"),
        refusal=staleness.problem(observed, now, grace) or foreign,
        warning="; ".join(warnings),
        problems=(
            *(e for e in errors if e.since + grace.reconciling <= now),
            *_ingress_problems(shown, ingress_at, now),
        ),
        unsupported_mode=_unfollowed_mode(observed),
        recheck_at=min((at for at in looks if at > now), default=None),
        controller_silent=staleness.is_unheard(observed),
        remaining=remains_of_deletion(observed) or remains_of_stop(observed),
    )


def status_of(
    observed: ObservedObjects, facts: Facts, decision: Decision, latest_ready_generation: int | None
) -> InferenceServiceStatus:
    """The status as callers see it."""
    service = with_redacted_conditions(observed)
    status = get_map(service, "status")
    return InferenceServiceStatus(
        decision.state,
        decision.message,
        serving=facts.serving,
        latest_ready_generation=latest_ready_generation,
        failure=decision.failure,
        url=str(status.get("url") or ""),
        cluster_url=str(get_map(status, "address").get("url") or ""),
        serving_runtime=_serving_runtime(observed),
        deployment_mode=present_name(settled_mode_of(service)),
        components=tuple(c.shown for c in facts.components),
        conditions=tuple(_condition(c) for c in get_list(status, "conditions")),
        last_transition_time=_changed_at(observed, decision),
    )


def _foreign_object(observed: ObservedObjects, since: datetime) -> Problem | None:
    conflict = foreign_knative_service(observed)
    return Problem(conflict.failure(since), since) if conflict else None


def _unfollowed_mode(observed: ObservedObjects) -> str:
    mode = mode_of(observed.service)
    followed = observed.knative_followed if mode == KNATIVE else mode in ("", STANDARD)
    return "" if followed else mode


def _can_stop(observed: ObservedObjects) -> bool:
    """Whether KServe acts on the annotation: it then says of each service whether it is stopped."""
    mode = mode_of(observed.service)
    says = bool(get_condition(observed.service, "Stopped"))
    return observed.release.stops_deployments or mode == KNATIVE or says


def _routed(service: Object, *, components_ready: bool) -> bool:
    """Whether the way in stands.

    While a component is not ready KServe may call the ingress so too, for that reason alone; it
    publishes an address only once the ingress was ready.
    """
    once = bool(get_map(service, "status", "address"))
    return is_condition_true(service, "IngressReady") or (once and not components_ready)


def _ingress_missed_at(
    service: Object, grace: GracePeriods, *, components_ready: bool
) -> datetime | None:
    """When a route that is not there will be reported as missing; None where it is there.

    Of a route that KServe fails to make it says nothing: the condition stays Unknown.
    """
    ingress = get_condition(service, "IngressReady")
    since = parse_time(ingress.get("lastTransitionTime"))
    if not components_ready or since is None or ingress.get("status") == "True":
        return None
    if ingress.get("status") == "False":
        return since
    turned = (
        parse_time(c.get("lastTransitionTime")) for c in get_list(service, "status", "conditions")
    )
    return max((at for at in turned if at), default=since) + grace.admission


def _ingress_problems(
    service: Object, missed_at: datetime | None, now: datetime
) -> Iterator[Problem]:
    if missed_at and missed_at <= now:
        ingress = get_condition(service, "IngressReady")
        since = parse_time(ingress.get("lastTransitionTime")) or missed_at
        words = ": ".join(filter(None, (ingress.get("reason"), ingress.get("message"))))
        words = words or "KServe has not made it, and does not say why; see its controller's log"
        failure = failure_of(
            FailureReason.INGRESS,
            f"the model serves, but its route from outside is not ready: {words}",
            first_seen_time=since,
        )
        yield Problem(failure, since, tolerated=None)


def _serving_runtime(observed: ObservedObjects) -> str:
    """Name the serving runtime: where KServe does not report it, the one that the spec names."""
    named = get_map(observed.service, "spec", "predictor", "model").get("runtime")
    fallback = "" if observed.release.reports_runtime else str(named or "")
    return serving_runtime_of(observed.service) or fallback


def _condition(raw: Object) -> Condition:
    return Condition(
        str(raw.get("type", ""))[:_LONGEST_TYPE],
        str(raw.get("status", ""))[:_LONGEST_TYPE],
        str(raw.get("reason") or "")[:_LONGEST_REASON],
        str(raw.get("message") or "")[:_LONGEST_MESSAGE],
        parse_time(raw.get("lastTransitionTime")),
    )


def _changed_at(observed: ObservedObjects, decision: Decision) -> datetime:
    """When the state last changed, as far as the cluster's own times tell."""
    if deleted_at := parse_time(get_map(observed.service, "metadata").get("deletionTimestamp")):
        return deleted_at
    if decision.failure and decision.failure.first_seen_time:
        return decision.failure.first_seen_time
    objects = (observed.service, *observed.deployments, *observed.revisions)
    times = [
        parse_time(c.get("lastTransitionTime"))
        for o in objects
        for c in get_list(o, "status", "conditions")
    ]
    return max((t for t in times if t), default=created_at(observed.service))
