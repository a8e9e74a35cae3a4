"""Follow the start of a pod: which container the model server waits for, and for how long.

Nothing in Kubernetes says that a download hangs: its container runs, and that is all. So its log is
read now and then, and where that has not changed for long, it is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from server.adapters.kserve.objects import (
    Object,
    find_by_name,
    get_list,
    get_map,
    name_of,
    parse_time,
)
from server.adapters.kserve.status.observed_objects import LogExcerpt
from server.adapters.kserve.status.pods.containers import (
    init_statuses,
    is_live,
    main_statuses,
    running_since,
)
from server.adapters.kserve.status.pods.pod_context import PodContext
from server.domain.rollout.facts import Starting

# What is said of a time that passes, so that it is not said anew each second.
_STEPS = tuple(timedelta(seconds=s) for s in (15, 30, 60, 120, 180, 300, 600, 1800, 3600))
# A log that could not be read is asked for again so often.
_ASK_AGAIN = timedelta(seconds=60)
_MAKING = ("ContainerCreating", "PodInitializing")


@dataclass(frozen=True, slots=True)
class Start:
    """What a pod's start waits for: a container that runs or (`runs` is False) is being made."""

    context: PodContext
    container: str
    since: datetime
    restart_count: int
    runs: bool

    @property
    def log(self) -> LogExcerpt | None:
        """What was last read of the log of this very run."""
        log = self.context.logs.get(self.container) if self.runs else None
        return log if log and log.restart_count == self.restart_count else None

    @property
    def silent_since(self) -> datetime | None:
        """Since when its log has not changed, if that has been so for long when it was read."""
        log = self.log
        if log is None or log.read_at is None or not log.readable:
            return None
        last = min(log.written_at or self.since, log.read_at)
        return last if log.read_at - last >= self.context.grace.silent else None

    @property
    def words(self) -> str:
        """Say for how long it has gone on; empty while that is not worth a word."""
        passed = [step for step in _STEPS if self.since + step <= self.context.now]
        if not passed:
            return ""
        long = f"for more than {_duration(passed[-1])}"
        if not self.runs:
            return f"{self.container} has waited to be made {long}, as while an image is pulled"
        last = self.last_line
        return f"{self.container} has run {long}" + (f", its last log line: {last}" if last else "")

    @property
    def last_line(self) -> str:
        """The last line of that log, with which `words` ends, as it may be shown."""
        # Whether it may be can have changed since it was read.
        output = self.context.output_policy.gate_for_container(self.context.pod, self.container)
        return output.shown(self.log.last_line) if self.log else ""

    @property
    def look(self) -> int:
        """The number of the look at its log that is due, or was the last."""
        log, due = self.log, self._next_look
        return (log.look if log else 0) + int(due <= self.context.now)

    def recheck_at(self) -> Iterator[datetime]:
        """When time alone will show more of it."""
        yield from (self.since + step for step in _STEPS)
        if self.runs:
            due, now = self._next_look, self.context.now
            yield due if due > now else now + _ASK_AGAIN - (now - self.since) % _ASK_AGAIN

    @property
    def _next_look(self) -> datetime:
        """At each step, and as soon as its log may have been silent for long."""
        log, silent = self.log, self.context.grace.silent
        if log is None or log.read_at is None:
            return self.since + _STEPS[0]
        last = min(log.written_at or self.since, log.read_at)
        quiet = last + silent if last + silent > log.read_at else log.read_at + silent
        steps = (self.since + step for step in _STEPS if self.since + step > log.read_at)
        return min([quiet, *steps])


def start_of(context: PodContext) -> Start | None:
    """Return what the start of a pod waits for; None once its main containers run."""
    pod = context.pod
    if not is_live(pod):
        return None
    began = parse_time(get_map(pod, "status").get("startTime"))
    for status in _initialising(pod):
        if ended := get_map(status, "state", "terminated"):
            if ended.get("exitCode"):
                return None
            began = parse_time(ended.get("finishedAt")) or began
        elif since := running_since(status):
            return _start(context, status, since, runs=True)
        else:
            return _start(context, status, began, runs=False) if began and _waits(status) else None
    waiting = next(filter(_waits, main_statuses(pod)), None)
    return _start(context, waiting, began, runs=False) if began and waiting else None


def _start(context: PodContext, status: Object, since: datetime, *, runs: bool) -> Start:
    restarts = int(status.get("restartCount") or 0)
    return Start(context, str(status.get("name", "")), since, restarts, runs)


def _waits(status: Object) -> bool:
    return get_map(status, "state", "waiting").get("reason") in _MAKING


def starting(contexts: Sequence[PodContext]) -> Starting | None:
    """Return what the pod waits for whose start takes longest; None where none takes long."""
    starts = [s for context in contexts if (s := start_of(context)) and s.words]
    if not starts:
        return None
    longest = min(starts, key=lambda s: (not s.runs, s.since, name_of(s.context.pod)))
    pod, look = name_of(longest.context.pod), longest.look if longest.runs else 0
    return Starting(longest.words, pod, longest.container, look)


def _initialising(pod: Object) -> Iterator[Object]:
    """Of its init containers those that must end; the others stay up beside the main ones."""
    for status in init_statuses(pod):
        spec = find_by_name(get_list(pod, "spec", "initContainers"), str(status.get("name", "")))
        if spec.get("restartPolicy") != "Always":
            yield status


def _duration(step: timedelta) -> str:
    seconds = int(step.total_seconds())
    return f"{seconds} s" if seconds < 60 else f"{seconds // 60} min"
