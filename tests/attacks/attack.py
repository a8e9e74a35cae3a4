"""What an attack is, how it is judged, and the table of them all."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from .target import Measured, Target

P99_MS = 250
MEMORY_BYTES = 512 << 20
# Beside a line for each call, a server may report its own work: of a second, and of each attack.
OTHER_LINES = 50
# A machine that others use as well makes calls late by itself: a p99 beyond the bound is measured
# again, and the least of these is judged.
TRIES = 3
# A call that is still on its way when an attack ends is waited for.
SETTLES_WITHIN_SECONDS = 30.0
SERVES_AGAIN_MS = 100


@dataclass
class Made:
    """What an attack did, and what it was answered."""

    calls: int
    answers: Counter[str]


Run = Callable[[Target, float], Awaitable[Made]]


@dataclass(frozen=True)
class Attack:
    """One attack. `answers` are the only ones that a call of it may get.

    `by_bytes`: it floods the wire itself, which nothing of this process can hold back, so that the
    well-behaved client's latency is shown and not judged. `refuses_others`: it uses up what all
    callers share, so that theirs may be refused as well, by RESOURCE_EXHAUSTED.
    """

    name: str
    run: Run
    answers: frozenset[str]
    by_bytes: bool = False
    refuses_others: bool = False


@dataclass
class Row:
    """What an attack came to."""

    attack: str
    made: Made
    seconds: float
    gets: Sequence[Measured]
    probes: Sequence[Measured]
    peak_bytes: int
    lines: Counter[tuple[str, str]]
    problems: Sequence[str]
    by_bytes: bool = False

    @property
    def p50(self) -> float:
        return _quantile(self.gets, 0.5)

    @property
    def p99(self) -> float:
        return _quantile(self.gets, 0.99)

    @property
    def missed(self) -> int:
        return sum(probe.code != "OK" for probe in self.probes)


def _quantile(measured: Sequence[Measured], share: float) -> float:
    ordered = sorted(each.ms for each in measured)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")


def carry_out(target: Target, attack: Attack, seconds: float) -> Row:
    """Attack, wait until the server serves as before, and judge what was measured meanwhile."""
    rows: list[Row] = []
    while len(rows) < TRIES:
        rows.append(_carry_out(target, attack, seconds))
        if rows[-1].problems != [_late(rows[-1])]:
            return rows[-1]
    return min(rows, key=lambda row: row.p99)


def _carry_out(target: Target, attack: Attack, seconds: float) -> Row:
    target.forget_peak()
    log_before, began = target.log_size(), time.monotonic()
    made = asyncio.run(attack.run(target, seconds))
    ended = time.monotonic()
    problems = list(_await_service(target, ended))
    during = [each for each in list(target.measured) if began <= each.due <= ended]
    row = Row(
        attack.name,
        made,
        ended - began,
        [each for each in during if each.what == "get"],
        [each for each in during if each.what == "probe"],
        target.memory_bytes("VmHWM"),
        Counter((line["event"], line.get("level", "")) for line in target.logged(log_before)),
        problems,
        attack.by_bytes,
    )
    row.problems = [*problems, *_problems(attack, row, target)]
    return row


def _await_service(target: Target, ended: float) -> Iterator[str]:
    """Until a second of calls and two probes that began after the attack are answered well."""
    ends = ended + SETTLES_WITHIN_SECONDS
    while time.monotonic() < ends:
        if target.process.poll() is not None:
            break
        after = [each for each in list(target.measured) if each.due > ended]
        gets = [each for each in after if each.what == "get"][-40:]
        probes = [each for each in after if each.what == "probe"][-2:]
        well = [each.code == "OK" for each in (*gets, *probes)]
        enough = len(gets) >= 40 and len(probes) >= 2
        if enough and all(well) and _quantile(gets, 0.9) < SERVES_AGAIN_MS:
            return
        time.sleep(0.05)
    yield "it does not serve as before"


def _problems(attack: Attack, row: Row, target: Target) -> Iterator[str]:
    if target.process.poll() is not None:
        yield f"the server ended with {target.process.returncode}"
    if row.p99 > P99_MS and not attack.by_bytes:
        yield _late(row)
    permitted = {"OK"} | ({"RESOURCE_EXHAUSTED"} if attack.refuses_others else set())
    if others := Counter(each.code for each in row.gets if each.code not in permitted):
        yield f"a well-behaved Get was answered {dict(others)}"
    in_a_row = max((len(list(g)) for ok, g in groupby(row.probes, _passed) if not ok), default=0)
    if in_a_row > 1:
        yield f"{in_a_row} liveness probes were missed in a row"
    if not row.probes:
        yield "no liveness probe was made"
    if row.peak_bytes > MEMORY_BYTES:
        yield f"{row.peak_bytes >> 20} MiB were resident"
    if not row.made.calls:
        yield "it made no calls"
    if unforeseen := Counter(row.made.answers.keys()) - Counter(attack.answers):
        yield f"it was answered {sorted(unforeseen)}"
    yield from _log_problems(row)


def _late(row: Row) -> str:
    return f"p99 of Get is {row.p99:.0f} ms"


def _passed(probe: Measured) -> bool:
    return probe.code == "OK"


def _log_problems(row: Row) -> Iterator[str]:
    for (event, level), count in row.lines.items():
        if level not in ("debug", "info", "warning"):
            yield f"{count} times {level} in the log: {event}"
    most = row.made.calls + len(row.gets) + OTHER_LINES
    if (lines := sum(row.lines.values())) > most:
        yield f"{lines} lines in the log of {row.made.calls} calls"
    of_others = sum(n for (event, _), n in row.lines.items() if event != "call")
    if of_others > OTHER_LINES:
        yield f"{of_others} lines in the log that are not about a call"


def table(rows: Sequence[Row]) -> str:
    """All of it, for people."""
    head = ("attack", "calls", "answers", "p50", "p99", "probes", "MiB", "log")
    cells = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[n]) for line in cells) for n in range(len(head))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _cells(row: Row) -> tuple[str, ...]:
    answers = ", ".join(f"{n} {code}" for code, n in row.made.answers.most_common())
    return (
        row.attack,
        str(row.made.calls),
        answers or "none",
        f"{row.p50:.0f}",
        f"{row.p99:.0f}{'*' if row.by_bytes else ''}",
        f"{row.missed}/{len(row.probes)}",
        str(row.peak_bytes >> 20),
        str(sum(row.lines.values())),
    )


def lower_priority() -> None:
    """The server and its callers come first on the CPUs of this machine."""
    os.nice(19)
