"""Text of servers and containers cannot act on a terminal or a CI system."""

from __future__ import annotations

import io
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelservice_client.cli.screen import Screen
from modelservice_client.cli.text import LONGEST_LINE, log_line, one_line


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;a title\x07shown", "shown"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jcleared", "cleared"),
        ("\x1b(B\x1bcreset", "reset"),
        ("50%\r100%", "50% 100%"),
        ("two\nlines\ttab", "two lines tab"),
        ("bell\x07 null\x00", "bell\\x07 null\\x00"),
        ("abc\u202egnp.exe", "abc\\u202egnp.exe"),
        ("##[error]x", "## [error]x"),
        ("[bold]markup[/bold]", "[bold]markup[/bold]"),
        ("grün 日本 🙂", "grün 日本 🙂"),
        ("an unfinished sequence \x1b]0;", "an unfinished sequence"),
    ],
)
def test_sequences_and_controls_are_not_printed_as_such(text: str, printed: str) -> None:
    assert one_line(text) == printed


@given(st.text())
def test_no_text_prints_a_control_character(text: str) -> None:
    for line in (one_line(text), log_line(text)):
        assert not [c for c in line if unicodedata.category(c) in ("Cc", "Cf", "Cs")]


def test_a_line_has_a_bound() -> None:
    assert len(one_line("x" * 10_000_000)) == LONGEST_LINE


def test_a_log_line_keeps_its_indentation() -> None:
    assert log_line('  File "model.py"') == '  File "model.py"'
    assert log_line("\tat Main.java") == "    at Main.java"


def test_an_output_that_cannot_express_a_character_gets_its_escape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    screen = Screen()
    screen.show("grün")
    screen.result("日本")
    assert output.getvalue() == b"gr\\xfcn\n\\u65e5\\u672c\n"
