"""Show text that a container wrote: its log, its termination message, the output of its probes.

Whoever makes the image decides what such text says. So it reaches a failure, a status message, a
condition, an error detail or a record only through an `OutputGate`; what is to be held back is
decided here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_SECRET_NAME = re.compile("KEY|TOKEN|PASSWORD|SECRET", re.IGNORECASE)
# Of terminals: what they take for commands, and characters that show as nothing.
_CONTROLS = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x01-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]"
)


def without_controls(text: str) -> str:
    """Return the text without what a terminal would take for commands."""
    return _CONTROLS.sub("", text)


@dataclass(frozen=True, slots=True)
class OutputGate:
    """Decide what is shown of the text that the containers of one service wrote.

    `secrets`: values to mask, the longest first.
    """

    secrets: tuple[str, ...] = field(default=(), repr=False)

    def shown(self, written: str) -> str:
        """Return the text without control sequences, NUL (which no database keeps) and secrets.

        Text must be cut after this, never before: half a secret would not be known for one.
        """
        plain = without_controls(written).replace("\0", "\N{REPLACEMENT CHARACTER}")
        for value in self.secrets:
            plain = plain.replace(value, "***")
        return plain


def gate_for(variables: Iterable[tuple[str, str]]) -> OutputGate:
    """Return the gate that masks those values of environment variables whose names look secret."""
    values = {value for name, value in variables if value and _SECRET_NAME.search(name)}
    lines = {line.strip() for value in values for line in value.splitlines()}
    # The longest first: one value may be a part of another.
    return OutputGate(tuple(sorted(values | lines - {""}, key=lambda v: (-len(v), v))))
