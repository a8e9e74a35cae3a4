"""The texts of Warning headers, within bounds."""

from __future__ import annotations

import pytest

from server.adapters.kserve.warning_headers import LONGEST_WARNING, MOST_WARNINGS, warning_texts


@pytest.mark.parametrize(
    ("headers", "texts"),
    [
        ([], []),
        (['299 - "unknown field \\"spec.foo\\""'], ['unknown field "spec.foo"']),
        (['299 - "one"', '299 - "two"', '299 - "one"'], ["one", "two"]),
        (['299 - "one", 299 agent "two, \\\\ three" "Sun, 29 Nov"'], ["one", "two, \\ three"]),
        (['299 - "a\x1b[31m red"'], ["a [31m red"]),
        (['214 - "transformed"', "299 -", '299 - "not closed', ""], []),
    ],
)
def test_each_text_is_found_once_and_is_printable(headers: list[str], texts: list[str]) -> None:
    assert list(warning_texts(headers)) == texts


def test_texts_are_few_and_short() -> None:
    many = [f'299 - "{number} {"x" * 2 * LONGEST_WARNING}"' for number in range(10_000)]
    texts = list(warning_texts(many))
    assert len(texts) == MOST_WARNINGS
    assert max(map(len, texts)) == LONGEST_WARNING
