"""The measures run, and print what is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def printed(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"tests.measures.{module}", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_sizes_of_a_folder_are_those_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "house"
    (folder / "room").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "door.py").write_text("def _once():\n    return 1\n\n\nx = _once()\n" + "\n" * 60)
    (folder / "room" / "door.py").write_text('"""It forwards."""\n\nfrom house.door import x\n')
    lines = printed("sizes", str(folder)).splitlines()
    assert [re.sub(" {2,}", ": ", line, count=1) for line in lines] == [
        "files: 2",
        "files of 60 lines or fewer: 1",
        "lines of a file: median 34, p90 65, max 65",
        "functions: 1",
        "lines of a function: median 2, p90 2, max 2",
        "private functions used once: 1 of 1",
        "largest folder: house, 1 files",
        "file stems that stand twice: 1",
        ": door: door.py, room/door.py",
        "files that only forward: 1",
        ": room/door.py",
    ]


def test_the_sizes_of_the_server_are_printed_where_no_folder_is_named() -> None:
    assert re.search(r"(?m)^functions +\d{3,}$", printed("sizes"))


@pytest.mark.processes
def test_the_walks_are_counted_with_their_sequences_of_files() -> None:
    text = printed("walks", "--sequence")
    rows = dict(re.findall(r"(?m)^([A-Z][\w, ]*?|pod event) {2,}(\d+) ", text))
    assert rows.keys() == {"Deploy", "Deploy, READY", "pod event", "Get"}
    assert 0 < int(rows["Get"]) < int(rows["pod event"])
    assert int(rows["Get"]) < int(rows["Deploy"])
    assert "\n  adapters/kserve/cluster.py: KServeCluster.apply\n" in text
    # A Deploy parses only what the API server answers: what it plans on is parsed already.
    for what in ("parse the object", "plan the write", "render the manifest"):
        assert re.search(rf"(?m)^  {what} +1$", text), text
