"""Opaque tokens: texts that callers hand back unchanged, as unpadded base64 for URLs."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence

# No token that a server makes is longer; callers may send anything.
LONGEST_TOKEN = 1024
_NUMBERS = range(-(2**63), 2**63)


def encode_text(text: str) -> str:
    """Encode a text."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_text(token: str) -> str | None:
    """Decode an encoded text; None if the token is not one, or longer than LONGEST_TOKEN."""
    if len(token) > LONGEST_TOKEN:
        return None
    try:
        return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
    except (binascii.Error, ValueError):
        return None


def encode_token(parts: Sequence[str | int]) -> str:
    """Encode texts and numbers, as JSON."""
    return encode_text(json.dumps(parts, separators=(",", ":")))


def decode_token(token: str) -> list[str | int] | None:
    """Decode texts and numbers; None if the token is not a list of them.

    A boolean, which Python takes for a number, is neither. Numbers have 64 bits, and texts can be
    encoded as UTF-8.
    """
    try:
        parts = json.loads(decode_text(token) or "")
    except (ValueError, RecursionError):
        return None
    return parts if isinstance(parts, list) and all(map(_is_part, parts)) else None


def _is_part(part: object) -> bool:
    if isinstance(part, str):
        # JSON can escape a half of a surrogate pair.
        return not any("\ud800" <= character <= "\udfff" for character in part)
    return type(part) is int and part in _NUMBERS
