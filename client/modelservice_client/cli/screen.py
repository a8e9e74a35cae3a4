"""Where modelctl prints: results on standard output, everything else on standard error."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TextIO

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from modelservice_client.cli.text import log_line, one_line

# In a pipe or a file no line is cut or wrapped.
_UNLIMITED = 100_000


class Screen:
    """Prints for a person at a terminal, a pipe, or the log of a CI job."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, TextIOWrapper):
            # As standard error does: some encodings cannot express every text of a server.
            sys.stdout.reconfigure(errors="backslashreplace")
        self.out = _console(sys.stdout)
        self.err = _console(sys.stderr)
        self.github = os.environ.get("GITHUB_ACTIONS") == "true"
        self.gitlab = bool(os.environ.get("GITLAB_CI"))
        # Whether lines that were printed can be drawn again.
        self.live = _is_terminal(sys.stderr) and not (self.github or self.gitlab)

    def result(self, text: str) -> None:
        """Print text for programs, exactly as it is."""
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()

    def show(self, renderable: RenderableType) -> None:
        """Print a result for people."""
        _print(self.out, renderable)

    def note(self, renderable: RenderableType) -> None:
        """Print on standard error."""
        _print(self.err, renderable)

    def error(self, text: str, title: str = "", details: Iterable[str] = ()) -> None:
        """Print an error, on GitHub as an annotation with its details."""
        if self.github:
            lines = "%0A".join(_escaped(one_line(line)) for line in [text, *details])
            name = _escaped(one_line(title or "modelctl")).replace(":", "%3A").replace(",", "%2C")
            self.err.file.write(f"::error title={name}::{lines}\n")
            self.err.file.flush()
            return
        self.note(hanging(Text("error:", "bold red"), Text(one_line(text))))

    @contextmanager
    def section(self, title: str) -> Iterator[None]:
        """Fold what is printed meanwhile, in the log of a CI job that can."""
        title = one_line(title)
        name = f"modelctl_{time.monotonic_ns()}"
        if self.github:
            self._command(f"::group::{_escaped(title)}")
        elif self.gitlab:
            self._command(f"\x1b[0Ksection_start:{int(time.time())}:{name}\r\x1b[0K{title}")
        try:
            yield
        finally:
            if self.github:
                self._command("::endgroup::")
            elif self.gitlab:
                self._command(f"\x1b[0Ksection_end:{int(time.time())}:{name}\r\x1b[0K")

    def log(self, lines: Iterable[str], console: Console | None = None) -> None:
        """Print lines of a container's log. None of them can begin a command of a CI system."""
        for line in lines:
            _print(console or self.err, hanging(Text("  |", "dim"), Text(log_line(line))))

    def hints(self, lines: Iterable[str]) -> None:
        """Print what can be done next. Commands are neither cut nor wrapped, to be copied."""
        for line in lines:
            self.err.print(Text(log_line(line)), soft_wrap=True)

    def _command(self, line: str) -> None:
        self.err.file.write(line + "\n")
        self.err.file.flush()


def facts(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Lay out names and values; empty values are left out."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        if value:
            shown = value if isinstance(value, Text) else Text(one_line(value))
            grid.add_row(Text(log_line(name)), shown)
    return grid


def listing(
    columns: Iterable[str], rows: Iterable[Iterable[str | Text]], console: Console
) -> Table:
    """Lay out a list, a line for each row. On a terminal the last column is cut where it must."""
    names = list(columns)
    fits = console.width < _UNLIMITED
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", expand=fits)
    for i, name in enumerate(names):
        last = fits and i == len(names) - 1
        table.add_column(name, no_wrap=True, overflow="ellipsis", ratio=1 if last else None)
    for row in rows:
        table.add_row(*(c if isinstance(c, Text) else Text(one_line(c)) for c in row))
    return table


def hanging(first: Text, second: Text, gap: int = 1) -> Table:
    """Lay out two texts beside each other; the second keeps its margin where it is folded."""
    grid = Table.grid(padding=(0, gap, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(first, second)
    return grid


def _print(console: Console, renderable: RenderableType) -> None:
    """Print without the blanks that fill a line up; a text as one line."""
    if isinstance(renderable, str):
        renderable = Text(one_line(renderable))
    if console.width < _UNLIMITED:
        console.print(renderable)
        return
    with console.capture() as captured:
        console.print(renderable)
    console.file.write("\n".join(line.rstrip() for line in captured.get().split("\n")))
    console.file.flush()


def _console(stream: TextIO) -> Console:
    width = None if _is_terminal(stream) else _UNLIMITED
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _escaped(text: str) -> str:
    """Escape the data of a workflow command of GitHub."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
