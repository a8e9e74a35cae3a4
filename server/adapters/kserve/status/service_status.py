"""Derive the facts of a service from its objects, and its status from a decision on them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from server.adapters.kserve.modes import KNATIVE, MODEL_MESH, STANDARD, present_name
from server.adapters.kserve.names import UPDATES_DISABLED_ANNOTATION
from server.adapters.kserve.objects import Object, created_at, get_list, get_map, parse_time
from server.adapters.kserve.status.grace_periods import (
    ADMISSION,
    RECONCILE_ERROR,
    RECONCILE_ERROR_REPORTED,
    STALE_ERROR,
    STOP_CURRENT,
)
from server.adapters.kserve.status.knative.knative_facts import knative_facts
from server.adapters.kserve.status.knative.reconcile_warnings import (
    foreign_condition_warning,
    reconcile_warning,
)
from server.adapters.kserve.status.name_conflicts import foreign_knative_service
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.parsed_service import (
    TIME_RESOLUTION,
    ParsedService,
    parse_service,
)
from server.adapters.kserve.status.pods.pod import has_ended
from server.adapters.kserve.status.pods.redaction import gate_for_service, redacted_message
from server.adapters.kserve.status.remaining_objects import makes_pods, remaining_objects
from server.adapters.kserve.status.staleness import StalenessCheck
from server.adapters.kserve.status.standard_facts import standard_facts
from server.domain.rollout.container_output import OutputGate
from server.domain.rollout.facts import Facts, Problem
from server.domain.rollout.failures import failure_of
from server.domain.rollout.state_table import Decision
from server.domain.rollout.status import Condition, FailureReason, InferenceServiceStatus
from server.domain.service.commands import is_stop_requested

# Kubernetes bounds the conditions of its own kinds so; the InferenceService's schema does not.
_LONGEST_MESSAGE = 32_768


def facts_of(observed: ObservedObjects, staleness: StalenessCheck, now: datetime) -> Facts:
    """Derive the facts. `staleness` must have been updated with the same objects."""
    service = parse_service(observed)
    facts_of_component = knative_facts if service.mode == KNATIVE else standard_facts
    components = [facts_of_component(c, service, observed, now) for c in service.components]

    components_ready = True
    warnings: list[str] = []
    errors: list[Problem] = []
    for component, facts in zip(service.components, components, strict=True):
        warning = reconcile_warning(component, facts, service, observed)
        error = service.reconcile_errors.get(component.ready_condition)
        if warning is not None:
            warnings.append(warning)
            continue
        components_ready &= service.is_true(component.ready_condition)
        if error:
            errors.append(staleness.reconcile_problem(error, service, observed, now))
    ready = components_ready and service.is_true("IngressReady")
    if ready and not warnings and not service.is_true("Ready"):
        warnings.append(foreign_condition_warning(service, observed))
    # While a component is not ready KServe may report the ingress as not ready for that reason
    # alone; it publishes an address only once the ingress was ready.
    had_address = bool(service.status.get("address"))
    ingress_ready = service.is_true("IngressReady") or (had_address and not components_ready)

    ingress_fails_at = _ingress_fails_at(service) if components_ready else None
    problems = [e for e in errors if e.since + RECONCILE_ERROR_REPORTED <= now]
    if ingress_fails_at and ingress_fails_at <= now:
        problems.append(_ingress_problem(service, observed, ingress_fails_at))
    recheck_times = [
        service.written_at + STALE_ERROR,
        *(e.since + RECONCILE_ERROR_REPORTED for e in errors),
        *([ingress_fails_at] if ingress_fails_at else []),
    ]
    stop_asked = is_stop_requested(service.annotations) and _can_stop(service, observed)
    if stop_asked:
        recheck_times.append(service.stop_asked_at + STOP_CURRENT)
    return Facts(
        rollout=service.rollout,
        now=now,
        written_at=service.written_at,
        components=tuple(components),
        deleting=service.deleted_at is not None,
        namespace_deleting=observed.cache.parse(
            _is_namespace_deleting,
            service,
            observed.deployments,
            observed.replica_sets,
            observed.knative_services,
            observed.revisions,
        ),
        stop_asked=stop_asked,
        stopped=stop_asked
        and service.is_true("Stopped")
        and staleness.is_stop_current(service, now)
        and not makes_pods(observed),
        pods_left=sum(not has_ended(pod) for pod in observed.pods) if stop_asked else 0,
        reconciled="Ready" in service.conditions or service.mode == MODEL_MESH,
        ready=ready,
        ingress_ready=ingress_ready and not errors,
        # KServe obeys the annotation only while the service is Ready.
        updates_disabled=observed.release.disables_updates
        and service.annotations.get(UPDATES_DISABLED_ANNOTATION) == "true"
        and service.is_true("Ready"),
        refusal=staleness.problem(service, observed, now)
        or _foreign_object_problem(service, observed),
        ready_timeout=service.ready_timeout,
        time_resolution=TIME_RESOLUTION,
        warning="; ".join(filter(None, warnings)),
        problems=tuple(problems),
        unsupported_mode=_unsupported_mode(service, observed),
        recheck_at=min((at for at in recheck_times if at > now), default=None),
        controller_silent=staleness.is_controller_silent(service),
        remaining=remaining_objects(service, observed),
    )


def status_of(
    observed: ObservedObjects, facts: Facts, decision: Decision, latest_ready_generation: int | None
) -> InferenceServiceStatus:
    """Return the status that callers see."""
    service = parse_service(observed)
    conditions = service.shown_conditions
    if any(c.message for c in conditions):
        gate = gate_for_service(observed)
        conditions = tuple(_redacted(gate, condition) for condition in conditions)
    runtime = service.serving_runtime
    if not runtime and not observed.release.reports_runtime:
        runtime = str(get_map(service.obj, "spec", "predictor", "model").get("runtime") or "")
    return InferenceServiceStatus(
        decision.state,
        decision.message,
        serving=facts.serving,
        latest_ready_generation=latest_ready_generation,
        failure=decision.failure,
        url=str(service.status.get("url") or ""),
        cluster_url=str(get_map(service.status, "address").get("url") or ""),
        serving_runtime=runtime,
        deployment_mode=present_name(str(service.status.get("deploymentMode") or "")),
        components=tuple(c.shown for c in facts.components),
        conditions=conditions,
        last_transition_time=_last_transition_time(service, observed, decision),
    )


def _redacted(gate: OutputGate, condition: Condition) -> Condition:
    platform, container = redacted_message(gate, condition.message)
    # A message is cut after redaction: half a secret would not be recognised.
    message = (platform + container)[:_LONGEST_MESSAGE]
    return replace(condition, message=message, container_text=message[len(platform) :])


def _is_namespace_deleting(service: ParsedService, *children: tuple[Object, ...]) -> bool:
    """Return whether an object was refused because the service's namespace is being deleted.

    The informers do not follow namespaces. Controllers create deleted children again, and keep the
    API server's refusal in their status. (Events are refused, too.)
    """
    message = f"in namespace {service.namespace} because it is being terminated"
    objects = [service.obj, *(o for objects in children for o in objects)]
    return any(
        message in str(condition.get("message") or "")
        for obj in objects
        for condition in get_list(obj, "status", "conditions")
    )


def _foreign_object_problem(service: ParsedService, observed: ObservedObjects) -> Problem | None:
    if service.mode != KNATIVE:
        return None
    conflict = foreign_knative_service(service.components, service.uid, observed.knative_services)
    since = service.written_at + RECONCILE_ERROR
    return Problem(conflict.failure(since), since) if conflict else None


def _unsupported_mode(service: ParsedService, observed: ObservedObjects) -> str:
    mode = service.mode
    followed = observed.knative_followed if mode == KNATIVE else mode in ("", STANDARD)
    return "" if followed else mode


def _can_stop(service: ParsedService, observed: ObservedObjects) -> bool:
    """Return whether KServe obeys the stop annotation; if so it reports the condition Stopped."""
    return (
        observed.release.stops_deployments
        or service.mode == KNATIVE
        or "Stopped" in service.conditions
    )


def _ingress_fails_at(service: ParsedService) -> datetime | None:
    """Return when a missing route counts as a problem; None if the route is ready.

    KServe reports nothing about a route that it fails to create: the condition stays Unknown.
    """
    ingress = service.conditions.get("IngressReady", {})
    since = parse_time(ingress.get("lastTransitionTime"))
    if since is None or ingress.get("status") == "True":
        return None
    if ingress.get("status") == "False":
        return since
    conditions = get_list(service.status, "conditions")
    times = (parse_time(c.get("lastTransitionTime")) for c in conditions)
    return max((t for t in times if t), default=since) + ADMISSION


def _ingress_problem(
    service: ParsedService, observed: ObservedObjects, fails_at: datetime
) -> Problem:
    ingress = service.conditions["IngressReady"]
    since = parse_time(ingress.get("lastTransitionTime")) or fails_at
    message, container = str(ingress.get("message") or ""), ""
    if message:
        message, container = redacted_message(gate_for_service(observed), message)
    reported = ": ".join(filter(None, (ingress.get("reason"), message + container)))
    reported = reported or "KServe has not created it and gives no reason; see its controller's log"
    failure = failure_of(
        FailureReason.INGRESS,
        f"the model serves, but its route from outside is not ready: {reported}",
        first_seen_time=since,
        container_text=container,
    )
    return Problem(failure, since, tolerated=None)


def _last_transition_time(
    service: ParsedService, observed: ObservedObjects, decision: Decision
) -> datetime:
    """Return when the state last changed, as far as the cluster reports it."""
    if service.deleted_at:
        return service.deleted_at
    if decision.failure and decision.failure.first_seen_time:
        return decision.failure.first_seen_time
    return observed.cache.parse(
        _newest_transition, observed.service, observed.deployments, observed.revisions
    )


def _newest_transition(
    service: Object, deployments: tuple[Object, ...], revisions: tuple[Object, ...]
) -> datetime:
    objects = (service, *deployments, *revisions)
    conditions = [c for o in objects for c in get_list(o, "status", "conditions")]
    times = (parse_time(c.get("lastTransitionTime")) for c in conditions)
    return max((t for t in times if t), default=created_at(service))
