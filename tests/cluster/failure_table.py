"""The table of failures, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from .asking import Reason, State
from .failures import Trial, faults

COLUMNS = (
    "case",
    "told as",
    "cluster knew, s",
    "reason told, s",
    "at rest, s",
    "of these by design",
    "KServe's status gave a cause, s",
    "container",
    "exit code",
    "restarts",
    "log line",
    "message",
)
MOST_OF_A_CELL = 160


def table(trials: Sequence[Trial], lasted: float) -> str:
    """For people; `lasted` is the run's length in seconds."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(_row(trial, lasted) for trial in trials)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _row(trial: Trial, lasted: float) -> tuple[str, ...]:
    case, failure, moments = trial.case, trial.failure, trial.moments()
    limit = f" ({case.limit})" if case.limit else ""
    state = State.Name(trial.last.status.state).removeprefix("STATE_")
    reason = Reason.Name(trial.last.status.failure.reason).removeprefix("REASON_")
    wrong = "".join(f" **{fault}**" for fault in faults(trial))
    by_kserve = _seconds(moments.by_kserve, f"never in {lasted:.0f} s")
    return (
        f"{case.what}{limit}",
        f"{state} {reason if case.reason else ''}{wrong}".strip(),
        _seconds(moments.shown),
        _seconds(moments.named if case.reason else None),
        _seconds(moments.rested),
        f"{case.wait:.0f}" if case.wait else "",
        f"{by_kserve} {trial.kserves_cause()}".strip(),
        failure.container,
        str(failure.exit_code) if failure.HasField("exit_code") else "",
        str(failure.restart_count) if failure.container else "",
        _cell(trial.log_line),
        _cell(failure.message),
    )


def _seconds(moment: float | None, never: str = "") -> str:
    return never if moment is None else f"{moment:.1f}"


def _cell(text: str) -> str:
    shown = " ".join(text.replace("|", "\\|").split())
    return shown if len(shown) <= MOST_OF_A_CELL else f"{shown[:MOST_OF_A_CELL]}..."
