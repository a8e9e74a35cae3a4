"""One caller's floods beside another caller's Gets: `python -m tests.attacks.beside`.

It prints p99 of the other caller's Gets before and during each flood: of the server, and of a bare
grpc.aio server with the same channel options, which answers ready-made bytes. What that one takes
is the least that gRPC leaves.

A server has CPU 0 alone. The flood and the other caller share CPU 1, where the flood gets what the
caller leaves. So the figures show what a server does with its CPU, and not which process the
scheduler prefers. Files are in memory, since the local cluster waits for the disk in each Deploy.
It takes two CPUs that nothing else uses; with --real-time, as root, others may use them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

# In a checkout the stubs are not installed.
sys.path.append(str(Path(__file__).parents[2] / "generated"))

import grpc
from modelservice.v1.model_service_pb2 import GetRequest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from tests.api.token_files import token_of

from . import callers, transport
from .attack import Attack, aligned, quantile
from .target import SERVED, Measured, PodLimits, Target, measuring, running_target, started

SECONDS = 4.0
QUIET_SECONDS = 2.0
TRIES = 3
SETTLES_WITHIN_SECONDS = 30.0
# So many Gets in a row that take less are a server at rest.
AT_REST, AT_REST_MS = 60, 20.0
GET_EVERY_SECONDS = 0.01
SERVER_CPU, OTHERS_CPU = 0, 1
OF_OTHERS, OF_THE_FLOOD = 2, 1
_MEMORY = Path("/dev/shm")
# Floods by one caller, whose token is in all of their calls.
FLOODS = (*callers.ATTACKS, *(each for each in transport.ATTACKS if each.by_bytes))
HEAD = ("flood of one caller", "before", "during", "ratio", "bare before", "during", "ratio")


class Figures(NamedTuple):
    """p99 of the other caller's Gets in ms, before and during a flood."""

    before: float
    during: float

    @property
    def cells(self) -> tuple[str, ...]:
        ratio = self.during / self.before
        return f"{self.before:.1f}", f"{self.during:.1f}", f"{ratio:.1f}"


def figures(target: Target, flood: Attack, seconds: float) -> Figures:
    """Measure before and during a flood; again if no Get was due then, on a busy machine."""
    for _ in range(TRIES):
        before, during = _measure(target, flood, seconds)
        if before and during:
            break
    return Figures(quantile(before, 0.99), quantile(during, 0.99))


def _measure(
    target: Target, flood: Attack, seconds: float
) -> tuple[Sequence[Measured], Sequence[Measured]]:
    """Return the Gets before and during a flood, which begins once the server is at rest."""
    _await_rest(target)
    rested = time.monotonic()
    time.sleep(QUIET_SECONDS)
    began = time.monotonic()
    asyncio.run(flood.run(target, seconds))
    ended = time.monotonic()
    # Calls that were due during the flood are still on their way.
    _await_rest(target)
    gets = [each for each in list(target.measured) if each.what == "get"]
    before = [each for each in gets if rested <= each.due < began]
    return before, [each for each in gets if began <= each.due < ended]


def _await_rest(target: Target) -> None:
    since, ends = time.monotonic(), time.monotonic() + SETTLES_WITHIN_SECONDS
    while time.monotonic() < ends:
        gets = [each for each in list(target.measured) if each.what == "get" and each.due > since]
        if len(gets) >= AT_REST and all(each.ms < AT_REST_MS for each in gets[-AT_REST:]):
            return
        time.sleep(0.05)


@contextmanager
def _on(cpu: int) -> Iterator[None]:
    """What is started in the block runs on this CPU, and on no other."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _servers(running: ExitStack, folder: Path) -> Iterator[Target]:
    """The server, and the bare one, each with the other caller."""
    ours, bare = folder / "ours", folder / "bare"
    ours.mkdir()
    bare.mkdir()
    with _on(SERVER_CPU):
        target = running.enter_context(running_target(ours, identities=True, measured=False))
    with grpc.insecure_channel(target.address) as channel:
        get = GetRequest(name=SERVED)
        answer = ModelServiceStub(channel).Get(get, metadata=target.metadata)
    (bare / "answer").write_bytes(answer.SerializeToString())
    module, limits = ["tests.attacks.bare_server", str(bare / "answer")], PodLimits.read()
    with _on(SERVER_CPU):
        process = running.enter_context(started(module, bare / "log", {}, limits))
    for each in (target, Target(process, bare / "log", limits, target.metadata)):
        with _on(OTHERS_CPU):
            running.enter_context(measuring(each, token_of(SERVED), GET_EVERY_SECONDS))
        yield each


def _prefer(real_time: bool) -> None:
    if real_time:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(OF_OTHERS))


def _defer(real_time: bool) -> None:
    """Give the flood what the other caller leaves."""
    os.sched_setaffinity(0, {OTHERS_CPU})
    if real_time:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(OF_THE_FLOOD))
    else:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main(arguments: Sequence[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.beside", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each flood")
    parser.add_argument("--only", default="", help="floods whose name has this text")
    parser.add_argument("--real-time", action="store_true", help="before all other programs")
    given = parser.parse_args(arguments)
    if not {SERVER_CPU, OTHERS_CPU} <= os.sched_getaffinity(0):
        print("it takes two CPUs: nothing is measured", file=sys.stderr)
        return 0
    rows = [HEAD]
    folder = _MEMORY if _MEMORY.is_dir() else None
    _prefer(given.real_time)
    with (
        tempfile.TemporaryDirectory(prefix="modelservice-beside-", dir=folder) as made,
        ExitStack() as running,
    ):
        targets = list(_servers(running, Path(made)))
        _defer(given.real_time)
        for flood in FLOODS:
            if given.only in flood.name:
                ours, bare = (figures(target, flood, given.seconds) for target in targets)
                rows.append((flood.name, *ours.cells, *bare.cells))
                print("  ".join(rows[-1]), flush=True)
    print(f"\np99 of another caller's Get, in ms\n{aligned(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
