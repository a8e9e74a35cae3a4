"""The progress of a rollout: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import time
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType

from modelservice.v1.inference_service_pb2 import Failure, InferenceService, InferenceServiceStatus
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from modelservice_client.cli.screen import Screen, hanging
from modelservice_client.cli.text import one_line
from modelservice_client.core.enum_names import enum_name

# A message that only counts on is printed again after this time, so that a log shows life.
_REPEAT_SECONDS = 30.0
STYLES = {
    "READY": "bold green",
    "DEGRADED": "bold yellow",
    "FAILED": "bold red",
    "STOPPED": "yellow",
    "PENDING": "cyan",
    "PROGRESSING": "cyan",
    "DELETING": "magenta",
}
_UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_AMOUNTS = re.compile(r"([\d.]{1,9}) (\w{0,2})B of ([\d.]{1,9}) (\w{0,2})B\b")


def state_of(service: InferenceService) -> str:
    """Return the name of the state, without its prefix."""
    return enum_name(InferenceServiceStatus.State, service.status.state, "STATE_")


def state_text(service: InferenceService) -> Text:
    """Return the state in its colour."""
    word = state_of(service)
    return Text(word, STYLES.get(word, ""))


def reason_of(failure: Failure) -> str:
    """Return the name of a failure's reason, without its prefix."""
    return enum_name(Failure.Reason, failure.reason, "REASON_")


def replicas_of(service: InferenceService) -> str:
    """Return the ready and the wanted replicas of the predictor, as 1/2; empty until known."""
    components = service.status.components
    if not components:
        return ""
    return f"{components[0].ready_replicas}/{components[0].desired_replicas}"


class Progress(AbstractContextManager["Progress"]):
    """Shows what becomes of one service, from when it is entered until it is left."""

    def __init__(self, screen: Screen, title: str) -> None:
        self._screen = screen
        self._title = title
        self._began = time.monotonic()
        self._printed: tuple[str, str] = ("", "")
        self._printed_at = 0.0
        self._line = _LiveLine(self._began)
        self._live: Live | None = None
        self._troubled_at = -_REPEAT_SECONDS
        self._exits = ExitStack()

    def __enter__(self) -> Progress:
        self._exits.enter_context(self._screen.section(self._title))
        if self._screen.live:
            self._live = Live(
                self._line,
                console=self._screen.err,
                transient=True,
                refresh_per_second=8,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._exits.enter_context(self._live)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exits.close()

    @property
    def seconds(self) -> float:
        """The time since the beginning."""
        return time.monotonic() - self._began

    def service(self, service: InferenceService) -> None:
        """Show a status. A line is printed for each state, and each kind of message in it."""
        state, message = state_of(service), one_line(service.status.message)
        if state in ("FAILED", "DEGRADED"):
            # The message stands in the report that follows.
            message = reason_of(service.status.failure)
        self._line.service, self._line.message = service, message
        self._troubled_at = -_REPEAT_SECONDS
        if self._live:
            self._live.refresh()
        kind = (state, re.sub(r"\d[\d.]*( \w{0,2}B)?", "0", message))
        due = message and time.monotonic() > self._printed_at + _REPEAT_SECONDS
        if kind != self._printed or (due and not self._screen.live):
            self._printed, self._printed_at = kind, time.monotonic()
            self._print(Text(f"{state:<11}", STYLES.get(state, "")), message)

    def event(self, word: str, message: str = "", style: str = "") -> None:
        """Show something that is no status."""
        self._troubled_at = -_REPEAT_SECONDS
        self._print(Text(f"{word:<11}" if message else word, style), one_line(message))

    def trouble(self, message: str) -> None:
        """Show that a call is made again; while it goes on so, only now and then."""
        if time.monotonic() >= self._troubled_at + _REPEAT_SECONDS:
            self._troubled_at = time.monotonic()
            self._print(Text(f"{'RETRYING':<11}", "yellow"), one_line(message))

    def _print(self, word: Text, message: str) -> None:
        first = Text.assemble((f"{self.seconds:6.1f} s  ", "dim"), word)
        self._screen.note(hanging(first, Text(message), gap=2) if message else first)


class _LiveLine:
    """The line that is drawn again and again: state, replicas, time, download, message."""

    def __init__(self, began: float) -> None:
        self.service = InferenceService()
        self.message = "waiting for the server"
        self._began = began
        self._spinner = Spinner("dots")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        seconds = int(time.monotonic() - self._began)
        known = self.service.HasField("status")
        replicas = replicas_of(self.service)
        cells = [
            self._spinner.render(time.monotonic()),
            state_text(self.service) if known else Text("DEPLOYING", "cyan"),
            Text(f"{replicas} ready" if replicas else ""),
            Text(f"{seconds // 60}:{seconds % 60:02}", "dim"),
        ]
        if part := _part_of(self.message):
            cells.append(ProgressBar(total=1.0, completed=part, width=16))
        # A terminal shows Ctrl-C as ^C: at the end of a full line that would be on the next one.
        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        grid.width = max(options.max_width - 4, 20)
        for _ in cells:
            grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        grid.add_row(*cells, Text(self.message))
        yield grid


def _part_of(message: str) -> float | None:
    """Return how much of a download is done, of a message that says so."""
    found = _AMOUNTS.search(message)
    if not found:
        return None
    done, unit, total, whole = found.groups()
    try:
        size = float(total) * _UNITS[whole]
        return min(float(done) * _UNITS[unit] / size, 1.0) if size else None
    except (KeyError, ValueError):
        return None
