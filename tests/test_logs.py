"""A line of the log is one JSON object in printable ASCII, of whatever it is made."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from server import logs


@pytest.mark.parametrize(
    ("value", "logged"),
    [
        ("plain", "plain"),
        ("a\nb\x1b[31m\0\x7f", "a\nb\x1b[31m\0\x7f"),
        ("Zürich \u202e\U0001f680", "Zürich \u202e\U0001f680"),
        ("\ud800", "\ud800"),
        ('"\\/', '"\\/'),
        (2**70, 2**70),
        (0.1, 0.1),
        (None, None),
        (["a", 1], ["a", 1]),
        (Path("/etc"), "/etc"),
        (datetime(2030, 1, 1, tzinfo=UTC), "2030-01-01 00:00:00+00:00"),
    ],
)
def test_a_line_is_json_in_printable_ascii(value: Any, logged: Any) -> None:
    line = logs.encode_line({"event": "call", "value": value})
    assert json.loads(line) == {"event": "call", "value": logged}
    assert line.isascii()
    assert line.isprintable()
