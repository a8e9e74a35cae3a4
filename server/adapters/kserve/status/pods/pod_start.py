"""Follow the start of a pod: which container the model server waits for, and for how long.

Kubernetes does not report a download that hangs: its container just runs. So its log is read from
time to time, and a log that has not changed for long is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from server.adapters.kserve.objects import parse_time
from server.adapters.kserve.status.grace_periods import SILENT
from server.adapters.kserve.status.observed_objects import LogExcerpt
from server.adapters.kserve.status.pods.pod import Container
from server.adapters.kserve.status.pods.pod_context import PodContext
from server.domain.rollout.facts import Starting
from server.domain.rollout.status import LAST_LOG_LINE

# The durations that are reported, so that the message does not change every second.
_STEPS = tuple(timedelta(seconds=s) for s in (15, 30, 60, 120, 180, 300, 600, 1800, 3600))
# A log that could not be read is read again after so long.
_REREAD_AFTER = timedelta(seconds=60)
_CREATING = ("ContainerCreating", "PodInitializing")


@dataclass(frozen=True, slots=True)
class Start:
    """Hold the container that the start of a pod waits for: it runs, or waits to be created."""

    context: PodContext
    container: Container
    since: datetime
    runs: bool

    @property
    def log(self) -> LogExcerpt | None:
        """Return the last excerpt of the log of this run."""
        log = self.context.logs.get(self.container.name) if self.runs else None
        return log if log and log.restart_count == self.container.restart_count else None

    @property
    def silent_since(self) -> datetime | None:
        """Return since when the log has not changed, if that was long when it was read."""
        log = self.log
        if log is None or log.read_at is None or not log.readable:
            return None
        last = min(log.written_at or self.since, log.read_at)
        return last if log.read_at - last >= SILENT else None

    @property
    def description(self) -> str:
        """Describe how long it has taken; empty before the first step."""
        passed = [step for step in _STEPS if self.since + step <= self.context.now]
        if not passed:
            return ""
        seconds = int(passed[-1].total_seconds())
        duration = f"{seconds} s" if seconds < 60 else f"{seconds // 60} min"
        name, last = self.container.name, self.last_line
        if not self.runs:
            return (
                f"{name} has waited to be created for more than {duration}, as while an image is"
                " pulled"
            )
        return f"{name} has run for more than {duration}" + (
            f"{LAST_LOG_LINE}{last}" if last else ""
        )

    @property
    def last_line(self) -> str:
        """Return the last line of the log, as it may be shown now."""
        log = self.log
        return self.context.output(self.container.name).shown(log.last_line) if log else ""

    @property
    def log_read(self) -> int:
        """Return the number of the read of the log that is due, or was the last."""
        log, due = self.log, self._next_read
        return (log.log_read if log else 0) + int(due <= self.context.now)

    def recheck_at(self) -> Iterator[datetime]:
        """Yield when time alone changes the description, or the log is to be read."""
        yield from (self.since + step for step in _STEPS)
        if self.runs:
            due, now = self._next_read, self.context.now
            overdue = (now - self.since) % _REREAD_AFTER
            yield due if due > now else now + _REREAD_AFTER - overdue

    @property
    def _next_read(self) -> datetime:
        """Return when to read the log: at each step, and when it may have been silent for long."""
        log = self.log
        if log is None or log.read_at is None:
            return self.since + _STEPS[0]
        last = min(log.written_at or self.since, log.read_at)
        quiet = last + SILENT if last + SILENT > log.read_at else log.read_at + SILENT
        steps = (self.since + step for step in _STEPS if self.since + step > log.read_at)
        return min([quiet, *steps])


def start_of(context: PodContext) -> Start | None:
    """Return the container that a pod waits for; None once its main containers run."""
    pod = context.pod
    if not pod.is_live:
        return None
    began = pod.started_at
    for container in pod.init_containers:
        if not container.must_end:
            continue
        if container.terminated:
            if container.terminated.get("exitCode"):
                return None
            began = parse_time(container.terminated.get("finishedAt")) or began
        elif container.running_since:
            return Start(context, container, container.running_since, runs=True)
        else:
            waits = began and container.waiting.get("reason") in _CREATING
            return Start(context, container, began, runs=False) if began and waits else None
    waiting = (c for c in pod.main_containers if c.waiting.get("reason") in _CREATING)
    first = next(waiting, None)
    return Start(context, first, began, runs=False) if began and first else None


def starting(contexts: Sequence[PodContext]) -> Starting | None:
    """Return the pod whose start takes longest; None if none takes long."""
    starts = [start for c in contexts if not c.pod.is_ready and (start := start_of(c))]
    slow = [start for start in starts if start.description]
    if not slow:
        return None
    longest = min(slow, key=lambda s: (not s.runs, s.since, s.context.pod.name))
    read = longest.log_read if longest.runs else 0
    pod, container = longest.context.pod.name, longest.container.name
    return Starting(longest.description, pod, container, read)
