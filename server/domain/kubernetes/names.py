"""Kubernetes' rules for names and labels.

Each `..._problem` returns None for a valid text, else what it must be and what was given. Only
ASCII is valid, so that no two names look the same; other characters are shown escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from json.encoder import encode_basestring_ascii
from typing import NamedTuple

from server.domain.errors import FieldViolation

_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(rf"{_DNS_LABEL.pattern}(\.{_DNS_LABEL.pattern})*")
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_WORD = re.compile(r"[!-~]+")

_QUALIFIED_RULE = (
    "must have letters, digits, '-', '_' and '.' only, and begin and end with a letter or digit"
)


def name_problem(text: str, longest: int) -> str | None:
    """Check the name of a service or of a similar resource, by KServe's rule."""
    if not text:
        return "must be set"
    if len(text) > longest:
        return f"must have at most {longest} characters, got {len(text)}"
    if not _NAME.fullmatch(text):
        return (
            "must have lower-case letters, digits and '-' only, begin with a letter and end with a"
            f" letter or digit, got {escaped(text)}"
        )
    return None


def qualified_name_problem(text: str) -> str | None:
    """Check a label's or annotation's key: a name, or a DNS domain, a slash and a name."""
    prefix, slash, name = text.rpartition("/")
    if slash and (problem := dns_subdomain_problem(prefix)):
        return f"the part before the slash {problem}"
    if not 1 <= len(name) <= 63:
        return f"the name must have 1 to 63 characters, got {len(name)}"
    return None if _QUALIFIED.fullmatch(name) else f"{_QUALIFIED_RULE}, got {escaped(name)}"


def label_value_problem(text: str) -> str | None:
    """Check a label's value, which may be empty."""
    if len(text) > 63:
        return f"must have at most 63 characters, got {len(text)}"
    if text and not _QUALIFIED.fullmatch(text):
        return f"{_QUALIFIED_RULE}, got {escaped(text)}"
    return None


def dns_label_problem(text: str) -> str | None:
    """Check a namespace's name."""
    if not 1 <= len(text) <= 63:
        return f"must have 1 to 63 characters, got {len(text)}"
    if not _DNS_LABEL.fullmatch(text):
        return (
            "must have lower-case letters, digits and '-' only, and begin and end with a letter or"
            f" digit, got {escaped(text)}"
        )
    return None


def dns_subdomain_problem(text: str) -> str | None:
    """Check the name of most Kubernetes objects."""
    if not 1 <= len(text) <= 253:
        return f"must have 1 to 253 characters, got {len(text)}"
    if not _DNS_SUBDOMAIN.fullmatch(text):
        return (
            "must have lower-case letters, digits, '-' and '.' only, and begin and end with a"
            f" letter or digit, as must each part between dots, got {escaped(text)}"
        )
    return None


def variable_name_problem(text: str) -> str | None:
    """Check an environment variable's name, by the rule of every Kubernetes release."""
    if not _VARIABLE.fullmatch(text) or text == "." or text.startswith(".."):
        return (
            "an environment variable's name must have letters, digits, '_', '-' and '.' only, and"
            f" begin neither with a digit nor with '..', got {escaped(text)}"
        )
    return None


def data_key_problem(text: str) -> str | None:
    """Check a key in a Secret's data."""
    if not 1 <= len(text) <= 253:
        return f"must have 1 to 253 characters, got {len(text)}"
    if not _DATA_KEY.fullmatch(text) or text == "." or text.startswith(".."):
        return (
            "must have letters, digits, '-', '_' and '.' only, and not begin with '..', got"
            f" {escaped(text)}"
        )
    return None


def word_problem(text: str, longest: int) -> str | None:
    """Check a name with rules of its own, such as an image's or a model format's."""
    if not text:
        return "must be set"
    if len(text) > longest:
        return f"must have at most {longest} characters, got {len(text)}"
    if not _WORD.fullmatch(text):
        return f"must have visible ASCII characters only and no spaces, got {escaped(text)}"
    return None


class Count(NamedTuple):
    """Hold the number of entries of the list or map at `path`, and the most that it may have.

    `unit`: the words after the number, if needed.
    """

    path: str
    number: int
    most: int
    unit: str = ""


def count_violations(counts: Iterable[Count]) -> Iterator[FieldViolation]:
    """Find the lists and maps that have too many entries."""
    for path, number, most, unit in counts:
        if number > most:
            yield FieldViolation(path, f"must have at most {most}{unit}, got {number}")


def violation_at(path: str, problem: str | None) -> Iterator[FieldViolation]:
    """Yield the problem, if there is one, as a violation of the field at `path`."""
    if problem:
        yield FieldViolation(path, problem)


def field_path(path: str, key: str) -> str:
    """Return the path of a map's entry, `spec.env["A=B"]`; keys are cut at 80 characters."""
    shown = key if len(key) <= 80 else f"{key[:80]}..."
    # json.dumps takes five times as long, and a spec has hundreds of entries.
    return f"{path}[{encode_basestring_ascii(shown)}]"


def escaped(text: str) -> str:
    """Quote a text for a message: in ASCII, cut at 64 characters."""
    return ascii(text) if len(text) <= 64 else f"{text[:64]!a}..."


def size(text: str) -> int:
    """Return the size in bytes, in UTF-8."""
    return len(text.encode("utf-8", "surrogatepass"))
