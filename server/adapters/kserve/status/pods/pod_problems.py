"""What is wrong with a pod, from its status and the warnings about it."""

from __future__ import annotations

from collections.abc import Iterator

from server.adapters.kserve.objects import find_by_name, get_condition, get_map, parse_time
from server.adapters.kserve.status.pods.container_problems import (
    container_problems,
    init_container_problems,
)
from server.adapters.kserve.status.pods.containers import init_statuses, is_live, main_statuses
from server.adapters.kserve.status.pods.pod_context import AT_ONCE, PodContext, first_told
from server.adapters.kserve.status.pods.pod_start import start_of
from server.adapters.kserve.status.pods.sidecars import fetches_model
from server.domain.rollout.facts import Problem
from server.domain.rollout.status import FailureReason

_CREATING = ("ContainerCreating", "PodInitializing")
_VOLUME_WARNINGS = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")
_SANDBOX_WARNINGS = ("FailedCreatePodSandBox", "NetworkNotReady")
_CLAIM_MISSING = ('persistentvolumeclaim "', "not found")
# A pod that used more disk than it may is put out by the kubelet in these words; its successor
# will soon use as much. Other evictions are for what the node lacks, which may pass.
_OWN_LIMIT = ("exceeds the limit", "exceeds the total limit", "exceeded its local ephemeral")


def pod_problems(context: PodContext) -> Iterator[Problem]:
    """What is wrong with the pod, in the order in which a pod comes up."""
    if lost := _node_lost(context):
        yield lost
    if not is_live(context.pod):
        yield from _ended(context)
        return
    if unscheduled := _unscheduled(context):
        yield unscheduled
    for status in init_statuses(context.pod):
        yield from init_container_problems(context, status)
    if silent := _silent(context):
        yield silent
    for status in main_statuses(context.pod):
        yield from container_problems(context, status)
    if _is_being_made(context):
        yield from _making_problems(context)


def _silent(context: PodContext) -> Problem | None:
    """A container that others wait for writes nothing to its log, though perhaps at work."""
    start = start_of(context)
    if start is None or start.silent_since is None:
        return None
    minutes = int(context.grace.silent.total_seconds()) // 60
    silent = f"the log of {start.container} has not changed for {minutes} min"
    reason = FailureReason.NOT_ANSWERING
    if fetches_model(start.container):
        silent += ": the source does not answer, or the model is large"
        reason = FailureReason.STORAGE_DOWNLOAD
    status = find_by_name(init_statuses(context.pod), start.container)
    message = f"{silent}; {start.words}"
    since, written = start.silent_since, start.last_line
    return context.problem(reason, message, since, None, container=status, written=written)


def _node_lost(context: PodContext) -> Problem | None:
    """The control plane marks the pods of a node that no longer answers, or that is emptied."""
    ready, containers = (get_condition(context.pod, kind) for kind in ("Ready", "ContainersReady"))
    status = get_map(context.pod, "status")
    disrupted = get_condition(context.pod, "DisruptionTarget")
    # The kubelet would have turned both conditions; the node's controller turns Ready alone.
    unheard = (
        ready.get("status") == "False"
        and containers.get("status") == "True"
        and not ready.get("reason")
    )
    lost = status.get("phase") == "Unknown" or status.get("reason") == "NodeLost"
    node = get_map(context.pod, "spec").get("nodeName") or "unknown"
    if lost or unheard:
        message = f"the node of the pod does not answer: {node}"
        since = parse_time(ready.get("lastTransitionTime"))
        # The control plane has waited for the node already.
        return context.problem(FailureReason.NODE_LOST, message, since, AT_ONCE)
    if disrupted.get("reason") == "DeletionByTaintManager":
        # So too where a node that answers is emptied for maintenance: the pod moves.
        message = f"the pod is taken off its node {node}: {disrupted.get('message', '')}"
        since = parse_time(disrupted.get("lastTransitionTime"))
        return context.problem(FailureReason.NODE_LOST, message, since, None)
    return None


def _ended(context: PodContext) -> Iterator[Problem]:
    """A pod that its node refused or evicted; Kubernetes makes another one."""
    status = get_map(context.pod, "status")
    if status.get("phase") != "Failed":
        return
    words = f"{status.get('reason', '')}: {status.get('message', '')}".strip(": ")
    message = f"a node did not keep the pod: {words or 'no reason given'}"
    if status.get("reason") == "Evicted":
        since = first_told(context.last_warning("Evicted")) or parse_time(status.get("startTime"))
        # One that served for long may go on so after it.
        hopeless = not context.completed and any(text in words for text in _OWN_LIMIT)
        tolerated = AT_ONCE if hopeless else None
        yield context.problem(FailureReason.EVICTED, message, since, tolerated)
    else:
        since = parse_time(status.get("startTime"))
        yield context.problem(FailureReason.POD_REJECTED, message, since, None)


def _unscheduled(context: PodContext) -> Problem | None:
    scheduled = get_condition(context.pod, "PodScheduled")
    if scheduled.get("status") != "False":
        return None
    words = str(scheduled.get("message") or scheduled.get("reason"))
    since = parse_time(scheduled.get("lastTransitionTime"))
    if "persistentvolumeclaim" in words.lower():
        missing = all(text in words for text in _CLAIM_MISSING)
        tolerated = context.grace.volume if missing else context.grace.unschedulable
        message = f"the pod waits for its volume: {words}"
        return context.problem(FailureReason.VOLUME, message, since, tolerated)
    message = f"no node can take the pod: {words}"
    tolerated = context.grace.unschedulable
    return context.problem(FailureReason.UNSCHEDULABLE, message, since, tolerated)


def _is_being_made(context: PodContext) -> bool:
    """No container has come so far as to have a story of its own."""
    statuses = [*init_statuses(context.pod), *main_statuses(context.pod)]
    waiting = [get_map(s, "state", "waiting").get("reason") for s in statuses]
    return bool(waiting) and all(reason in _CREATING for reason in waiting)


def _making_problems(context: PodContext) -> Iterator[Problem]:
    if warning := context.last_warning(*_VOLUME_WARNINGS):
        message = f"a volume of the pod cannot be used: {warning.get('message', '')}"
        since, tolerated = first_told(warning), context.grace.volume
        yield context.problem(FailureReason.VOLUME, message, since, tolerated)
    if warning := context.last_warning(*_SANDBOX_WARNINGS):
        # The node's fault, which may pass.
        message = f"the node cannot make room for the pod: {warning.get('message', '')}"
        yield context.problem(FailureReason.POD_REJECTED, message, first_told(warning), None)
