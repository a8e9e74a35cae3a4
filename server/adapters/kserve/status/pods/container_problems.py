"""Diagnose a container: it cannot be created, it exits, or it does not become ready.

The reasons are those of the kubelet and of the container runtime.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from server.adapters.kserve.names import CONTAINER
from server.adapters.kserve.status.grace_periods import AT_ONCE, UNANSWERING
from server.adapters.kserve.status.pods.pod import Container, Exit, doublings
from server.adapters.kserve.status.pods.pod_context import PodContext, container_of
from server.adapters.kserve.status.pods.sidecars import (
    fetches_model,
    is_added,
    is_of_model_image,
    relays_requests,
)
from server.domain.rollout.facts import Problem
from server.domain.rollout.log_excerpt import cause_line, plain_lines
from server.domain.rollout.status import FailureReason

LONGEST_CAUSE = 300
_PULL_REASONS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
)
_PULL_FINAL = (
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "SignatureValidationFailed",
)
_PULL_REFUSED = (
    "not found",
    "not exist",
    "denied",
    "unauthorized",
    "authorization failed",
    "manifest unknown",
    "forbidden",
)
# Every pod passes through the first two while it starts; a back-off is reported by its exit.
_NO_FAULT = ("", "ContainerCreating", "PodInitializing", "CrashLoopBackOff")
# Messages of containers that no retry can start. A runtime that is busy or restarting misses files
# of its own in the same words; runc names a container's command so.
_NEVER_STARTS = re.compile(
    r"no command specified"
    r"|start(ing)? container process( caused)?:? \W*(error during container init: )?exec: "
    r".*(executable file not found|no such file or directory|permission denied)"
)
# The kubelet's own message: the container chose nothing of it but the number.
_PROBE_STATUS = re.compile(r"\w+ probe failed: HTTP probe failed with statuscode: \d{3}")
_EXIT_MESSAGES = {
    FailureReason.STORAGE_DOWNLOAD: "the model could not be downloaded",
    FailureReason.MODEL_LOAD: "the model could not be loaded",
    FailureReason.CRASH_LOOP: "a container that should stay up has exited",
    FailureReason.OUT_OF_MEMORY: "a container was killed for using more memory than its limit",
    FailureReason.CONTAINER_CONFIG: "a container cannot be started",
}
_INIT_EXIT = "a container that must end well before the model server starts has failed"


def container_problems(context: PodContext, container: Container) -> Iterator[Problem]:
    """Yield the problems of a container."""
    if container.waiting and (problem := _waiting_problem(context, container)):
        yield problem
    if container.must_end:
        if container.exit and container.terminated.get("exitCode") != 0:
            reason, message = FailureReason.CRASH_LOOP, _INIT_EXIT
            yield _exit_problem(context, container, container.exit, reason, message)
        return
    if container.exit and (stable := container.stable_at(context.now)) and stable > context.now:
        reason = _load_failure_or(FailureReason.CRASH_LOOP, context, container)
        yield _exit_problem(context, container, container.exit, reason, _EXIT_MESSAGES[reason])
    unanswering = unanswering_at(context)
    if unanswering and unanswering <= context.now and not container.ready:
        yield _unready_problem(context, container, unanswering - UNANSWERING)


def unanswering_at(context: PodContext) -> datetime | None:
    """Return when a pod whose containers run counts as not answering; None if it is ready."""
    pod = context.pod
    if pod.is_ready or not pod.is_live or not pod.running_since:
        return None
    return pod.running_since + UNANSWERING


def unanswering_recheck_at(context: PodContext) -> datetime | None:
    """Return when the pod counts as not answering, or when its log is due to be read again."""
    at, since = unanswering_at(context), context.pod.unready_since
    if at is None or since is None or context.now < at:
        return at
    return since + UNANSWERING * (2 << doublings(since, context.now))


def _unready_problem(context: PodContext, container: Container, since: datetime) -> Problem:
    # The readiness of a relay is that of the model server behind it.
    probed = container
    if relays_requests(container.name):
        servers = (c for c in context.pod.main_containers if c.name == CONTAINER)
        probed = next(servers, container)
    warning = context.last_warning("Unhealthy", containers=[container.name, probed.name])
    text = str(warning.get("message") or "")
    # The message holds the output of a probe that runs a command, and the text of a redirect.
    of_kubelet = _PROBE_STATUS.fullmatch(text)
    # A warning that names no container passes the gate of all containers.
    for writer in dict.fromkeys([container_of(warning), probed.name]):
        output = context.output(writer)
        text = output.masked(text) if of_kubelet else output.shown(text)
    return context.problem(
        _load_failure_or(FailureReason.NOT_ANSWERING, context, probed),
        f"the container {probed.name} runs, but is not ready{_after_colon(text)}",
        since,
        None,
        container=probed,
        container_text="" if _PROBE_STATUS.fullmatch(text) else text,
    )


def _load_failure_or(
    reason: FailureReason, context: PodContext, container: Container
) -> FailureReason:
    return FailureReason.MODEL_LOAD if context.has_failed_load(container.name) else reason


def _after_colon(text: str) -> str:
    return f": {text}" if text else ""


def _waiting_problem(context: PodContext, container: Container) -> Problem | None:
    reason = str(container.waiting.get("reason", ""))
    if reason in _NO_FAULT:
        return None
    message = str(container.waiting.get("message") or "")
    output = context.output(container.name)
    if reason in _PULL_REASONS:
        return _pull_problem(context, container, reason, output.masked(message))
    if container.exit and container.exit.never_started:
        return None
    config_error = reason == "CreateContainerConfigError"
    # Other messages may hold the output of a hook, or a command with the values of variables.
    text = output.masked(message) if config_error else output.shown(message)
    # Other causes may pass: a runtime that is busy, a name that is still taken.
    final = config_error or bool(_NEVER_STARTS.search(message))
    return context.problem(
        FailureReason.CONTAINER_CONFIG,
        f"the container {container.name} cannot be created: {text or reason}",
        None,
        AT_ONCE if final else None,
        container=container,
        container_text="" if config_error else text,
    )


def _pull_problem(context: PodContext, container: Container, reason: str, text: str) -> Problem:
    refused = any(t in text.lower() for t in _PULL_REFUSED)
    # Later attempts show ErrImagePull again for a moment.
    backed_off = any("ImagePullBackOff" in str(w.get("message")) for w in context.warnings)
    final = reason in _PULL_FINAL or refused or backed_off
    return context.problem(
        FailureReason.IMAGE_PULL,
        f"the image {container.status.get('image', '')} cannot be pulled: {text or reason}",
        None,
        AT_ONCE if final else None,
        container=container,
        retrying=False if reason in ("InvalidImageName", "ErrImageNeverPull") else None,
    )


def _exit_problem(
    context: PodContext, container: Container, exited: Exit, reason: FailureReason, message: str
) -> Problem:
    better: FailureReason | None = None
    if exited.never_started:
        better = FailureReason.CONTAINER_CONFIG
    if fetches_model(container.name):
        better = FailureReason.STORAGE_DOWNLOAD
    if exited.reason == "OOMKilled":
        better = FailureReason.OUT_OF_MEMORY
    if better:
        reason, message = better, _EXIT_MESSAGES[better]
    backing_off = container.waiting.get("reason") == "CrashLoopBackOff"
    cannot_start = exited.never_started and bool(_NEVER_STARTS.search(exited.message))
    final = backing_off or exited.repeated or cannot_start
    # The termination message may be the tail of the log: show the cause that it names, or its end.
    lines = plain_lines(context.output(container.name).shown(exited.message))
    text = (cause_line(lines) or "".join(lines[-1:])).strip()[:LONGEST_CAUSE]
    after = f" after {exited.ran_for:.0f} s" if exited.ran_for is not None else ""
    times = f", {exited.count} times so far" if exited.count > 1 else ""
    return context.problem(
        reason,
        f"{message}: {container.name} ended with exit code {exited.code} ({exited.reason})"
        f"{after}{times}{_after_colon(text)}",
        exited.at,
        AT_ONCE if final else None,
        container=container,
        exited=exited,
        remedy=_remedy(reason, container.name),
        container_text=text,
    )


def _remedy(reason: FailureReason, container: str) -> str:
    """Return a remedy for a container that KServe adds, which the spec cannot change; else ""."""
    if reason is FailureReason.STORAGE_DOWNLOAD and is_of_model_image(container):
        return (
            "put the model's files into the image's folder /models; the image must have a shell too"
        )
    if reason is FailureReason.OUT_OF_MEMORY and is_added(container):
        return (
            "ask the cluster administrator to raise the memory limit that the configuration of"
            " KServe or Knative gives this container"
        )
    return ""
