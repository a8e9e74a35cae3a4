"""What is shown of text that a container wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.container_output import OutputGate, gate_for
from server.domain.storable import storable_text

OPEN = OutputGate()


def test_a_line_is_shown_as_a_record_of_it_is_stored() -> None:
    shown = OPEN.shown("ValueError: bad magic \0\0 in the file")
    assert storable_text(shown) == shown


@pytest.mark.parametrize(
    "written",
    [
        "\x1b[31mError\x1b[0m",
        "\x1b[38;2;255;0;0mError",
        "\x1b]0;a title\x07Error",
        "\x1b]8;;http://example.com\x1b\\Error\x1b]8;;\x1b\\",
        "\x1bPq#0\x1b\\Error",
        "\x1b(BError\x1b",
        "Er\x08\x7fror",
        "\x9bError",
    ],
)
def test_what_a_terminal_takes_for_a_command_is_left_out(written: str) -> None:
    assert OPEN.shown(written) == "Error"


def test_lines_and_tabs_stay() -> None:
    assert OPEN.shown("a\tb\r\nc\n") == "a\tb\r\nc\n"


def test_a_secret_is_masked_also_where_colours_or_lines_divide_it() -> None:
    gate = gate_for([("API_KEY", "open sesame\nclose sesame")])
    assert gate.shown("with open \x1b[1msesame\x1b[0m") == "with ***"
    assert gate.shown("got close sesame") == "got ***"
    assert "sesame" not in repr(gate)


@given(st.text())
def test_no_control_character_is_shown_but_those_of_lines(written: str) -> None:
    shown = OPEN.shown(written)
    assert not [c for c in shown if (c < " " or "\x7f" <= c <= "\x9f") and c not in "\t\n\r"]
