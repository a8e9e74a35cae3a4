"""What Knative itself says is wrong: with a Revision, late, but also where its pods are gone again,
and with the way to one that is ready.
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
    is_condition_true,
    name_of,
    parse_time,
)
from server.adapters.kserve.status.components import ComponentSpec, count
from server.adapters.kserve.status.grace_periods import GracePeriods
from server.adapters.kserve.status.knative.revisions import Revision
from server.adapters.kserve.status.name_conflicts import NOT_OWNED, conflict_in
from server.adapters.kserve.status.pods.output_policy import OutputPolicy
from server.domain.rollout.facts import Problem
from server.domain.rollout.failures import failure_of
from server.domain.rollout.status import Component, Failure, FailureReason

# What recovers by itself is left to the pods, which are given some time for it.
_PASSING = ("Unschedulable", "FailedCreate")
_IMAGE = (
    "ContainerMissing",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
)
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_OF_PLATFORM = (*_IMAGE, NOT_OWNED, "CreateContainerConfigError", "ProgressDeadlineExceeded")
_CLASS = "autoscaling.knative.dev/class"
_EXIT_CODE = re.compile(r"ExitCode(\d+)")


def revision_problems(
    revision: Object, which: ComponentSpec, output_policy: OutputPolicy
) -> Iterator[Problem]:
    """What Knative says of a Revision that is not Ready, the cause before the deadline."""
    output = output_policy.gate_for_templates(revision, [get_map(revision, "spec")])
    for kind in ("ContainerHealthy", "ResourcesAvailable"):
        told = get_condition(revision, kind)
        since = parse_time(told.get("lastTransitionTime"))
        reason = str(told.get("reason") or "")
        if told.get("status") == "False" and since and reason not in _PASSING:
            # Of all else Knative repeats what a container wrote when it ended, or why it cannot be
            # started, which may quote its command with the values of variables in it.
            of_platform = reason in _OF_PLATFORM
            words = output.masked(_words(told)) if of_platform else output.shown(_words(told))
            conflict = conflict_in(words) if reason == NOT_OWNED else None
            if conflict:
                yield Problem(conflict.failure(since, which.component), since)
                continue
            ended = _EXIT_CODE.fullmatch(reason)
            failure = failure_of(
                _meaning(reason),
                f"the revision {revision['metadata']['name']} failed: {words}",
                component=which.component,
                exit_code=int(ended[1]) if ended else None,
                first_seen_time=since,
            )
            yield Problem(failure, since, container_text="" if of_platform else words)


def activation_problem(
    revision: Revision, which: ComponentSpec, now: datetime, grace: GracePeriods
) -> Problem | None:
    """Say why a Revision whose pods are ready gets no traffic, once that has lasted a while.

    Its condition Active repeats Knative's PodAutoscaler, which no deadline ends: of an autoscaling
    class without a controller it stays as it was made.
    """
    since = activation_waits_since(revision)
    if since is None or since + grace.activation > now:
        return None
    told = [get_condition(revision.obj, kind) for kind in ("Active", "ResourcesAvailable")]
    # Other messages may repeat what a container wrote.
    of_platform = [c for c in told if c is told[0] or c.get("reason") == NOT_OWNED]
    conflicts = (conflict_in(str(c.get("message") or "")) for c in of_platform)
    if conflict := next(filter(None, conflicts), None):
        return Problem(conflict.failure(since, which.component), since, grace.activation)
    failure = _unactivated(revision.obj, told[0], since, which.component)
    return Problem(failure, since, tolerated=None)


def activation_waits_since(revision: Revision) -> datetime | None:
    """Since when a Revision has had its pods without being Ready; None where it does not wait."""
    workload = revision.workload
    if (
        revision.ready
        or workload is None
        or not is_condition_true(workload.deployment, "Available")
    ):
        return None
    if count(workload.deployment, "availableReplicas") < 1:
        return None
    return parse_time(get_condition(workload.deployment, "Available").get("lastTransitionTime"))


def _unactivated(revision: Object, told: Object, since: datetime, component: Component) -> Failure:
    name = name_of(revision)
    if told.get("reason") == "Deploying":
        autoscaling = annotations_of(revision).get(_CLASS)
        which = f"of the class {autoscaling}" if autoscaling else "of the cluster's usual class"
        otherwise = f", or deploy without the annotation {_CLASS}" if autoscaling else ""
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
        f" {_words(told)}",
        remedy="see Knative's PodAutoscaler and ServerlessService of that revision",
        component=component,
        first_seen_time=since,
    )


def route_problem(knative_service: Object, which: ComponentSpec) -> Problem:
    """A Revision is ready, and nothing brings it requests."""
    told = get_condition(knative_service, "RoutesReady")
    since = datetime.fromisoformat(told["lastTransitionTime"])
    if conflict := conflict_in(str(told.get("message") or "")):
        return Problem(conflict.failure(since, which.component), since, tolerated=None)
    failure = failure_of(
        FailureReason.INGRESS,
        f"the model serves, but Knative's route to it is not ready: {_words(told)}",
        component=which.component,
        first_seen_time=since,
    )
    return Problem(failure, since, tolerated=None)


def _meaning(reason: str) -> FailureReason:
    if _EXIT_CODE.fullmatch(reason) or reason == "CrashLoopBackOff":
        return FailureReason.CRASH_LOOP
    if reason in _IMAGE:
        return FailureReason.IMAGE_PULL
    if reason in _CONFIG:
        return FailureReason.CONTAINER_CONFIG
    return FailureReason.PROGRESS_DEADLINE


def _words(told: Object) -> str:
    return ": ".join(str(told[name]) for name in ("reason", "message") if told.get(name))
