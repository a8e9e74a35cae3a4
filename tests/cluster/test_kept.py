"""Builds that nothing uses make room; one that a lab runs on stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lab.kept import hold, remove_others

HOLDS = """import sys; from pathlib import Path; from lab.kept import hold
hold(Path(sys.argv[1])); print("held", flush=True); sys.stdin.read()"""


def test_what_another_run_holds_stays_until_that_ends(tmp_path: Path) -> None:
    for name in ("new", "in-use", "of-nobody"):
        (tmp_path / name).mkdir()
    new = hold(tmp_path / "new")
    command = [sys.executable, "-c", HOLDS, tmp_path / "in-use"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as run:
        assert run.stdout is not None
        run.stdout.readline()
        remove_others(new, print)
        assert folders(tmp_path) == {"new", "in-use"}
        run.communicate()
    remove_others(new, print)
    assert folders(tmp_path) == {"new"}


def folders(room: Path) -> set[str]:
    return {path.name for path in room.iterdir() if path.is_dir()}
