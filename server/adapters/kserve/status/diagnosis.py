"""Diagnose the new pods of a component, or their creation: the most significant problem first.

KServe's conditions never name the cause; the pods, ReplicaSets and Deployments do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from server.adapters.kserve.objects import get_condition, parse_time
from server.adapters.kserve.status.components import ComponentSpec, ParsedDeployment, Workload
from server.adapters.kserve.status.grace_periods import ADMISSION, AT_ONCE
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.parsed_service import parse_service
from server.adapters.kserve.status.pods.container_problems import unanswering_recheck_at
from server.adapters.kserve.status.pods.pod_context import PodContext, events_by_subject
from server.adapters.kserve.status.pods.pod_problems import pod_problems
from server.adapters.kserve.status.pods.pod_start import start_of
from server.domain.rollout.facts import Problem
from server.domain.rollout.failures import failure_of, rank_of
from server.domain.rollout.status import Component, FailureReason


def pod_contexts(
    workload: Workload, component: ComponentSpec, observed: ObservedObjects, now: datetime
) -> list[PodContext]:
    """Return the new pods, without ended ones that a ready pod has replaced.

    Kubernetes keeps pods that failed for a long time.
    """
    is_predictor = component.kind is Component.PREDICTOR
    load_failed = is_predictor and parse_service(observed).load_failed
    completed = workload.deployment.completed_at is not None
    warnings = events_by_subject(observed)
    newest_ready = max((p.created_at for p in workload.new_pods if p.is_ready), default=None)
    return [
        PodContext(
            pod,
            component.kind,
            warnings.get(pod.uid, ()),
            {c: log for (name, c), log in observed.logs.items() if name == pod.name},
            load_failed,
            completed,
            now,
            observed.output_policy,
        )
        for pod in workload.new_pods
        if pod.is_live or newest_ready is None or newest_ready <= pod.created_at
    ]


def problems_of(
    workload: Workload,
    component: ComponentSpec,
    contexts: Sequence[PodContext],
    ready_by: datetime | None,
) -> list[Problem]:
    """Return every problem of the workload's new pods, or of creating them.

    `ready_by`: until when the spec's ready_timeout gives them time, if it does.
    """
    deployment = workload.deployment
    problems = [p for context in contexts for p in pod_problems(context)]
    if get_condition(deployment.current, "ReplicaFailure").get("status") == "True":
        problems += _creation_problems(deployment, component)
    since = parse_time(deployment.progress.get("lastTransitionTime"))
    exceeded = deployment.progress.get("reason") == "ProgressDeadlineExceeded"
    if exceeded and since and ready_by and since < ready_by:
        # The state table decides at `ready_by`.
        problems.append(_deadline_problem(deployment, component, since, final=False))
    elif exceeded and since:
        # The deadline is not a cause: a problem that was tolerated until then is one.
        problems = [replace(p, since=min(p.since, since), tolerated=AT_ONCE) for p in problems] or [
            _deadline_problem(deployment, component, since, final=True)
        ]
    # Equal ranks have the same order on every replica of this server.
    problems.sort(key=lambda p: (rank_of(p.failure.reason), p.since, p.failure.pod))
    return problems


def recheck_at(contexts: Sequence[PodContext]) -> Iterator[datetime]:
    """Yield when time alone will change the diagnosis of these pods."""
    for context in contexts:
        if context.pod.is_ready:
            continue
        if at := unanswering_recheck_at(context):
            yield at
        if start := start_of(context):
            yield from (at for at in start.recheck_at() if at > context.now)


def _creation_problems(deployment: ParsedDeployment, component: ComponentSpec) -> Iterator[Problem]:
    """Report that the API server refuses to create the pods."""
    condition = get_condition(deployment.current, "ReplicaFailure")
    since = parse_time(condition.get("lastTransitionTime"))
    if since is None:
        return
    message, remedy = str(condition.get("message", "")), ""
    if "exceeded quota" in message:
        reason, cause = FailureReason.QUOTA, "the namespace's quota has no room"
    elif "error looking up service account" in message:
        reason = FailureReason.POD_REJECTED
        cause = "the service account of the pods does not exist"
        remedy = "create the service account, or name one that exists in the namespace"
    else:
        reason, cause = FailureReason.POD_REJECTED, "the cluster refuses the pods"
    failure = failure_of(
        reason,
        f"{cause}: {message}",
        remedy=remedy,
        component=component.kind,
        first_seen_time=since,
    )
    yield Problem(failure, since, ADMISSION)


def _deadline_problem(
    deployment: ParsedDeployment, component: ComponentSpec, since: datetime, *, final: bool
) -> Problem:
    message = (
        f"the rollout takes longer than its deadline: {deployment.progress.get('message', '')}"
    )
    if not final:
        message += "; its ready_timeout allows more time"
    failure = failure_of(
        FailureReason.PROGRESS_DEADLINE,
        message,
        component=component.kind,
        first_seen_time=since,
    )
    return Problem(failure, since, AT_ONCE if final else None)
