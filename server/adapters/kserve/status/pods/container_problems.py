"""What is wrong with a container of a pod: it cannot be made, it exits, or it does not answer.

The reasons are those of the kubelet and of the container runtime under it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from server.adapters.kserve.names import CONTAINER
from server.adapters.kserve.objects import Object, find_by_name, get_list, get_map
from server.adapters.kserve.status.pods.containers import (
    Exit,
    all_running_since,
    doublings,
    is_live,
    is_ready,
    last_exit,
    main_statuses,
    stable_at,
    unready_since,
)
from server.adapters.kserve.status.pods.pod_context import AT_ONCE, PodContext, container_of
from server.adapters.kserve.status.pods.sidecars import (
    fetches_model,
    is_added,
    is_of_model_image,
    relays_requests,
)
from server.domain.rollout.facts import Problem
from server.domain.rollout.log_excerpt import cause_line, plain_lines
from server.domain.rollout.status import FailureReason

MOST_OF_LAST_WORDS = 300
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
# A pod that comes up passes through these; what a back-off is about, the container's end tells.
_NO_FAULT = ("", "ContainerCreating", "PodInitializing", "CrashLoopBackOff")
# Of containers that cannot be made or started: what no further try will change. A runtime that is
# busy or restarting misses files of its own in the same words; runc names a container's command so.
_NEVER_STARTS = re.compile(
    r"no command specified"
    r"|start(ing)? container process( caused)?:? \W*(error during container init: )?exec: "
    r".*(executable file not found|no such file or directory|permission denied)"
)
# Words of the kubelet's own: nothing in them is the container's but the number.
_PROBED = re.compile(r"\w+ probe failed: HTTP probe failed with statuscode: \d{3}")
_EXITS = {
    FailureReason.STORAGE_DOWNLOAD: "the model could not be downloaded",
    FailureReason.MODEL_LOAD: "the model could not be loaded",
    FailureReason.CRASH_LOOP: "a container that should stay up has exited",
    FailureReason.OUT_OF_MEMORY: "a container was killed for using more memory than its limit",
    FailureReason.CONTAINER_CONFIG: "a container cannot be started",
}


_INIT_EXIT = "a container that must end well before the model server starts has failed"


def init_container_problems(context: PodContext, status: Object) -> Iterator[Problem]:
    """What is wrong with a container that must end well before the others start.

    One that is restarted always stays up beside the others instead.
    """
    spec = find_by_name(
        get_list(context.pod, "spec", "initContainers"), str(status.get("name", ""))
    )
    if spec.get("restartPolicy") == "Always":
        yield from container_problems(context, status)
        return
    if problem := _waiting_problem(context, status):
        yield problem
    ended = last_exit(status, context.grace)
    succeeded = get_map(status, "state", "terminated").get("exitCode") == 0
    if ended and not succeeded:
        yield _exit_problem(context, status, ended, FailureReason.CRASH_LOOP, _INIT_EXIT)


def container_problems(context: PodContext, status: Object) -> Iterator[Problem]:
    """What is wrong with a container that should stay up."""
    if problem := _waiting_problem(context, status):
        yield problem
    ended = last_exit(status, context.grace)
    stable = stable_at(status, context.now, context.grace)
    if ended and stable and stable > context.now:
        reason = _or_load(context, status, FailureReason.CRASH_LOOP)
        yield _exit_problem(context, status, ended, reason, _EXITS[reason])
    unanswering = unanswering_at(context)
    if unanswering and unanswering <= context.now and not status.get("ready"):
        asked = _probed(context, status)
        words = _probe_words(context, status, asked)
        message = f"the container {asked['name']} runs, but is not ready{_after_colon(words)}"
        since = unanswering - context.grace.unanswering
        reason = _or_load(context, asked, FailureReason.NOT_ANSWERING)
        written = "" if _PROBED.fullmatch(words) else words
        yield context.problem(reason, message, since, None, container=asked, written=written)


def unanswering_at(context: PodContext) -> datetime | None:
    """When a pod that runs unready will be said not to answer; None if it does not run so."""
    started = (
        None
        if is_ready(context.pod) or not is_live(context.pod)
        else all_running_since(context.pod)
    )
    return started + context.grace.unanswering if started else None


def unanswering_looks_different_at(context: PodContext) -> datetime | None:
    """When that will be said, or more is to be known of it by its log; None if it does not so."""
    at, since = unanswering_at(context), unready_since(context.pod)
    if at is None or since is None or context.now < at:
        return at
    times = 2 << doublings(since, context.now, context.grace)
    return since + context.grace.unanswering * times


def _probed(context: PodContext, status: Object) -> Object:
    """The container that is really asked."""
    if not relays_requests(str(status.get("name", ""))):
        return status
    return find_by_name(main_statuses(context.pod), CONTAINER) or status


def _or_load(context: PodContext, status: Object, otherwise: FailureReason) -> FailureReason:
    failed = context.says_load_failed(str(status.get("name", "")))
    return FailureReason.MODEL_LOAD if failed else otherwise


def _probe_words(context: PodContext, status: Object, asked: Object) -> str:
    """What the probe of an unready container said, which may be that of the one behind it."""
    names = [str(c.get("name", "")) for c in (status, asked)]
    warning = context.last_warning("Unhealthy", containers=names)
    words = str(warning.get("message") or "")
    # Of a command that probes, the message holds the output; of an address, what a redirect said.
    of_kubelet = _PROBED.fullmatch(words)
    # A warning that names no container passes the gate of them all.
    for writer in dict.fromkeys([container_of(warning), names[1]]):
        output = context.output_policy.gate_for_container(context.pod, writer)
        words = output.masked(words) if of_kubelet else output.shown(words)
    return words


def _after_colon(words: str) -> str:
    return f": {words}" if words else ""


def _waiting_problem(context: PodContext, status: Object) -> Problem | None:
    waiting = get_map(status, "state", "waiting")
    reason = str(waiting.get("reason", ""))
    told, output = str(waiting.get("message") or ""), context.output(status)
    if reason in _PULL_REASONS:
        return _pull_problem(context, status, reason, output.masked(told))
    ended = last_exit(status, context.grace)
    if reason in _NO_FAULT or (ended and ended.never_started):
        return None
    unmade = reason == "CreateContainerConfigError"
    # Of a hook that failed, the message holds the output; of what cannot be started, the command
    # with the values of variables in it.
    words = output.masked(told) if unmade else output.shown(told)
    message = f"the container {status['name']} cannot be made: {words or reason}"
    # The others may pass: a runtime that is busy, a name still taken.
    final = unmade or _can_never_start(told)
    tolerated = AT_ONCE if final else None
    return context.problem(
        FailureReason.CONTAINER_CONFIG,
        message,
        None,
        tolerated,
        container=status,
        written="" if unmade else words,
    )


def _pull_problem(context: PodContext, status: Object, reason: str, words: str) -> Problem:
    refused = any(text in words.lower() for text in _PULL_REFUSED)
    # Later tries show ErrImagePull again for a moment.
    backed_off = any("ImagePullBackOff" in str(w.get("message")) for w in context.warnings)
    final = reason in _PULL_FINAL or refused or backed_off
    return context.problem(
        FailureReason.IMAGE_PULL,
        f"the image {status.get('image', '')} cannot be pulled: {words or reason}",
        None,
        AT_ONCE if final else None,
        container=status,
        retrying=False if reason in ("InvalidImageName", "ErrImageNeverPull") else None,
    )


def _exit_problem(
    context: PodContext, status: Object, ended: Exit, reason: FailureReason, what: str
) -> Problem:
    name = str(status.get("name", ""))
    backing_off = get_map(status, "state", "waiting").get("reason") == "CrashLoopBackOff"
    if ended.never_started:
        reason, what = _named(FailureReason.CONTAINER_CONFIG)
    if fetches_model(name):
        reason, what = _named(FailureReason.STORAGE_DOWNLOAD)
    if ended.reason == "OOMKilled":
        reason, what = _named(FailureReason.OUT_OF_MEMORY)
    hopeless = ended.never_started and _can_never_start(ended.message)
    final = backing_off or ended.repeated or hopeless
    written = _last_words(context, status, ended)
    return context.problem(
        reason,
        f"{what}: {_told(status, ended)}{_after_colon(written)}",
        ended.at,
        AT_ONCE if final else None,
        container=status,
        ended=ended,
        remedy=_remedy(reason, name),
        written=written,
    )


def _named(reason: FailureReason) -> tuple[FailureReason, str]:
    return reason, _EXITS[reason]


def _remedy(reason: FailureReason, container: str) -> str:
    """Name what to do where the reason's remedy does not fit the container; else empty.

    The spec cannot change a container that KServe adds.
    """
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


def _can_never_start(words: str) -> bool:
    return bool(_NEVER_STARTS.search(words))


def _told(status: Object, ended: Exit) -> str:
    name = str(status.get("name", ""))
    after = f" after {ended.ran_for:.0f} s" if ended.ran_for is not None else ""
    times = f", {ended.count} times so far" if ended.count > 1 else ""
    return f"{name} ended with exit code {ended.code} ({ended.reason}){after}{times}"


def _last_words(context: PodContext, status: Object, ended: Exit) -> str:
    """What its termination message, which may be the tail of its log, names as the cause, or else
    its end."""
    lines = plain_lines(context.output(status).shown(ended.message))
    last = (cause_line(lines) or "".join(lines[-1:])).strip()
    return last[:MOST_OF_LAST_WORDS]
