"""Opaque tokens: texts that callers hand back unchanged, as unpadded base64 for URLs."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence


def encode_text(text: str) -> str:
    """Encode a text."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_text(token: str) -> str | None:
    """Decode an encoded text; None if the token is not one."""
    try:
        return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    except (binascii.Error, ValueError):
        return None


def encode_token(parts: Sequence[str | int]) -> str:
    """Encode texts and numbers, as JSON."""
    return encode_text(json.dumps(parts, separators=(",", ":")))


def decode_token(token: str) -> list[str | int] | None:
    """Decode texts and numbers; None if the token is not a list of them.

    A boolean, which Python takes for a number, is neither.
    """
    try:
        parts = json.loads(decode_text(token) or "")
    except (ValueError, RecursionError):
        return None
    if not isinstance(parts, list) or any(type(part) not in (str, int) for part in parts):
        return None
    return parts
