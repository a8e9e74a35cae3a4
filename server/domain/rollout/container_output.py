"""Mask or hold back text of a container: its log, its termination message, its probes' output.

The image decides the content of such text. So it reaches a failure, a status message, a condition,
an error detail or a record only through an `OutputGate`. Whether it is held back is decided by
`server.domain.caller.Caller.may_read_output`, and nowhere else.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from urllib.parse import quote, quote_plus

_SECRET_NAME = re.compile("KEY|TOKEN|PASSWORD|SECRET", re.IGNORECASE)
# Control sequences of terminals, and invisible characters.
_CONTROLS = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x01-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]"
)


def without_controls(text: str) -> str:
    """Return the text without control sequences of terminals."""
    return _CONTROLS.sub("", text)


# Bounds of the work: masking searches each text for each secret, on the event loop.
MOST_SECRETS = 1000
MOST_SECRET_CHARACTERS = 128 * 1024
# The encoding of a shorter text occurs in much unrelated text.
_SHORTEST_ENCODED = 6

WITHHELD = "(not shown: the environment has more secret values than can be masked)"
# The size of the cache of gates, in characters of secrets.
MOST_KEPT_CHARACTERS = 8 * MOST_SECRET_CHARACTERS


@dataclass(frozen=True, slots=True)
class OutputGate:
    """Decide how text of a container, or text about it, is shown.

    `secrets`: texts to mask, the longest first. `withholds`: there are too many secrets to mask, so
    nothing is shown. `held_back`: the replacement for text of the container; empty: it is shown.
    """

    secrets: tuple[str, ...] = field(default=(), repr=False)
    withholds: bool = False
    held_back: str = ""

    def shown(self, written: str) -> str:
        """Return text of the container in the form to show: masked, or the reason for holding it
        back."""
        return self.held_back if self.held_back and written else self.masked(written)

    def masked(self, text: str) -> str:
        """Return the text without control sequences, NUL (which no database keeps) and secrets.

        Text of the platform about a container needs nothing else. Text must be cut after this,
        never before: half a secret would not be recognized.
        """
        if self.withholds and text:
            return WITHHELD
        plain = without_controls(text).replace("\0", "\N{REPLACEMENT CHARACTER}")
        for value in self.secrets:
            plain = plain.replace(value, "***")
        return plain

    def holding_back(self, holding: str) -> OutputGate:
        """Return a gate that holds back text of the container, with `holding` as the reason."""
        sentence = (
            f"(not shown: {holding}; see kubectl logs, or have MODELSERVICE_SHOW_CONTAINER_TEXT"
            " name the namespace)"
        )
        return replace(self, held_back=sentence)


class OutputGates:
    """Build each gate once for its secrets, and cache the gates that were used last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[frozenset[str], OutputGate] = OrderedDict()
        self._characters = 0

    def masking(self, variables: Iterable[tuple[str, str]]) -> OutputGate:
        """Return the gate of `gate_for`, from the cache if it is there."""
        values = _secret_values(variables)
        if not values:
            return _OPEN
        if values in self._kept:
            self._kept.move_to_end(values)
            return self._kept[values]
        gate = self._kept[values] = _gate(values)
        self._characters += _size(values, gate)
        while self._characters > MOST_KEPT_CHARACTERS:
            self._characters -= _size(*self._kept.popitem(last=False))
        return gate

    def clear(self) -> None:
        """Empty the cache: secrets of deleted services must not stay in memory."""
        self._kept.clear()
        self._characters = 0


def gate_for(variables: Iterable[tuple[str, str]]) -> OutputGate:
    """Return a gate that masks the values of environment variables with secret names, also in the
    forms in which programs write them: escaped by Python and JSON, in URLs, in base64.

    If there are too many to search for, the gate shows nothing.
    """
    return _gate(_secret_values(variables))


def _secret_values(variables: Iterable[tuple[str, str]]) -> frozenset[str]:
    return frozenset(value for name, value in variables if value and _SECRET_NAME.search(name))


def _size(values: frozenset[str], gate: OutputGate) -> int:
    return sum(map(len, values)) + sum(map(len, gate.secrets))


def _gate(values: frozenset[str]) -> OutputGate:
    if sum(map(len, values)) > MOST_SECRET_CHARACTERS:
        return OutputGate(withholds=True)
    lines = {line.strip() for value in values for line in value.splitlines()}
    plain = values | lines - {""}
    if len(plain) > MOST_SECRETS:
        return OutputGate(withholds=True)
    secrets = {form for value in plain for form in _forms(value)} - {""}
    if len(secrets) > MOST_SECRETS or sum(map(len, secrets)) > MOST_SECRET_CHARACTERS:
        return OutputGate(withholds=True)
    # The longest first, since one value can be part of another.
    return OutputGate(tuple(sorted(secrets, key=lambda v: (-len(v), v))))


_OPEN = OutputGate()


def _forms(value: str) -> Iterator[str]:
    """Yield the forms in which programs write a value."""
    yield value
    # As after the removal of control sequences in `masked`.
    yield without_controls(value)
    python = repr(value)[1:-1]
    yield python
    # As repr writes a text with both kinds of quotes, and shells and C with either.
    yield python.replace("\\'", "'").replace("'", "\\'")
    yield python.replace('"', '\\"')
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    # Base64 and URLs encode bytes, and lone surrogates have none.
    encoded = value.encode(errors="replace")
    yield quote(encoded)
    yield quote(encoded, safe="")
    yield quote_plus(encoded)
    if len(encoded) >= _SHORTEST_ENCODED:
        yield from _in_base64(encoded)


def _in_base64(value: bytes) -> Iterator[str]:
    """Yield what the base64 of any text that contains the value has in it, at each alignment."""
    for before in range(3):
        # The first and last characters depend on the text around the value.
        first = (before * 8 + 5) // 6
        whole = (before + len(value)) * 8 // 6
        padded = b"\0" * before + value
        yield b64encode(padded)[first:whole].decode()
        yield urlsafe_b64encode(padded)[first:whole].decode()
