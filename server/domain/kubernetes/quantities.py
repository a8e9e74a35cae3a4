"""Kubernetes quantities: one canonical text for each value, and the value to compare by.

The grammar and the rounding are those of Kubernetes' resource.Quantity. Kubernetes returns a
canonical text unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))"
    r"(?P<suffix>[KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,3}|)"
)
_LONGEST = 64
_LARGEST = 2**63 - 1
_NANO = 10**9
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_DECIMAL_SUFFIX = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


def canonical(text: str) -> str:
    """Return the text that Kubernetes writes: `1000m` is `1`, `0.5` is `500m`, `1024Mi` is `1Gi`.

    The family of its suffix is kept if that loses no precision. Raises ValueError.
    """
    nano, suffix = _parsed(text)
    if suffix in _BINARY and abs(nano) >= 1024 * _NANO and nano % (1024 * _NANO) == 0:
        return _binary(nano // _NANO)
    mantissa, exponent = _normalised(nano)
    if suffix[:1] in ("e", "E") and len(suffix) > 1:
        return f"{mantissa}e{exponent}" if exponent else str(mantissa)
    return f"{mantissa}{_DECIMAL_SUFFIX[exponent]}"


def quantities(texts: Mapping[str, object]) -> dict[str, str]:
    """Return the texts that are quantities, in canonical form."""
    found: dict[str, str] = {}
    for name, text in texts.items():
        with suppress(ValueError):
            found[name] = canonical(str(text))
    return found


def value(text: str) -> Decimal:
    """Return the number, rounded up to whole billionths like Kubernetes. Raises ValueError."""
    nano, _ = _parsed(text)
    return Decimal(nano).scaleb(-9)


# The same few texts occur in every service.
@lru_cache(maxsize=4096)
def _parsed(text: str) -> tuple[int, str]:
    """Return the value in billionths, and the suffix."""
    match = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError("must be a Kubernetes quantity, such as 500m, 2 or 4Gi")
    suffix = match["suffix"]
    exact = Fraction(_digits(match["number"])) * _factor(suffix)
    if abs(exact) > _LARGEST:
        raise ValueError("must be at most 2^63-1, as every Kubernetes quantity")
    rounded = -(-abs(exact) * _NANO // 1)
    return int(rounded if exact >= 0 else -rounded), suffix


def _digits(number: str) -> str:
    """Write the number for Fraction: digits on both sides of the point."""
    sign = number[0] if number[0] in "+-" else ""
    whole, _, part = number[len(sign) :].partition(".")
    return f"{sign}{whole or 0}.{part or 0}"


def _factor(suffix: str) -> Fraction:
    if suffix in _BINARY:
        return Fraction(1024 ** _BINARY[suffix])
    exponent = _DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:])
    return Fraction(10) ** exponent


def _normalised(nano: int) -> tuple[int, int]:
    """Return a whole mantissa with the largest exponent that is a multiple of 3."""
    if nano == 0:
        return 0, 0
    exponent = -9
    while nano % 1000 == 0:
        nano, exponent = nano // 1000, exponent + 3
    return nano, exponent


def _binary(whole: int) -> str:
    power = 0
    while whole % 1024 == 0:
        whole, power = whole // 1024, power + 1
    return f"{whole}{next(s for s, p in _BINARY.items() if p == power)}"
