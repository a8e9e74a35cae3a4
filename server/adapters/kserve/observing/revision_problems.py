"""What Knative itself says is wrong: with a Revision, late, but also where its pods are gone again,
and with the way to one that is ready.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from server.adapters.kserve.objects import Object, condition, moment
from server.adapters.kserve.observing.components import Part
from server.adapters.kserve.observing.container_environment import gate_of_pod
from server.domain.facts import Problem
from server.domain.failures import failure_of
from server.domain.status import FailureReason

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
_EXIT_CODE = re.compile(r"ExitCode(\d+)")


def revision_problems(revision: Object, which: Part) -> Iterator[Problem]:
    """What Knative says of a Revision that is not Ready, the cause before the deadline."""
    # Knative repeats what a container wrote when it ended.
    output = gate_of_pod(revision)
    for kind in ("ContainerHealthy", "ResourcesAvailable"):
        told = condition(revision, kind)
        since = moment(told.get("lastTransitionTime"))
        reason = str(told.get("reason") or "")
        if told.get("status") == "False" and since and reason not in _PASSING:
            ended = _EXIT_CODE.fullmatch(reason)
            failure = failure_of(
                _meaning(reason),
                f"the revision {revision['metadata']['name']} failed: {output.shown(_words(told))}",
                component=which.component,
                exit_code=int(ended[1]) if ended else None,
                first_seen_time=since,
            )
            yield Problem(failure, since)


def route_problem(knative_service: Object, which: Part) -> Problem:
    """A Revision is ready, and nothing brings it requests."""
    told = condition(knative_service, "RoutesReady")
    since = datetime.fromisoformat(told["lastTransitionTime"])
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
