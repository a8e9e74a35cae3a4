"""Objects that the schema of a custom resource admits, with the extremes of each type."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_TIMES = (
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "2026-01-01T00:00:00.123456789Z",
    "2026-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
)
_TEXTS = ("", "a", "kserve-container", "true", "x" * 3000, "ü\u202e\x1b]0;x\x07", "-1", "1e3")
_TEXTS += ("2026-01-01", "2026-01-01T00:00:00", *_TIMES)
_WHOLE = (0, 1, -1, 100)
_INT_OR_STRING = (0, -1, 2**63 - 1, "1", "1e3", "500m", "9" * 40, "5Ki", "1e-400")
# Of the fields that may be left out; deeper ones less often, so that an object ends.
_GIVEN = 0.35


def any_object(schema: Schema, rng: random.Random) -> Any:
    """A value that fits the schema."""
    return _value(schema, rng, 0)


def _value(schema: Schema, rng: random.Random, depth: int) -> Any:
    if schema.get("x-kubernetes-int-or-string"):
        return rng.choice(_INT_OR_STRING)
    if "enum" in schema:
        return rng.choice(schema["enum"])
    match schema.get("type"):
        case "object":
            return _object(schema, rng, depth)
        case "array":
            count = max(rng.choice((0, 1, 1, 2)), schema.get("minItems", 0))
            return [_value(schema["items"], rng, depth + 1) for _ in range(count)]
        case "string":
            return rng.choice(_TIMES if schema.get("format") == "date-time" else _TEXTS)
        case "integer":
            return _integer(schema, rng)
        case "number":
            return rng.choice((0, 0.5, -1e300, 1e300))
        case "boolean":
            return rng.choice((True, False))
    return rng.choice(({}, {"a": [1, None, "x"]}))  # what the schema leaves open


def _object(schema: Schema, rng: random.Random, depth: int) -> dict[str, Any]:
    made = {}
    for name, inner in schema.get("properties", {}).items():
        if name in schema.get("required", ()) or rng.random() < _GIVEN / (1 + depth):
            made[name] = _value(inner, rng, depth + 1)
    if isinstance(inner := schema.get("additionalProperties"), Mapping):
        for name in rng.sample(_TEXTS, rng.choice((0, 1, 2))):
            made[name] = _value(inner, rng, depth + 1)
    return made


def _integer(schema: Schema, rng: random.Random) -> int:
    bits = 31 if schema.get("format") == "int32" else 63
    low, high = schema.get("minimum", -(2**bits)), schema.get("maximum", 2**bits - 1)
    extremes = (*_WHOLE, 10**12, low, high)
    return int(rng.choice([n for n in extremes if low <= n <= min(high, 2**bits - 1)]))
