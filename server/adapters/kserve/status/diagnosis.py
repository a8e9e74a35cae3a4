"""What is wrong with the new pods of a component, or with making them: the most telling first.

KServe's conditions never name the cause; the pods, ReplicaSets and Deployments do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from server.adapters.kserve.objects import (
    Object,
    created_at,
    get_condition,
    get_map,
    name_of,
    parse_time,
)
from server.adapters.kserve.status.components import (
    ComponentSpec,
    Workload,
    completed_at,
    progress_of,
)
from server.adapters.kserve.status.grace_periods import GracePeriods
from server.adapters.kserve.status.observed_objects import LogExcerpt, ObservedObjects
from server.adapters.kserve.status.pods.container_problems import unanswering_looks_different_at
from server.adapters.kserve.status.pods.containers import is_live, is_ready
from server.adapters.kserve.status.pods.pod_context import PodContext, warnings_about
from server.adapters.kserve.status.pods.pod_problems import pod_problems
from server.adapters.kserve.status.pods.pod_start import start_of
from server.domain.rollout.facts import Problem
from server.domain.rollout.failures import failure_of, rank_of
from server.domain.rollout.status import Component, Failure, FailureReason


def problems_of(
    workload: Workload,
    which: ComponentSpec,
    observed: ObservedObjects,
    now: datetime,
    grace: GracePeriods,
) -> tuple[Problem, ...]:
    """Everything wrong with the workload's new pods, or with making them."""
    contexts = pod_contexts(workload, which, observed, now, grace)
    found = [p for context in contexts for p in pod_problems(context)]
    found += _creation_problems(workload, which, grace)
    if late := _past_deadline(workload, which):
        # The deadline is not a cause: whatever was tolerated until then is.
        since = late.since
        found = [replace(p, since=min(p.since, since), tolerated=timedelta(0)) for p in found]
        found = found or [late]
    return tuple(sorted(found, key=_order))


def pod_contexts(
    workload: Workload,
    which: ComponentSpec,
    observed: ObservedObjects,
    now: datetime,
    grace: GracePeriods,
) -> list[PodContext]:
    """The new pods with what is needed to judge them."""
    failed = which.component is Component.PREDICTOR and _load_failed(observed.service)
    return [
        PodContext(
            p,
            which.component,
            warnings_about(p, observed.events),
            _logs_of(p, observed),
            failed,
            completed_at(workload) is not None,
            now,
            grace,
            observed.output_policy,
        )
        for p in workload.new_pods
        if is_live(p) or not _is_replaced(p, workload)
    ]


def _logs_of(pod: Object, observed: ObservedObjects) -> dict[str, LogExcerpt]:
    return {c: log for (p, c), log in observed.logs.items() if p == name_of(pod)}


def _is_replaced(ended: Object, workload: Workload) -> bool:
    """Whether a pod made after it answers: Kubernetes keeps those that failed for a long time."""
    return any(is_ready(p) and created_at(p) > created_at(ended) for p in workload.new_pods)


def recheck_at(contexts: list[PodContext]) -> Iterator[datetime]:
    """When time alone will show more of these pods."""
    for context in contexts:
        if at := unanswering_looks_different_at(context):
            yield at
        if start := start_of(context):
            yield from (at for at in start.recheck_at() if at > context.now)


def _load_failed(service: Object) -> bool:
    """KServe says so for any exit of a model's container, also where it is not the model's fault,
    but never for a container of the caller's own."""
    model = get_map(service, "status", "modelStatus")
    return (
        "model" in get_map(service, "spec", "predictor")
        and model.get("transitionStatus") == "BlockedByFailedLoad"
        and get_map(model, "lastFailureInfo").get("reason") == "ModelLoadFailed"
    )


def _creation_problems(
    workload: Workload, which: ComponentSpec, grace: GracePeriods
) -> Iterator[Problem]:
    """The API server refuses to make the pods."""
    failure = get_condition(workload.current, "ReplicaFailure")
    if failure.get("status") != "True":
        return
    since = parse_time(failure.get("lastTransitionTime"))
    if since:
        told = _refused_pods(str(failure.get("message", "")), which, since)
        yield Problem(told, since, grace.admission)


def _refused_pods(words: str, which: ComponentSpec, since: datetime) -> Failure:
    if "exceeded quota" in words:
        cause = f"the namespace's quota has no room: {words}"
        return _failure(FailureReason.QUOTA, cause, which, since)
    if "error looking up service account" in words:
        cause = f"the service account of the pods does not exist: {words}"
        rejected = _failure(FailureReason.POD_REJECTED, cause, which, since)
        remedy = "make the service account, or name one that exists in the namespace"
        return replace(rejected, remedy=remedy)
    cause = f"the cluster refuses the pods: {words}"
    return _failure(FailureReason.POD_REJECTED, cause, which, since)


def _past_deadline(workload: Workload, which: ComponentSpec) -> Problem | None:
    progress = progress_of(workload)
    if progress.get("reason") != "ProgressDeadlineExceeded":
        return None
    since = parse_time(progress.get("lastTransitionTime"))
    if since is None:
        return None
    words = f"the rollout takes longer than its deadline: {progress.get('message', '')}"
    return Problem(_failure(FailureReason.PROGRESS_DEADLINE, words, which, since), since)


def _failure(reason: FailureReason, message: str, which: ComponentSpec, since: datetime) -> Failure:
    return failure_of(reason, message, component=which.component, first_seen_time=since)


def _order(problem: Problem) -> tuple[int, datetime, str]:
    """Order by rank; of equals in the same order on every replica of ours."""
    return rank_of(problem.failure.reason), problem.since, problem.failure.pod
