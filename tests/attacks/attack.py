"""What an attack is, how it is judged, and the table of them all."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby

import psutil

from .target import Measured, Target

P99_MS = 250
MEMORY_BYTES = 512 << 20
# What may be left of it after an attack.
LEFT_BYTES = 384 << 20
# A call may have two lines in the log: its own, and one of what came of it, such as a rollout that
# failed. Beside these the server may report its own work.
LINES_OF_A_CALL = 2
OTHER_LINES = 50
# A machine that others use as well makes calls late by itself: what is late is measured again. How
# late is not judged where the event loop's thread, when it was ready, had no CPU for more than this
# share of the time, and processes that are not of the attack had more than it of all CPUs.
TRIES = 3
BUSY = 0.15
# More attacks than these, late on a busy machine, and the run says too little.
MOST_UNJUDGED = 3
# A call that is still on its way when an attack ends is waited for.
SETTLES_WITHIN_SECONDS = 60.0
SERVES_AGAIN_MS = 100


@dataclass
class Made:
    """What an attack did, and what it was answered."""

    calls: int
    answers: Counter[str]


Run = Callable[[Target, float], Awaitable[Made]]


@dataclass(frozen=True)
class Attack:
    """One attack. `answers` are the only ones that a call of it may get. `sees` is how often at
    least each must have come, by how it begins: else the attack did not reach what it is for.

    `by_bytes`: it floods the wire itself, which nothing of this process can hold back, so that the
    well-behaved client's latency is shown and not judged. `refuses_others`: it uses up what all
    callers share, so that theirs may be refused as well, by RESOURCE_EXHAUSTED. `most_bytes` may be
    resident.
    """

    name: str
    run: Run
    answers: frozenset[str]
    by_bytes: bool = False
    refuses_others: bool = False
    most_bytes: int = MEMORY_BYTES
    sees: Mapping[str, int] = field(default_factory=dict)
    least_calls: int = 1


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
    measured_calls: int
    waited: float
    others: float
    by_bytes: bool
    slow: Sequence[str] = ()
    missing: Sequence[str] = ()
    problems: Sequence[str] = ()
    unjudged: bool = False

    @property
    def is_busy(self) -> bool:
        """Whether others left this machine too little CPU for its times to say anything."""
        return self.waited > BUSY and self.others > BUSY

    @property
    def late(self) -> Sequence[str]:
        """What may be due to the machine, and is measured again."""
        return [*self.slow, *self.missing]

    @property
    def p50(self) -> float:
        return quantile(self.gets, 0.5)

    @property
    def p99(self) -> float:
        return quantile(self.gets, 0.99)

    @property
    def own_lines(self) -> int:
        """Lines in the log that are not about the well-behaved client."""
        return max(sum(self.lines.values()) - self.measured_calls, 0)

    @property
    def missed(self) -> int:
        return sum(probe.code != "OK" for probe in self.probes)


def quantile(measured: Sequence[Measured], share: float) -> float:
    """The ms that this share of the calls took at most; NaN where there are none."""
    ordered = sorted(each.ms for each in measured)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")


def carry_out(target: Target, attack: Attack, seconds: float, p99_ms: float = P99_MS) -> Row:
    """Attack, wait until the server serves as before, and judge what was measured meanwhile."""
    row = _carry_out(target, attack, seconds, p99_ms)
    for _ in range(TRIES - 1):
        if not row.late or row.problems != row.late:
            break
        row = min(
            row,
            _carry_out(target, attack, seconds, p99_ms),
            key=lambda row: (len(row.late), row.p99),
        )
    return judged(row)


def judged(row: Row) -> Row:
    """Without its slowness where the machine was busy; an answer that never came is judged there as
    well."""
    if row.is_busy and row.slow:
        row.unjudged = True
        row.problems = [each for each in row.problems if each not in row.slow]
    return row


def too_many_unjudged(rows: Sequence[Row]) -> Iterator[str]:
    """Whether the run says too little."""
    if (unjudged := sum(row.unjudged for row in rows)) > MOST_UNJUDGED:
        yield f"{unjudged} attacks were late on a busy machine: at most {MOST_UNJUDGED} may be"


def own_cpu_seconds() -> float:
    """What the attack, the server, the well-behaved client and all that they started has used."""
    used = 0.0
    me = psutil.Process()
    for each in (me, *me.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            used += times.user + times.system + times.children_user + times.children_system
    return used


def _cpu_seconds() -> float:
    times = psutil.cpu_times()
    # What guests use is counted as a user's as well.
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def _carry_out(target: Target, attack: Attack, seconds: float, p99_ms: float) -> Row:
    target.forget_peak()
    log_before, began, waited = target.log_size(), time.monotonic(), target.waited_seconds()
    others = _cpu_seconds() - own_cpu_seconds()
    made = asyncio.run(attack.run(target, seconds))
    ended = time.monotonic()
    others = _cpu_seconds() - own_cpu_seconds() - others
    alive = target.process.poll() is None
    waited = target.waited_seconds() - waited if alive else 0.0
    problems = list(_await_service(target, ended))
    during = [each for each in list(target.measured) if began <= each.due <= ended]
    row = Row(
        attack.name,
        made,
        ended - began,
        [each for each in during if each.what == "get"],
        [each for each in during if each.what == "probe"],
        target.memory_bytes("VmHWM") if alive else 0,
        Counter((line["event"], line.get("level", "")) for line in target.logged(log_before)),
        sum(each.what == "get" and each.due >= began for each in list(target.measured)),
        waited / (ended - began),
        others / (ended - began) / psutil.cpu_count(),
        attack.by_bytes,
    )
    row.slow, row.missing = list(_slow(attack, row, p99_ms)), list(_missing(row))
    row.problems = [*problems, *row.late, *_problems(attack, row, target)]
    return row


def _await_service(target: Target, ended: float) -> Iterator[str]:
    """Until a second of calls and a probe that began after the attack are answered well, and memory
    is returned."""
    ends = ended + SETTLES_WITHIN_SECONDS
    while time.monotonic() < ends:
        if target.process.poll() is not None:
            break
        after = [each for each in list(target.measured) if each.due > ended]
        gets = [each for each in after if each.what == "get"][-40:]
        probes = [each for each in after if each.what == "probe"][-1:]
        well = [each.code == "OK" for each in (*gets, *probes)]
        enough = len(gets) == 40 and probes
        fast = enough and all(well) and quantile(gets, 0.9) < SERVES_AGAIN_MS
        if fast and target.memory_bytes() < LEFT_BYTES:
            return
        time.sleep(0.05)
    yield "it does not serve as before, or does not return its memory"


def _slow(attack: Attack, row: Row, p99_ms: float) -> Iterator[str]:
    if row.p99 > p99_ms and not attack.by_bytes:
        yield f"p99 of Get is {row.p99:.0f} ms"


def _missing(row: Row) -> Iterator[str]:
    if unanswered := sum(each.code == "DEADLINE_EXCEEDED" for each in row.gets):
        yield f"{unanswered} well-behaved Gets were not answered"
    in_a_row = max((len(list(g)) for ok, g in groupby(row.probes, _passed) if not ok), default=0)
    if in_a_row > 1:
        yield f"{in_a_row} liveness probes were missed in a row"


def _problems(attack: Attack, row: Row, target: Target) -> Iterator[str]:
    if target.process.poll() is not None:
        yield f"the server ended with {target.process.returncode}"
    permitted = {"OK", "DEADLINE_EXCEEDED"} | (
        {"RESOURCE_EXHAUSTED"} if attack.refuses_others else set()
    )
    if others := Counter(each.code for each in row.gets if each.code not in permitted):
        yield f"a well-behaved Get was answered {dict(others)}"
    if not row.probes:
        yield "no liveness probe was made"
    if row.peak_bytes > attack.most_bytes:
        yield f"{row.peak_bytes >> 20} MiB were resident"
    yield from too_little(attack, row.made)
    if unforeseen := row.made.answers.keys() - attack.answers:
        yield f"it was answered {sorted(unforeseen)}"
    yield from _log_problems(row)


def too_little(attack: Attack, made: Made) -> Iterator[str]:
    """Where the attack did not do what it is for."""
    if made.calls < attack.least_calls:
        yield f"it made {made.calls} calls, must be at least {attack.least_calls}"
    for begin, least in attack.sees.items():
        seen = sum(n for answer, n in made.answers.items() if answer.startswith(begin))
        if seen < least:
            yield f"it was answered {begin} {seen} times, must be at least {least}"


def _passed(probe: Measured) -> bool:
    return probe.code == "OK"


def _log_problems(row: Row) -> Iterator[str]:
    for (event, level), count in row.lines.items():
        if level not in ("debug", "info", "warning"):
            yield f"{count} times {level} in the log: {event}"
    most = LINES_OF_A_CALL * row.made.calls + OTHER_LINES
    if row.own_lines > most:
        yield f"{row.own_lines} lines in the log of {row.made.calls} calls"


def table(rows: Sequence[Row]) -> str:
    """All of it, for people."""
    head = ("attack", "calls", "answers", "p50", "p99", "probes", "MiB", "log")
    return aligned([head, *(_cells(row) for row in rows)])


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Lines of cells in columns."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
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
        f"{row.p99:.0f}{'*' if row.by_bytes else '?' if row.is_busy else ''}",
        f"{row.missed}/{len(row.probes)}",
        str(row.peak_bytes >> 20),
        str(row.own_lines),
    )


@contextmanager
def lowered_priority() -> Iterator[None]:
    """The server and its callers come first on the CPUs of this machine."""
    me, before = os.getpid(), os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, me, 19)
    try:
        yield
    finally:
        # Else a later server would be as low. Only root may raise it again.
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, me, before)
