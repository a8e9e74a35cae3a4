"""Show text that a container wrote: its log, its termination message, the output of its probes.

The maker of the image decides what such text says. So it reaches a failure, a status message, a
condition, an error detail or a record only through an `OutputGate`; what is to be held back is
decided here and nowhere else.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus

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


# What masking may cost: each secret is looked for in each text, between other callers' calls.
MOST_SECRETS = 1000
MOST_SECRET_CHARACTERS = 128 * 1024
# A shorter text stands in much that has nothing to do with it, once it is encoded.
_SHORTEST_ENCODED = 6

WITHHELD = "(not shown: the environment has more secret values than can be masked)"


@dataclass(frozen=True, slots=True)
class OutputGate:
    """Decide what is shown of the text that the containers of one service wrote.

    `secrets`: texts to mask, the longest first. `withholds`: nothing is shown at all.
    """

    secrets: tuple[str, ...] = field(default=(), repr=False)
    withholds: bool = False

    def shown(self, written: str) -> str:
        """Return the text without control sequences, NUL (which no database keeps) and secrets.

        Text must be cut after this, never before: half a secret would not be known for one.
        """
        if self.withholds and written:
            return WITHHELD
        plain = without_controls(written).replace("\0", "\N{REPLACEMENT CHARACTER}")
        for value in self.secrets:
            plain = plain.replace(value, "***")
        return plain


def gate_for(variables: Iterable[tuple[str, str]]) -> OutputGate:
    """Return the gate that masks those values of environment variables whose names look secret, as
    they are and as programs write them: escaped by Python and JSON, in URLs, in base64.

    Where these are too many to look for, the gate shows nothing.
    """
    values = {value for name, value in variables if value and _SECRET_NAME.search(name)}
    if sum(map(len, values)) > MOST_SECRET_CHARACTERS:
        return OutputGate(withholds=True)
    lines = {line.strip() for value in values for line in value.splitlines()}
    plain = values | lines - {""}
    if len(plain) > MOST_SECRETS:
        return OutputGate(withholds=True)
    secrets = {form for value in plain for form in _forms(value)} - {""}
    if len(secrets) > MOST_SECRETS or sum(map(len, secrets)) > MOST_SECRET_CHARACTERS:
        return OutputGate(withholds=True)
    # The longest first: one value may be a part of another.
    return OutputGate(tuple(sorted(secrets, key=lambda v: (-len(v), v))))


def _forms(value: str) -> Iterator[str]:
    """The ways in which programs write a value."""
    yield value
    # As it reads once `shown` has taken out what a terminal would take for commands.
    yield without_controls(value)
    python = repr(value)[1:-1]
    yield python
    # As repr does where a text has both kinds of quotes, and as shells and C do for either.
    yield python.replace("\\'", "'").replace("'", "\\'")
    yield python.replace('"', '\\"')
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    # Base64 and URLs have bytes, which lone surrogates are none.
    encoded = value.encode(errors="replace")
    yield quote(encoded)
    yield quote(encoded, safe="")
    yield quote_plus(encoded)
    if len(encoded) >= _SHORTEST_ENCODED:
        yield from _in_base64(encoded)


def _in_base64(value: bytes) -> Iterator[str]:
    """What any base64 of a text with the value in it has, wherever the value begins."""
    for before in range(3):
        # The first and last characters depend on what stands around the value.
        first = (before * 8 + 5) // 6
        whole = (before + len(value)) * 8 // 6
        padded = b"\0" * before + value
        yield b64encode(padded)[first:whole].decode()
        yield urlsafe_b64encode(padded)[first:whole].decode()
