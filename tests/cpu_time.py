"""CPU time in the seconds of one machine, so that a bound holds on any other.

Machines that run the tests differ by a factor of three, and one of them by as much within an hour.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_ADDITIONS = 100_000
# Of them, on the machine whose seconds these are.
_REFERENCE_SECONDS = 0.005


def slowness() -> float:
    """Return how many times as long this thread takes at present; 1 at least.

    Takes some 5 ms on the machine of reference.
    """
    began, total = time.thread_time(), 0
    for number in range(_ADDITIONS):
        total += number
    return max(1.0, (time.thread_time() - began) / _REFERENCE_SECONDS)


@dataclass
class CpuTime:
    """What a thread took, in seconds of the machine of reference."""

    seconds: float = 0.0


@contextmanager
def cpu_time() -> Iterator[CpuTime]:
    """Measure this thread inside the block; the result has `seconds` at its end."""
    taken, began = CpuTime(), time.thread_time()
    yield taken
    taken.seconds = (time.thread_time() - began) / slowness()
