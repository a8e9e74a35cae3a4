"""Diagnose a pod from its status and the warnings about it."""

from __future__ import annotations

from collections.abc import Iterator

from server.adapters.kserve.objects import parse_time
from server.adapters.kserve.status.grace_periods import AT_ONCE, SILENT, UNSCHEDULABLE, VOLUME
from server.adapters.kserve.status.pods.container_problems import container_problems
from server.adapters.kserve.status.pods.pod_context import PodContext, first_seen
from server.adapters.kserve.status.pods.pod_start import start_of
from server.adapters.kserve.status.pods.sidecars import fetches_model
from server.domain.rollout.facts import Problem
from server.domain.rollout.status import FailureReason

_CREATING = ("ContainerCreating", "PodInitializing")
_VOLUME_WARNINGS = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")
_SANDBOX_WARNINGS = ("FailedCreatePodSandBox", "NetworkNotReady")
_CLAIM_MISSING = ('persistentvolumeclaim "', "not found")
# The kubelet's messages when it evicts a pod that used more disk than its limit; its successor will
# soon use as much. Other evictions are for a shortage of the node, which may pass.
_OWN_LIMIT = ("exceeds the limit", "exceeds the total limit", "exceeded its local ephemeral")


def pod_problems(context: PodContext) -> Iterator[Problem]:
    """Yield the problems of a pod, in the order in which a pod starts."""
    pod = context.pod
    if lost := _node_lost(context):
        yield lost
    if not pod.is_live:
        yield from _ended(context)
        return
    if pod.conditions.get("PodScheduled", {}).get("status") == "False":
        yield _unscheduled(context)
    for container in pod.init_containers:
        if container.waiting or container.exit or not container.must_end:
            yield from container_problems(context, container)
    if not pod.is_ready and (silent := _silent(context)):
        yield silent
    for container in pod.main_containers:
        if container.waiting or container.exit or not pod.is_ready:
            yield from container_problems(context, container)
    # Warnings count until a container has started.
    waiting = [c.waiting.get("reason") for c in pod.containers]
    if waiting and all(reason in _CREATING for reason in waiting):
        yield from _volume_and_sandbox_problems(context)


def _node_lost(context: PodContext) -> Problem | None:
    """Report a node that does not answer, or that is being emptied."""
    pod, conditions = context.pod, context.pod.conditions
    ready, disrupted = conditions.get("Ready", {}), conditions.get("DisruptionTarget", {})
    # The kubelet would have changed both conditions; the node controller changes Ready alone.
    silent = (
        ready.get("status") == "False"
        and conditions.get("ContainersReady", {}).get("status") == "True"
        and not ready.get("reason")
    )
    node = pod.node or "unknown"
    if silent or pod.phase == "Unknown" or pod.reason == "NodeLost":
        message = f"the node of the pod does not answer: {node}"
        since = parse_time(ready.get("lastTransitionTime"))
        # The control plane has already waited for the node.
        return context.problem(FailureReason.NODE_LOST, message, since, AT_ONCE)
    if disrupted.get("reason") == "DeletionByTaintManager":
        # A node that answers and is emptied for maintenance shows the same: the pod moves.
        message = f"the pod is taken off its node {node}: {disrupted.get('message', '')}"
        since = parse_time(disrupted.get("lastTransitionTime"))
        return context.problem(FailureReason.NODE_LOST, message, since, None)
    return None


def _ended(context: PodContext) -> Iterator[Problem]:
    """Report a pod that its node rejected or evicted; Kubernetes creates another one."""
    pod = context.pod
    if pod.phase != "Failed":
        return
    reported = f"{pod.reason}: {pod.message}".strip(": ")
    message = f"a node did not keep the pod: {reported or 'no reason given'}"
    if pod.reason == "Evicted":
        warned_at = first_seen(context.last_warning("Evicted"))
        since = warned_at or pod.started_at
        # The successor of a pod that has served for long may do so too.
        final = not context.completed and any(text in reported for text in _OWN_LIMIT)
        yield context.problem(FailureReason.EVICTED, message, since, AT_ONCE if final else None)
    else:
        yield context.problem(FailureReason.POD_REJECTED, message, pod.started_at, None)


def _unscheduled(context: PodContext) -> Problem:
    scheduled = context.pod.conditions["PodScheduled"]
    reported = str(scheduled.get("message") or scheduled.get("reason"))
    since = parse_time(scheduled.get("lastTransitionTime"))
    if "persistentvolumeclaim" in reported.lower():
        missing = all(text in reported for text in _CLAIM_MISSING)
        message = f"the pod waits for its volume: {reported}"
        tolerated = VOLUME if missing else UNSCHEDULABLE
        return context.problem(FailureReason.VOLUME, message, since, tolerated)
    message = f"no node can take the pod: {reported}"
    return context.problem(FailureReason.UNSCHEDULABLE, message, since, UNSCHEDULABLE)


def _silent(context: PodContext) -> Problem | None:
    """Report a container that others wait for, and whose log does not change."""
    start = start_of(context)
    if start is None or (since := start.silent_since) is None:
        return None
    minutes = int(SILENT.total_seconds()) // 60
    silent = f"the log of {start.container.name} has not changed for {minutes} min"
    reason = FailureReason.NOT_ANSWERING
    if fetches_model(start.container.name):
        silent += ": the source does not answer, or the model is large"
        reason = FailureReason.STORAGE_DOWNLOAD
    message = f"{silent}; {start.description}"
    return context.problem(
        reason,
        message,
        since,
        None,
        container=start.container,
        container_text=start.last_line,
    )


def _volume_and_sandbox_problems(context: PodContext) -> Iterator[Problem]:
    if warning := context.last_warning(*_VOLUME_WARNINGS):
        message = f"a volume of the pod cannot be used: {warning.get('message', '')}"
        yield context.problem(FailureReason.VOLUME, message, first_seen(warning), VOLUME)
    if warning := context.last_warning(*_SANDBOX_WARNINGS):
        # The node is at fault, which may pass.
        message = f"the node cannot create the pod's sandbox: {warning.get('message', '')}"
        yield context.problem(FailureReason.POD_REJECTED, message, first_seen(warning), None)
