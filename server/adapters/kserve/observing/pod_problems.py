"""What is wrong with a pod, from its status and the warnings about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from server.adapters.kserve.objects import (
    Object,
    condition,
    created_at,
    moment,
    name_of,
    part,
    uid_of,
)
from server.adapters.kserve.observing.containers import (
    Exit,
    init_statuses,
    is_live,
    is_ready,
    last_exit,
    main_statuses,
    steady_at,
)
from server.adapters.kserve.observing.masking import masked, secret_values
from server.adapters.kserve.observing.patience import Patience
from server.adapters.kserve.observing.sayings import REMEDIES
from server.domain.facts import Problem
from server.domain.status import Component, Failure, FailureReason

STORAGE_INITIALIZER = "storage-initializer"
MOST_OF_LAST_WORDS = 300
_AT_ONCE = timedelta(0)
_PULL_REASONS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
)
_PULL_FINAL = ("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_PULL_REFUSED = (
    "not found",
    "not exist",
    "denied",
    "unauthorized",
    "manifest unknown",
    "forbidden",
)
_CREATING = ("ContainerCreating", "PodInitializing")
_VOLUME_WARNINGS = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")
_CLAIM_MISSING = ('persistentvolumeclaim "', "not found")


@dataclass(frozen=True, slots=True)
class PodSight:
    """A pod with what is needed to judge it.

    `load_failed`: KServe says that the model could not be loaded.
    """

    pod: Object
    component: Component
    warnings: tuple[Object, ...]
    load_failed: bool
    now: datetime
    patience: Patience

    def problem(
        self,
        reason: FailureReason,
        message: str,
        since: datetime | None,
        tolerated: timedelta | None,
        *,
        container: Object | None = None,
        ended: Exit | None = None,
        retrying: bool = True,
    ) -> Problem:
        """A problem of this pod, or of one of its containers."""
        since = since or created_at(self.pod)
        failure = Failure(
            reason,
            message,
            REMEDIES[reason],
            component=self.component,
            pod=name_of(self.pod),
            container=str(container["name"]) if container else "",
            exit_code=ended.code if ended else None,
            restart_count=int(container.get("restartCount") or 0) if container else 0,
            retrying=retrying,
            first_seen_time=since,
        )
        return Problem(failure, since, tolerated)


def pod_problems(sight: PodSight) -> Iterator[Problem]:
    """What is wrong with the pod, in the order in which a pod comes up."""
    if lost := _node_lost(sight):
        yield lost
    if not is_live(sight.pod):
        yield from _ended(sight)
        return
    if unscheduled := _unscheduled(sight):
        yield unscheduled
    for status in init_statuses(sight.pod):
        yield from _init_problems(sight, status)
    for status in main_statuses(sight.pod):
        yield from _main_problems(sight, status)
    yield from _volume_problems(sight)


def unanswering_at(sight: PodSight) -> datetime | None:
    """When a pod that runs unready will be said not to answer; None if it does not run so."""
    if is_ready(sight.pod) or not is_live(sight.pod):
        return None
    statuses = main_statuses(sight.pod)
    starts = [moment(part(s, "state", "running").get("startedAt")) for s in statuses]
    started = [s for s in starts if s]
    return (
        max(started) + sight.patience.unanswering
        if started and len(started) == len(starts)
        else None
    )


def _node_lost(sight: PodSight) -> Problem | None:
    """The control plane marks the pods of a node that no longer answers."""
    ready, containers = (condition(sight.pod, kind) for kind in ("Ready", "ContainersReady"))
    status = part(sight.pod, "status")
    taken_away = condition(sight.pod, "DisruptionTarget").get("reason") == "DeletionByTaintManager"
    # The kubelet would have turned both conditions; the node's controller turns Ready alone.
    unheard = (
        ready.get("status") == "False"
        and containers.get("status") == "True"
        and not ready.get("reason")
    )
    lost = status.get("phase") == "Unknown" or status.get("reason") == "NodeLost"
    if not (lost or taken_away or unheard):
        return None
    node = part(sight.pod, "spec").get("nodeName") or "unknown"
    message = f"the node of the pod does not answer: {node}"
    since = moment(ready.get("lastTransitionTime"))
    return sight.problem(FailureReason.NODE_LOST, message, since, None)


def _ended(sight: PodSight) -> Iterator[Problem]:
    """A pod that its node refused or evicted; Kubernetes makes another one."""
    status = part(sight.pod, "status")
    if status.get("phase") == "Failed":
        words = f"{status.get('reason', '')}: {status.get('message', '')}".strip(": ")
        since = moment(status.get("startTime"))
        message = f"a node did not keep the pod: {words or 'no reason given'}"
        yield sight.problem(FailureReason.POD_REJECTED, message, since, None)


def _unscheduled(sight: PodSight) -> Problem | None:
    scheduled = condition(sight.pod, "PodScheduled")
    if scheduled.get("status") != "False":
        return None
    words = str(scheduled.get("message") or scheduled.get("reason"))
    since = moment(scheduled.get("lastTransitionTime"))
    if "persistentvolumeclaim" in words.lower():
        missing = all(text in words for text in _CLAIM_MISSING)
        tolerated = sight.patience.volume if missing else sight.patience.unschedulable
        message = f"the pod waits for its volume: {words}"
        return sight.problem(FailureReason.VOLUME, message, since, tolerated)
    message = f"no node can take the pod: {words}"
    tolerated = sight.patience.unschedulable
    return sight.problem(FailureReason.UNSCHEDULABLE, message, since, tolerated)


def _init_problems(sight: PodSight, status: Object) -> Iterator[Problem]:
    if problem := _waiting_problem(sight, status):
        yield problem
    ended = last_exit(status, sight.patience)
    succeeded = part(status, "state", "terminated").get("exitCode") == 0
    if ended and not succeeded:
        download = status.get("name") == STORAGE_INITIALIZER
        reason = FailureReason.STORAGE_DOWNLOAD if download else FailureReason.CRASH_LOOP
        yield _exit_problem(sight, status, ended, reason)


def _main_problems(sight: PodSight, status: Object) -> Iterator[Problem]:
    if problem := _waiting_problem(sight, status):
        yield problem
    ended = last_exit(status, sight.patience)
    steady = steady_at(status, sight.now, sight.patience)
    if ended and steady and steady > sight.now:
        reason = FailureReason.MODEL_LOAD if sight.load_failed else FailureReason.CRASH_LOOP
        yield _exit_problem(sight, status, ended, reason)
    unanswering = unanswering_at(sight)
    if unanswering and unanswering <= sight.now and not status.get("ready"):
        message = f"the container {status['name']} runs, but is not ready{_probe_words(sight)}"
        since = unanswering - sight.patience.unanswering
        yield sight.problem(FailureReason.NOT_ANSWERING, message, since, None, container=status)


def _probe_words(sight: PodSight) -> str:
    failed = [str(w.get("message")) for w in sight.warnings if w.get("reason") == "Unhealthy"]
    return f": {failed[-1]}" if failed else ""


def _waiting_problem(sight: PodSight, status: Object) -> Problem | None:
    waiting = part(status, "state", "waiting")
    reason, words = str(waiting.get("reason", "")), str(waiting.get("message") or "")
    if reason in _PULL_REASONS:
        return _pull_problem(sight, status, reason, words)
    if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        message = f"the container {status['name']} cannot be made: {words or reason}"
        # The others may pass: a runtime that is busy, a name still taken.
        tolerated = _AT_ONCE if reason == "CreateContainerConfigError" else None
        return sight.problem(
            FailureReason.CONTAINER_CONFIG, message, None, tolerated, container=status
        )
    return None


def _pull_problem(sight: PodSight, status: Object, reason: str, words: str) -> Problem:
    refused = any(text in words.lower() for text in _PULL_REFUSED)
    # Later tries show ErrImagePull again for a moment.
    backed_off = any("ImagePullBackOff" in str(w.get("message")) for w in sight.warnings)
    final = reason in _PULL_FINAL or refused or backed_off
    return sight.problem(
        FailureReason.IMAGE_PULL,
        f"the image {status.get('image', '')} cannot be pulled: {words or reason}",
        None,
        _AT_ONCE if final else None,
        container=status,
        retrying=reason not in ("InvalidImageName", "ErrImageNeverPull"),
    )


def _exit_problem(sight: PodSight, status: Object, ended: Exit, reason: FailureReason) -> Problem:
    backing_off = part(status, "state", "waiting").get("reason") == "CrashLoopBackOff"
    if ended.reason == "OOMKilled":
        reason = FailureReason.OUT_OF_MEMORY
    return sight.problem(
        reason,
        f"{_EXITS[reason]}: {_told(status, ended)}{_last_words(sight.pod, ended)}",
        ended.at,
        _AT_ONCE if backing_off or ended.repeated else None,
        container=status,
        ended=ended,
    )


_EXITS = {
    FailureReason.STORAGE_DOWNLOAD: "the model could not be downloaded",
    FailureReason.MODEL_LOAD: "the model could not be loaded",
    FailureReason.CRASH_LOOP: "a container that should stay up has exited",
    FailureReason.OUT_OF_MEMORY: "a container was killed for using more memory than its limit",
}


def _told(status: Object, ended: Exit) -> str:
    name = str(status.get("name", ""))
    after = f" after {ended.ran_for:.0f} s" if ended.ran_for is not None else ""
    times = f", {ended.count} times so far" if ended.count > 1 else ""
    return f"{name} ended with exit code {ended.code} ({ended.reason}){after}{times}"


def _last_words(pod: Object, ended: Exit) -> str:
    """The end of its termination message, which may be the tail of its log."""
    last = masked(ended.message, secret_values(pod)).rsplit("\n", 1)[-1].strip()
    return f": {last[:MOST_OF_LAST_WORDS]}" if last else ""


def _volume_problems(sight: PodSight) -> Iterator[Problem]:
    statuses = [*init_statuses(sight.pod), *main_statuses(sight.pod)]
    waiting = [part(s, "state", "waiting").get("reason") for s in statuses]
    if not waiting or any(reason not in _CREATING for reason in waiting):
        return
    warnings = (w for w in sight.warnings if w.get("reason") in _VOLUME_WARNINGS)
    latest = max(warnings, key=lambda w: str(w.get("lastTimestamp")), default=None)
    if latest:
        since = moment(latest.get("firstTimestamp")) or moment(latest.get("eventTime"))
        message = f"a volume of the pod cannot be used: {latest.get('message', '')}"
        yield sight.problem(FailureReason.VOLUME, message, since, sight.patience.volume)


def warnings_about(pod: Object, events: Iterable[Object]) -> tuple[Object, ...]:
    """The warnings whose subject is this pod."""
    uid = uid_of(pod)
    return tuple(e for e in events if part(e, "involvedObject").get("uid") == uid)
