"""`python -m tests.attacks`: attack, print what became of it, and fail where it did harm."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

# In a checkout the stubs are not installed.
sys.path.append(str(Path(__file__).parents[2] / "generated"))

from . import callers, local, requests, streams, transport
from .attack import P99_MS, Attack, Made, Row, carry_out, lowered_priority, table, too_many_unjudged
from .target import Target, running_target

SECONDS = 2.5
SECONDS_OF_CALLERS = 1.0
DID_HARM = 1
LEGEND = """\
p50, p99  of a well-behaved client's Get, in ms: at most {p99_ms} at the 99th percentile
       *  floods the wire itself: shown and not judged
       ?  others took this machine's CPUs meanwhile: shown and not judged, in three rows at most
probes    liveness probes missed, of how many: never two in a row
MiB       most that was resident: at most 512
log       lines of the attack's calls: at most two for each, none an error"""


async def nothing(target: Target, seconds: float) -> Made:
    """No attack at all: what the others are to be compared with."""
    await asyncio.sleep(seconds)
    return Made(1, Counter())


ATTACKS = (
    Attack("none", nothing, frozenset()),
    *transport.ATTACKS,
    *requests.ATTACKS,
    *streams.ATTACKS,
    *local.ATTACKS,
)
# By one caller, while another is served.
OF_CALLERS = (Attack("none, of callers with identities", nothing, frozenset()), *callers.ATTACKS)


def _carried_out(
    chosen: Sequence[Attack], identities: bool, seconds: float, p99_ms: float
) -> Iterator[Row]:
    """The rows of these attacks, on a server of their own; no more once it has ended."""
    with (
        tempfile.TemporaryDirectory(prefix="modelservice-attacks-") as folder,
        running_target(Path(folder), identities=identities) as target,
        lowered_priority(),
    ):
        for attack in chosen:
            row = carry_out(target, attack, seconds, p99_ms)
            print(f"{row.seconds:6.1f} s  {attack.name}", flush=True)
            yield row
            if target.process.poll() is not None:
                return


def main(arguments: Sequence[str]) -> int:
    """Carry out what is asked for; DID_HARM where one of them did."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("--seconds", type=float, help="of each attack")
    parser.add_argument("--p99", type=int, default=P99_MS, metavar="MS", help="of Get, at most")
    parser.add_argument("--only", default="", help="attacks whose name has this text")
    given = parser.parse_args(arguments)
    began, rows = time.monotonic(), list[Row]()
    kinds = ((ATTACKS, False, SECONDS), (OF_CALLERS, True, SECONDS_OF_CALLERS))
    for attacks, identities, seconds in kinds:
        if chosen := [attack for attack in attacks if given.only in attack.name]:
            rows += _carried_out(chosen, identities, given.seconds or seconds, given.p99)
    print(f"\n{table(rows)}\n")
    print(LEGEND.format(p99_ms=given.p99))
    busy = sum(row.is_busy for row in rows)
    print(f"{len(rows)} attacks in {time.monotonic() - began:.0f} s, {busy} on a busy machine")
    problems = [f"{row.attack}: {problem}" for row in rows for problem in row.problems]
    problems += too_many_unjudged(rows)
    print(*problems, sep="\n", file=sys.stderr)
    return DID_HARM if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
