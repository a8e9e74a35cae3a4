"""Tokens that callers hand back: opaque to them, checked by us."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence


def encode_token(content: Sequence[str | int]) -> str:
    """An opaque text that `decode_token` reads."""
    text = json.dumps(content, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_token(token: str) -> list[str | int] | None:
    """What was encoded; None for a text that never was a token. Booleans, which Python takes for
    numbers, are none of these."""
    try:
        content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    if not isinstance(content, list) or any(type(part) not in (str, int) for part in content):
        return None
    return content
