"""Resume tokens: bound to their watch, small, and whole or refused."""

from __future__ import annotations

import pytest

from server.control.resume_token import (
    BEGIN_ANEW,
    MOST_SPANS,
    LastSent,
    ResumeToken,
    Seen,
    parse_resume_token,
)
from server.domain.errors import ResumeTokenInvalid
from server.domain.opaque_tokens import LONGEST_TOKEN, decode_text, encode_text

SENT = LastSent("0b9e5b3e-6b8f-4b53-9d4e-2d5d0a7a8f11", 12, "0123456789abcdef", "01234567")
TOKEN = ResumeToken("0a1b2c3d", Seen(71), "scope", SENT, "isvc=812 po=977", 1_800_000_000)


def test_a_token_is_read_as_it_was_made() -> None:
    assert parse_resume_token(TOKEN.encode("binding"), "binding") == TOKEN
    assert parse_resume_token("", "binding") is None


def test_the_longest_tokens_are_read_as_they_were_made() -> None:
    largest = 2**63 - 1
    sent = SENT._replace(generation=largest)
    of_one = TOKEN._replace(
        seen=Seen(largest), scope="f" * 16, last_sent=sent, position="p" * 400, made_at=largest
    )
    spans = tuple((largest, largest) for _ in range(MOST_SPANS))
    of_many = ResumeToken("0a1b2c3d", Seen(largest, spans), scope="f" * 16)
    for token in (of_one, of_many):
        assert len(token.encode("f" * 16)) <= LONGEST_TOKEN
        assert parse_resume_token(token.encode("f" * 16), "f" * 16) == token


def test_a_stream_with_a_longer_token_would_begin_anew() -> None:
    longer = TOKEN._replace(position="p" * LONGEST_TOKEN).encode("binding")
    assert len(longer) <= LONGEST_TOKEN
    assert parse_resume_token(longer, "binding") == BEGIN_ANEW


def test_a_reader_that_is_cut_again_and_again_has_seen_each_birth_at_its_own_version() -> None:
    once = Seen(10).moved(8, 20)
    twice = once.moved(4, 30)
    assert [twice.at(born) for born in (4, 5, 8, 9)] == [30, 20, 20, 10]
    assert twice.moved(8, 40) == Seen(10, ((8, 40),))


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
