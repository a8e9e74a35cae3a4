"""Text of servers and containers, made safe to print."""

from __future__ import annotations

import re
import unicodedata

LONGEST_LINE = 4096

# Controls, formatting characters, and halves of surrogate pairs, which no output can encode.
_UNSAFE = ("Cc", "Cf", "Cs")

# CSI (colours, cursor); OSC and other strings (titles, links) to their end; two-byte escapes.
_SEQUENCES = re.compile(
    r"""
    (?:\x1b\[|\x9b) [0-?]* [ -/]* [@-~]
    | (?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f]) [^\x07\x1b\x9c]* (?:\x07|\x1b\\|\x9c|$)
    | \x1b [ -/]* [0-~]
    """,
    re.VERBOSE,
)


def one_line(text: str) -> str:
    """Return the text as one line that no terminal and no CI system acts on.

    Escape sequences are removed, line breaks and tabs become spaces, other control and formatting
    characters (such as those that reverse the direction of writing) are shown as escapes. `##[`,
    which GitHub reads as a command anywhere in a line, gets a space. At most LONGEST_LINE
    characters are returned.
    """
    text = _SEQUENCES.sub("", text[: 4 * LONGEST_LINE])
    text = re.sub(r"[\t\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+", " ", text).strip()
    text = "".join(c if unicodedata.category(c) not in _UNSAFE else _escape(c) for c in text)
    text = text.replace("##[", "## [")
    return text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE - 1] + "…"


def log_line(text: str) -> str:
    """Return a line of a log as `one_line` does, with its indentation kept."""
    line = one_line(text)
    stripped = _SEQUENCES.sub("", text[: 4 * LONGEST_LINE]).expandtabs(4)
    return " " * min(len(stripped) - len(stripped.lstrip(" ")), 40) + line


def _escape(character: str) -> str:
    return ascii(character)[1:-1]
