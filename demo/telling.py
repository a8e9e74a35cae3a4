"""What the demo says: in colour on a terminal, in plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from modelservice.v1 import inference_service_pb2 as service
from rich.console import Console
from rich.text import Text

from demo import ROOT

_COLOURS = {"READY": "bold green", "DEGRADED": "bold yellow", "FAILED": "bold red"}


class Screen:
    """Where the demo tells its story."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._began = time.monotonic()

    @contextmanager
    def step(self, title: str, call: str = "") -> Iterator[None]:
        """A part of the story, that something goes on in until it ends."""
        self._say(Text.assemble((f"\n{title}", "bold"), (f"  {call}" if call else "", "cyan")))
        self._began = time.monotonic()
        with self._console.status("") if self._console.is_terminal else nullcontext():
            yield

    def note(self, text: str, style: str = "") -> None:
        """A line of a step."""
        self._say(Text.assemble("  ", (text, style)))

    def state(self, seen: service.InferenceService) -> None:
        """A status, with the seconds since the step began; what is final needs no more words."""
        word = state_word(seen.status)
        seconds = f"{time.monotonic() - self._began:5.1f} s  "
        message = "" if word in _COLOURS else f"  {seen.status.message}"
        colour = _COLOURS.get(word, "blue")
        self._say(Text.assemble((f"  {seconds}", "dim"), (word, colour), message))

    def failure(self, failure: service.Failure) -> None:
        """Why a rollout failed, as the API tells it."""
        reason = service.Failure.Reason.Name(failure.reason).removeprefix("REASON_")
        rows = [("reason", reason), ("message", failure.message), ("remedy", failure.remedy)]
        if failure.HasField("exit_code"):
            rows.append(("exit code", str(failure.exit_code)))
        for name, text in rows:
            self._say(Text.assemble((f"  {name:<10}", "dim"), text))
        for line in _traceback(failure.log_lines):
            self._say(Text.assemble("  | ", (line.replace(f"{ROOT}/", ""), "dim")))

    def _say(self, text: Text) -> None:
        # Not wrapped: a line stays a line, for whoever reads it through a pipe.
        self._console.print(text, soft_wrap=True)


def state_word(status: service.InferenceServiceStatus) -> str:
    """A state's name without its prefix."""
    return service.InferenceServiceStatus.State.Name(status.state).removeprefix("STATE_")


def _traceback(log: Sequence[str]) -> Sequence[str]:
    """The last exception in a log, which is longer."""
    begin = max((n for n, line in enumerate(log) if line.startswith("Traceback")), default=0)
    end = next((n for n in range(begin + 1, len(log)) if not log[n].startswith(" ")), len(log))
    return log[begin : end + 1]
