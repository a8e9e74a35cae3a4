"""Resume tokens: bound to their watch, small, and whole or refused."""

from __future__ import annotations

import pytest

from server.control.resume_token import LastSent, ResumeToken, parse_resume_token
from server.domain.errors import ResumeTokenInvalid
from server.domain.opaque_tokens import decode_text, encode_text

LONGEST_TOKEN = 1024
SENT = LastSent("0b9e5b3e-6b8f-4b53-9d4e-2d5d0a7a8f11", 12, "0123456789abcdef", "01234567")
TOKEN = ResumeToken("0a1b2c3d", 71, "scope", SENT, "isvc=812 po=977", 1_800_000_000)


def test_a_token_is_read_as_it_was_made() -> None:
    assert parse_resume_token(TOKEN.encode("binding"), "binding") == TOKEN
    assert parse_resume_token("", "binding") is None


def test_the_longest_token_has_less_than_a_kibibyte() -> None:
    longest = TOKEN._replace(version=2**63, scope="f" * 16, position="p" * 400)
    assert len(longest.encode("f" * 16)) <= LONGEST_TOKEN


def test_a_token_of_another_watch_is_refused() -> None:
    with pytest.raises(ResumeTokenInvalid):
        parse_resume_token(TOKEN.encode("binding"), "another")


def test_a_token_that_is_damaged_anywhere_is_refused() -> None:
    text = decode_text(TOKEN.encode("binding"))
    assert text
    for place, character in enumerate(text):
        other = "2" if character == "1" else "1"
        damaged = encode_text(text[:place] + other + text[place + 1 :])
        with pytest.raises(ResumeTokenInvalid):
            parse_resume_token(damaged, "binding")
