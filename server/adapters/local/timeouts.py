"""How long the local cluster waits, and for what."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Patience:
    """Spans of time.

    A model may take `progress_deadline` to load; a server that has ended the load, but says that
    its model is not ready, fails after `unready`. A server that is ready is asked again every
    `probe`, as a kubelet does. Who crashed counts as stable after `stable` without another
    crash, and begins with a clean slate after `forgiven`. Between attempts the wait doubles from
    `first_retry` up to `longest_retry`, as a kubelet's does. A start that has not ended after
    `longest_turn` lets the next one begin. Requests in flight have `drain`, and a process that is
    asked to end has `stop`.
    """

    progress_deadline: timedelta = timedelta(minutes=10)
    unready: timedelta = timedelta(seconds=10)
    probe: timedelta = timedelta(seconds=10)
    stable: timedelta = timedelta(seconds=10)
    forgiven: timedelta = timedelta(minutes=10)
    first_retry: timedelta = timedelta(seconds=10)
    longest_retry: timedelta = timedelta(minutes=5)
    longest_turn: timedelta = timedelta(seconds=30)
    drain: timedelta = timedelta(seconds=30)
    stop: timedelta = timedelta(seconds=10)

    def before_retry(self, failures: int) -> timedelta:
        """The wait after so many failures, one at least."""
        doubled: timedelta = self.first_retry * 2 ** min(failures - 1, 16)
        return min(doubled, self.longest_retry)
