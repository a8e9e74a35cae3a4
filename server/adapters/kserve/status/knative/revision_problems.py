"""Read the failures that Knative reports for a Revision and its route.

Knative reports a cause late, but also when the pods are already gone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from server.adapters.kserve.objects import (
    Object,
    annotations_of,
    get_condition,
    get_map,
    name_of,
    parse_time,
)
from server.adapters.kserve.status.components import ComponentSpec
from server.adapters.kserve.status.grace_periods import ACTIVATION, LEFTOVER
from server.adapters.kserve.status.knative.revisions import Revision
from server.adapters.kserve.status.name_conflicts import NOT_OWNED, conflict_in
from server.adapters.kserve.status.pods.output_policy import OutputPolicy, template_secrets
from server.domain.rollout.facts import Problem
from server.domain.rollout.failures import failure_of
from server.domain.rollout.status import Component, Failure, FailureReason

# These may pass: the pods show them too, and are given time.
_PASSING = ("Unschedulable", "FailedCreate")
_IMAGE = (
    "ContainerMissing",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
)
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_PLATFORM_REASONS = (
    *_IMAGE,
    NOT_OWNED,
    "CreateContainerConfigError",
    "ProgressDeadlineExceeded",
)
_CLASS = "autoscaling.knative.dev/class"
_EXIT_CODE = re.compile(r"ExitCode(\d+)")


def revision_problems(
    revision: Object, component: ComponentSpec, output_policy: OutputPolicy
) -> Iterator[Problem]:
    """Yield the failures that a Revision reports, the cause before the deadline."""
    output = output_policy.gate_for(template_secrets(revision, [get_map(revision, "spec")]))
    for kind in ("ContainerHealthy", "ResourcesAvailable"):
        condition = get_condition(revision, kind)
        since = parse_time(condition.get("lastTransitionTime"))
        reason = str(condition.get("reason") or "")
        if condition.get("status") != "False" or since is None or reason in _PASSING:
            continue
        # Messages of other reasons repeat container text, or why a container cannot be started,
        # which may quote its command with the values of variables.
        of_platform = reason in _PLATFORM_REASONS
        text = _reason_and_message(condition)
        text = output.masked(text) if of_platform else output.shown(text)
        conflict = conflict_in(text) if reason == NOT_OWNED else None
        if conflict:
            yield Problem(conflict.failure(since, component.kind), since, LEFTOVER)
            continue
        exit_code = _EXIT_CODE.fullmatch(reason)
        failure = failure_of(
            _failure_reason(reason),
            f"the revision {revision['metadata']['name']} failed: {text}",
            component=component.kind,
            exit_code=int(exit_code[1]) if exit_code else None,
            first_seen_time=since,
            container_text="" if of_platform else text,
        )
        yield Problem(failure, since)


def activation_problem(
    revision: Revision, component: ComponentSpec, now: datetime
) -> Problem | None:
    """Explain why a Revision with ready pods gets no traffic, once that has lasted.

    The condition Active repeats Knative's PodAutoscaler, which has no deadline: with an autoscaling
    class that no controller handles it stays as it was created.
    """
    since = activation_waits_since(revision)
    if since is None or since + ACTIVATION > now:
        return None
    active = get_condition(revision.obj, "Active")
    resources = get_condition(revision.obj, "ResourcesAvailable")
    # Messages of other reasons may repeat container text.
    of_platform = [active, *([resources] if resources.get("reason") == NOT_OWNED else [])]
    conflicts = (conflict_in(str(c.get("message") or "")) for c in of_platform)
    if conflict := next(filter(None, conflicts), None):
        return Problem(conflict.failure(since, component.kind), since, LEFTOVER)
    failure = _activation_failure(revision.obj, active, since, component.kind)
    return Problem(failure, since, tolerated=None)


def activation_waits_since(revision: Revision) -> datetime | None:
    """Return since when a Revision has had available pods without being Ready, or None."""
    deployment = revision.deployment
    if revision.ready or deployment is None or deployment.available < 1:
        return None
    if deployment.available_condition.get("status") != "True":
        return None
    return parse_time(deployment.available_condition.get("lastTransitionTime"))


def _activation_failure(
    revision: Object, active: Object, since: datetime, component: Component
) -> Failure:
    name = name_of(revision)
    if active.get("reason") == "Deploying":
        class_name = annotations_of(revision).get(_CLASS)
        which = f"of the class {class_name}" if class_name else "of the cluster's default class"
        otherwise = f", or deploy without the annotation {_CLASS}" if class_name else ""
        return failure_of(
            FailureReason.NO_CONTROLLER,
            f"the pods of the revision {name} are ready, and Knative's autoscaler {which} has not"
            " acted on it: none seems to run",
            remedy=f"install Knative's autoscaler {which}, or check its pods{otherwise}",
            component=component,
            first_seen_time=since,
        )
    return failure_of(
        FailureReason.RECONCILE_FAILED,
        f"the pods of the revision {name} are ready, and Knative does not let requests through:"
        f" {_reason_and_message(active)}",
        remedy="see Knative's PodAutoscaler and ServerlessService of that revision",
        component=component,
        first_seen_time=since,
    )


def route_problem(knative_service: Object, component: ComponentSpec) -> Problem:
    """Report that a Revision is ready and no route leads to it."""
    routes = get_condition(knative_service, "RoutesReady")
    since = datetime.fromisoformat(routes["lastTransitionTime"])
    if conflict := conflict_in(str(routes.get("message") or "")):
        return Problem(conflict.failure(since, component.kind), since, tolerated=None)
    failure = failure_of(
        FailureReason.INGRESS,
        f"the model serves, but Knative's route to it is not ready: {_reason_and_message(routes)}",
        component=component.kind,
        first_seen_time=since,
    )
    return Problem(failure, since, tolerated=None)


def _failure_reason(reason: str) -> FailureReason:
    if _EXIT_CODE.fullmatch(reason) or reason == "CrashLoopBackOff":
        return FailureReason.CRASH_LOOP
    if reason in _IMAGE:
        return FailureReason.IMAGE_PULL
    if reason in _CONFIG:
        return FailureReason.CONTAINER_CONFIG
    return FailureReason.PROGRESS_DEADLINE


def _reason_and_message(condition: Object) -> str:
    return ": ".join(str(condition[n]) for n in ("reason", "message") if condition.get(n))
