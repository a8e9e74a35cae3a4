"""Label selectors in Kubernetes' syntax: `team=vision,tier in (a,b),!canary,cores>4`."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from server.domain.kubernetes.names import (
    escaped,
    label_value_problem,
    qualified_name_problem,
)

_LONGEST = 4096
# A selector is matched against every service that a list or a watch covers.
MOST_REQUIREMENTS = 50
_LARGEST = 2**63 - 1
_TOKEN = re.compile(r"[ \t\r\n]*(==|!=|[=!(),<>]|[^=!(),<> \t\r\n]+)")
_OPERATORS = {"=": "in", "==": "in", "!=": "notin", "in": "in", "notin": "notin"}
_SYMBOLS = frozenset("=!(),<>")


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """One condition. `operator` is in, notin, exists, !, > or <; `values` are sorted."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Report whether labels meet the condition; an absent label meets `notin` and `!` only."""
        label = labels.get(self.key)
        match self.operator:
            case "in":
                return label is not None and self._lists(label)
            case "notin":
                return label is None or not self._lists(label)
            case "exists":
                return label is not None
            case "!":
                return label is None
        return label is not None and _compare(label, self.operator, self.values[0])

    def _lists(self, label: str) -> bool:
        place = bisect_left(self.values, label)
        return place < len(self.values) and self.values[place] == label

    def __str__(self) -> str:
        match self.operator:
            case "exists":
                return self.key
            case "!":
                return f"!{self.key}"
            case "in" | "notin" if len(self.values) > 1:
                return f"{self.key} {self.operator} ({','.join(self.values)})"
        sign = {"in": "=", "notin": "!="}.get(self.operator, self.operator)
        return f"{self.key}{sign}{self.values[0]}"


@dataclass(frozen=True, slots=True)
class Selector:
    """Conditions that must all hold; an empty selector matches everything and is false.

    `str` returns the same text for the same conditions in any spelling.
    """

    requirements: tuple[Requirement, ...] = ()

    @classmethod
    # Most calls have none, and thousands of streams the same one.
    @lru_cache(maxsize=64)
    def parse(cls, text: str) -> Selector:
        """Parse a selector. Raises ValueError with a message for its author."""
        if len(text) > _LONGEST:
            raise ValueError(f"must have at most {_LONGEST} characters, got {len(text)}")
        requirements = tuple(sorted(set(_Parser(text).requirements())))
        if (count := len(requirements)) > MOST_REQUIREMENTS:
            raise ValueError(f"must have at most {MOST_REQUIREMENTS} requirements, got {count}")
        return cls(requirements)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Report whether every condition holds."""
        return all(r.matches(labels) for r in self.requirements)

    def __bool__(self) -> bool:
        return bool(self.requirements)

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements))


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = [*_TOKEN.findall(text.rstrip(" \t\r\n")), ""]
        self._at = 0

    def requirements(self) -> Iterator[Requirement]:
        if self._peek() == "":
            return
        yield self._requirement()
        while self._take(",", ""):
            yield self._requirement()

    def _requirement(self) -> Requirement:
        if self._peek() == "!":
            self._next()
            return Requirement(self._key(), "!")
        key = self._key()
        if self._peek() in (",", ""):
            return Requirement(key, "exists")
        return self._compared(key, self._next())

    def _compared(self, key: str, sign: str) -> Requirement:
        if sign in (">", "<"):
            return Requirement(key, sign, (self._number(),))
        if sign not in _OPERATORS:
            raise _unexpected(sign, "=, ==, !=, in, notin, > or <")
        values = self._listed() if sign in ("in", "notin") else [self._value()]
        return Requirement(key, _OPERATORS[sign], tuple(sorted(set(values))))

    def _key(self) -> str:
        key = self._next()
        if key == "" or key in _SYMBOLS:
            raise _unexpected(key, "a label's key")
        if problem := qualified_name_problem(key):
            raise ValueError(f"the key {escaped(key)}: {problem}")
        return key

    def _value(self) -> str:
        """Parse one value, which may be empty: `a=` is a label with an empty value."""
        if self._peek() in (",", ")", ""):
            return ""
        value = self._next()
        if problem := label_value_problem(value):
            raise ValueError(f"the value {escaped(value)}: {problem}")
        return value

    def _number(self) -> str:
        value = self._value()
        if not _is_number(value):
            raise ValueError(f"the value for > and < must be a whole number, got {escaped(value)}")
        return str(int(value))

    def _listed(self) -> list[str]:
        self._expect("(")
        values = [self._value()]
        while self._take(",", ")"):
            values.append(self._value())
        return values

    def _expect(self, token: str) -> None:
        found = self._next()
        if found != token:
            raise _unexpected(found, f"{token!a}")

    def _take(self, more: str, end: str) -> bool:
        """Consume a separator, and report whether another item follows."""
        found = self._next()
        if found not in (more, end):
            raise _unexpected(found, f"{more!r} or {repr(end) if end else 'the end'}")
        return found == more

    def _peek(self) -> str:
        return str(self._tokens[self._at])

    def _next(self) -> str:
        token = self._peek()
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token


def _unexpected(found: str, wanted: str) -> ValueError:
    got = escaped(found) if found else "the end"
    return ValueError(f"must have {wanted} where it has {got}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 63 and int(text) <= _LARGEST


def _compare(label: str, sign: str, bound: str) -> bool:
    if not _is_number(label):
        return False
    return int(label) > int(bound) if sign == ">" else int(label) < int(bound)
