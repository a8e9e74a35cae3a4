"""What of an attack is a problem."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace

import psutil

from .__main__ import ATTACKS
from .attack import (
    BUSY,
    MOST_UNJUDGED,
    Made,
    Row,
    judged,
    own_cpu_seconds,
    too_little,
    too_many_unjudged,
)

BURNT_SECONDS = 0.5
ROW = Row("any", Made(1, Counter()), 1.0, (), (), 0, Counter(), 0, 0.0, 0.0, by_bytes=False)


def _late(waited: float, others: float) -> Row:
    slow, missing = ["slow"], ["missing"]
    problems = [*slow, *missing, "other"]
    return replace(ROW, waited=waited, others=others, slow=slow, missing=missing, problems=problems)


def test_where_others_have_the_cpus_only_slowness_is_not_judged() -> None:
    row = judged(_late(2 * BUSY, 2 * BUSY))
    assert (row.problems, row.unjudged) == (["missing", "other"], True)


def test_where_the_server_itself_has_the_cpus_its_slowness_is_judged() -> None:
    row = judged(_late(2 * BUSY, 0.0))
    assert (row.problems, row.unjudged) == (["slow", "missing", "other"], False)


def test_a_run_of_which_too_many_attacks_are_not_judged_fails() -> None:
    rows = [judged(_late(2 * BUSY, 2 * BUSY)) for _ in range(MOST_UNJUDGED)]
    assert not list(too_many_unjudged(rows))
    assert list(too_many_unjudged([*rows, rows[0]]))


def test_what_a_child_of_a_child_uses_is_the_attacks_own() -> None:
    burn = "import time\nwhile time.process_time() < 1000: pass"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    before = own_cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", child]) as process:
        try:
            while own_cpu_seconds() - before < BURNT_SECONDS:
                assert process.poll() is None
        finally:
            for each in psutil.Process(process.pid).children():
                each.kill()


def test_each_attack_that_meets_a_server_that_answers_nothing_fails() -> None:
    nothing = Made(0, Counter())
    assert all(list(too_little(attack, nothing)) for attack in ATTACKS)


def test_an_attack_that_was_refused_only_for_broken_frames_fails() -> None:
    for attack in ATTACKS:
        for broken in (f"{how} {code}" for how in ("RST", "GOAWAY") for code in (1, 6, 9)):
            made = Made(10**6, Counter({broken: 10**6}))
            assert list(too_little(attack, made)) or broken not in attack.answers, attack.name


def test_an_attack_that_is_not_refused_over_a_limit_fails() -> None:
    (watches,) = [attack for attack in ATTACKS if attack.name == "13,000 watches"]
    assert not list(too_little(watches, Made(13_000, Counter(open=12_000, answered=1000))))
    assert list(too_little(watches, Made(13_000, Counter(open=13_000))))
    assert list(too_little(watches, Made(13_000, Counter(answered=13_000))))
