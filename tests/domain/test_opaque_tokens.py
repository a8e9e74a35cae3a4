"""Tokens of earlier releases are still read: their bytes do not change."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.opaque_tokens import (
    LONGEST_TOKEN,
    decode_text,
    decode_token,
    encode_text,
    encode_token,
)
from server.domain.rollout.rollout_id import Rollout

# As servers gave them out before 0.2.
RECORDED = [
    (["5f1d2c3b4a596877", 1764368512345600], "WyI1ZjFkMmMzYjRhNTk2ODc3IiwxNzY0MzY4NTEyMzQ1NjAwXQ"),
    (["0a1b2c3d", 42, "5f1d2c3b"], "WyIwYTFiMmMzZCIsNDIsIjVmMWQyYzNiIl0"),
    (["model-serving", "é"], "WyJtb2RlbC1zZXJ2aW5nIiwiXHUwMGU5Il0"),
]
ROLLOUT = Rollout("0f8fad5b-d9cb-469f-a165-70867728950e", 3)
ROLLOUT_ID = "MGY4ZmFkNWItZDljYi00NjlmLWExNjUtNzA4Njc3Mjg5NTBlLzM"


@pytest.mark.parametrize(("parts", "token"), RECORDED)
def test_a_recorded_token_is_read_and_written_as_it_was(parts: list[str | int], token: str) -> None:
    assert encode_token(parts) == token
    assert decode_token(token) == parts


def test_a_recorded_rollout_id_is_read_and_written_as_it_was() -> None:
    assert ROLLOUT.id == ROLLOUT_ID
    assert Rollout.parse(ROLLOUT_ID) == ROLLOUT


@given(st.lists(st.text(max_size=10) | st.integers(-(2**63), 2**63 - 1), max_size=5))
def test_every_token_is_decoded_to_its_parts(parts: list[str | int]) -> None:
    assert decode_token(encode_token(parts)) == parts


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=LONGEST_TOKEN // 6))
def test_every_text_is_decoded_as_it_was(text: str) -> None:
    assert decode_text(encode_text(text)) == text


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_no_other_text_breaks_the_decoder(token: str) -> None:
    parts = decode_token(token)
    assert parts is None or all(type(part) in (str, int) for part in parts)


@pytest.mark.parametrize(
    "content", ["{}", "[true]", "[1.5]", "[[]]", "null", "[" * (LONGEST_TOKEN // 4 * 3)]
)
def test_json_of_anything_else_is_no_token(content: str) -> None:
    assert decode_token(encode_text(content)) is None


@pytest.mark.parametrize("part", [2**63, -(2**63) - 1, 10**400, "\ud800", "a" * LONGEST_TOKEN])
def test_a_part_that_no_server_writes_is_in_no_token(part: str | int) -> None:
    assert decode_token(encode_token([part])) is None
