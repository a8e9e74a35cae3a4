"""The shell that documents show: their commands, and the lines that each of them prints."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
_PROMPT = "$ "
# Timestamps differ from run to run, and nothing else does.
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_END = "end of its output"
# Their output follows the cluster, and a human types slowly.
_FOLLOWS = ("records",)
_CATCH_UP_SECONDS = 60.0


class Step(NamedTuple):
    """A command, and the lines that a document shows for it."""

    command: str
    shown: str

    @property
    def last(self) -> str:
        """The last line of what is shown."""
        return self.shown.splitlines()[-1] if self.shown else ""


def section(document: str, heading: str) -> str:
    """What stands under a heading of a document, up to the next heading."""
    _, found, rest = re.split(
        rf"^(#+ {re.escape(heading)})$", (ROOT / document).read_text(), maxsplit=1, flags=re.M
    )
    assert found
    return re.split(r"^##+ ", rest, maxsplit=1, flags=re.M)[0]


def blocks(document: str, heading: str, language: str) -> list[str]:
    """The blocks of code in this language under a heading of a document."""
    text = section(document, heading)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def transcript(document: str, heading: str) -> list[Step]:
    """The steps of all console blocks under a heading of a document."""
    found = blocks(document, heading, "console")
    assert found, f"{document} has no transcript under {heading!r}"
    return [step for block in found for step in _steps(block.splitlines())]


def played(steps: list[Step], replaced: dict[str, str], path: str, folder: Path) -> list[Step]:
    """The steps as they come out in one shell in a folder, with these texts replaced."""
    shell = Shell(path, folder)
    try:
        return [shell.play(step, replaced) for step in steps]
    finally:
        shell.close()


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


class Shell:
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

    def play(self, step: Step, replaced: dict[str, str]) -> Step:
        """Run the command of a step with these texts replaced, again where it follows the cluster
        and does not yet print what is shown; the step as it came out."""
        command = step.command
        for text, instead in replaced.items():
            command = command.replace(text, instead)
        ends = time.monotonic() + _CATCH_UP_SECONDS
        while True:
            printed = _timeless(self.run(command))
            follows = step.command in _FOLLOWS and time.monotonic() < ends
            if printed == step.shown or not follows:
                return Step(step.command, printed)
            time.sleep(0.1)

    def run(self, command: str) -> str:
        """Run a command to its end; what it prints, errors included."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\necho '{_END}'\n")
        self._process.stdin.flush()
        printed = ""
        for line in self._process.stdout:
            if line == f"{_END}\n":
                return printed
            printed += line
        raise AssertionError(f"the shell ended: {printed}")

    def close(self) -> None:
        """End the shell."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
