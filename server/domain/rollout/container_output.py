"""Show text that a container wrote: its log, its termination message, the output of its probes.

The maker of the image decides what such text says. So it reaches a failure, a status message, a
condition, an error detail or a record only through an `OutputGate`; what is to be held back is
decided by `server.domain.caller.Caller.may_read_output`, and nowhere else.
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
# The secrets of the gates that are kept, in characters.
MOST_KEPT_CHARACTERS = 8 * MOST_SECRET_CHARACTERS


@dataclass(frozen=True, slots=True)
class OutputGate:
    """Decide what is shown of the text that a container wrote, or that others say of it.

    `secrets`: texts to mask, the longest first. `withholds`: they are too many, so that nothing is
    shown at all. `held_back`: what stands in place of what the container wrote; empty where that is
    shown.
    """

    secrets: tuple[str, ...] = field(default=(), repr=False)
    withholds: bool = False
    held_back: str = ""

    def shown(self, written: str) -> str:
        """Return what a container wrote as it may be shown: masked, or why it is held back."""
        return self.held_back if self.held_back and written else self.masked(written)

    def masked(self, text: str) -> str:
        """Return the text without control sequences, NUL (which no database keeps) and secrets.

        Of what the platform says of a container nothing else is taken. Text must be cut after this,
        never before: half a secret would not be known for one.
        """
        if self.withholds and text:
            return WITHHELD
        plain = without_controls(text).replace("\0", "\N{REPLACEMENT CHARACTER}")
        for value in self.secrets:
            plain = plain.replace(value, "***")
        return plain

    def holding_back(self, holding: str) -> OutputGate:
        """Return the gate that shows nothing of what a container wrote, for what it holds."""
        sentence = (
            f"(not shown: {holding}; see kubectl logs, or have MODELSERVICE_SHOW_CONTAINER_TEXT"
            " name the namespace)"
        )
        return replace(self, held_back=sentence)


class OutputGates:
    """Build each gate once for the secrets that it masks; those used last are kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[frozenset[str], OutputGate] = OrderedDict()
        self._characters = 0

    def masking(self, variables: Iterable[tuple[str, str]]) -> OutputGate:
        """Return what `gate_for` does."""
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
        """Keep none: the secrets of what is gone must not stay."""
        self._kept.clear()
        self._characters = 0


def gate_for(variables: Iterable[tuple[str, str]]) -> OutputGate:
    """Return the gate that masks those values of environment variables whose names look secret, as
    they are and as programs write them: escaped by Python and JSON, in URLs, in base64.

    Where these are too many to look for, the gate shows nothing.
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
    # The longest first: one value may be a part of another.
    return OutputGate(tuple(sorted(secrets, key=lambda v: (-len(v), v))))


_OPEN = OutputGate()


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
