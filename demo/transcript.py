"""Transcripts of a shell in the README: what is typed, and what is shown for it."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from demo import ROOT

_PROMPT = "$ "
# Timestamps differ from run to run, and nothing else does.
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_END = "end of what it says"
# What these read follows the cluster, and a human types slowly.
_FOLLOWS = ("records",)
_CATCH_UP_SECONDS = 60.0


class Step(NamedTuple):
    """A command, and the lines that the README shows for it."""

    command: str
    shown: str


def transcript(heading: str) -> list[Step]:
    """The steps of all console blocks under a heading of the README."""
    section = (ROOT / "README.md").read_text().partition(f"\n## {heading}\n")[2]
    blocks = re.findall(r"```console\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    assert blocks, f"the README has no transcript under {heading!r}"
    return [step for block in blocks for step in _steps(block.splitlines())]


def played(steps: list[Step], replaced: dict[str, str], path: str, folder: Path) -> list[Step]:
    """The steps as they come out in one shell in a folder, with these texts replaced."""
    shell = _Shell(path, folder)
    try:
        return [_played(shell, step, replaced) for step in steps]
    finally:
        shell.close()


def _played(shell: _Shell, step: Step, replaced: dict[str, str]) -> Step:
    command = step.command
    for text, instead in replaced.items():
        command = command.replace(text, instead)
    ends = time.monotonic() + _CATCH_UP_SECONDS
    while True:
        said = _timeless(shell.run(command))
        if said == step.shown or step.command not in _FOLLOWS or time.monotonic() > ends:
            return Step(step.command, said)
        time.sleep(0.1)


def _steps(lines: list[str]) -> Iterator[Step]:
    command, shown = "", ""
    for line in lines:
        if line.startswith(_PROMPT) and _whole(command):
            if command:
                yield Step(command, _timeless(shown))
            command, shown = line.removeprefix(_PROMPT), ""
        elif not _whole(command):
            command += f"\n{line}"
        elif line:
            shown += f"{line}\n"
    yield Step(command, _timeless(shown))


def _whole(command: str) -> bool:
    """Whether a shell would not ask for more."""
    syntax = subprocess.run(["bash", "-n", "-c", command], capture_output=True, check=False)
    return syntax.returncode == 0 and not command.endswith("\\")


def _timeless(text: str) -> str:
    """Without times."""
    return _TIME.sub("<time>", text)


class _Shell:
    """One bash, whose functions and variables stay from command to command."""

    def __init__(self, path: str, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={"PATH": path},
        )

    def run(self, command: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\necho '{_END}'\n")
        self._process.stdin.flush()
        said = ""
        for line in self._process.stdout:
            if line == f"{_END}\n":
                return said
            said += line
        raise AssertionError(f"the shell ended: {said}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
