"""How long the local cluster waits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The waits of the local cluster.

    - `progress_deadline`: a model has so long to load.
    - `unready`: a server that logged the end of its load, and is not ready, then fails.
    - `probe`: the interval between readiness probes of a ready server, as a kubelet's.
    - `stable`: a server that crashed is stable once it has run so long.
    - `crash_reset`: after so long without a crash, its crash count is reset.
    - `first_retry`, `longest_retry`: the wait between attempts doubles, as a kubelet's does.
    - `load_slot`: a load that takes longer lets the next one begin.
    - `drain`: requests in flight have so long to end.
    - `stop`: a process has so long to end before it is killed.
    """

    progress_deadline: timedelta = timedelta(minutes=10)
    unready: timedelta = timedelta(seconds=10)
    probe: timedelta = timedelta(seconds=10)
    stable: timedelta = timedelta(seconds=10)
    crash_reset: timedelta = timedelta(minutes=10)
    first_retry: timedelta = timedelta(seconds=10)
    longest_retry: timedelta = timedelta(minutes=5)
    load_slot: timedelta = timedelta(seconds=30)
    drain: timedelta = timedelta(seconds=30)
    stop: timedelta = timedelta(seconds=10)

    def before_retry(self, failures: int) -> timedelta:
        """Return the wait after so many failures, at least one."""
        doubled: timedelta = self.first_retry * 2 ** min(failures - 1, 16)
        return min(doubled, self.longest_retry)
