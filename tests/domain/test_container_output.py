"""What is shown of text that a container wrote."""

from __future__ import annotations

import json
from base64 import b64encode
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.registry.storable_text import storable_text
from server.domain.rollout.container_output import (
    MOST_KEPT_CHARACTERS,
    WITHHELD,
    OutputGate,
    OutputGates,
    gate_for,
)
from tests.cpu_time import cpu_time

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


def test_a_secret_with_control_characters_is_masked() -> None:
    gate = gate_for([("API_KEY", "open\x07\x1b[1m sesame"), ("BEL_TOKEN", "\x07")])
    assert gate.shown("with open\x07\x1b[1m sesame") == "with ***"


SECRETS = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), codec="utf-8"), min_size=8, max_size=40
).filter(lambda s: s == s.strip() and len(s.encode()) >= 8)


@given(SECRETS, st.sampled_from(["", "a", "ab", "user:"]))
def test_a_secret_is_masked_however_a_program_writes_it(secret: str, before: str) -> None:
    gate = gate_for([("DB_PASSWORD", secret)])
    written = [
        f"KeyError: {secret!r}",
        f'KeyError: "{repr(secret)[1:-1]}"',
        json.dumps({"password": secret}),
        json.dumps({"password": secret}, ensure_ascii=False),
        f"postgresql://u:{quote(secret)}@host",
        f"postgresql://u:{quote(secret, safe='')}@host",
        f"password={quote_plus(secret)}&x=1",
    ]
    for text in written:
        shown = gate.shown(text)
        assert "***" in shown
        for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1]):
            assert form not in shown.replace("***", "")


@given(st.binary(min_size=8, max_size=40), st.binary(max_size=5), st.binary(max_size=5))
def test_so_is_one_in_base64_wherever_it_begins(secret: bytes, before: bytes, after: bytes) -> None:
    value = secret.hex()
    encoded = b64encode(before + value.encode() + after).decode()
    shown = OPEN.shown(f"Authorization: Basic {encoded}")
    assert encoded in shown
    masked = gate_for([("API_TOKEN", value)]).shown(f"Authorization: Basic {encoded}")
    assert "***" in masked
    # All but what the bytes beside it have a part in.
    assert len(masked) <= len("Authorization: Basic ***") + 4 * (len(before) + len(after)) + 8


def test_masking_is_quick_or_nothing_is_shown() -> None:
    text = "x" * 99 + "\n"
    log = text * 16_000
    for variables in (
        [(f"SECRET_{n}", "s3cr3t\n" * 17_000) for n in range(4)],
        [(f"SECRET_{n}", f"value-{n}-" + "v" * 120_000) for n in range(4)],
        [(f"SECRET_{n}", f"value-{n}") for n in range(1000)],
        [("SECRET", "\n".join(f"line-{n}" for n in range(10_000)))],
    ):
        with cpu_time() as taken:
            shown = gate_for(variables).shown(log)
        assert taken.seconds < 1
        assert "s3cr3t" not in shown
    assert gate_for([("SECRET", "ab\n" * 100_000)]).shown("boom") == WITHHELD


@given(st.text())
def test_no_control_character_is_shown_but_those_of_lines(written: str) -> None:
    shown = OPEN.shown(written)
    assert not [c for c in shown if (c < " " or "\x7f" <= c <= "\x9f") and c not in "\t\n\r"]


def test_a_gate_is_built_once_for_the_secrets_that_it_masks() -> None:
    gates = OutputGates()
    variables = [("API_KEY", "open sesame"), ("PATH", "/bin")]
    built = gates.masking(variables)
    assert built == gate_for(variables)
    assert gates.masking([("TOKEN", "open sesame")]) is built
    gates.clear()
    assert gates.masking(variables) is not built


def test_what_is_kept_of_gates_is_bounded() -> None:
    gates = OutputGates()
    first = gates.masking([("API_KEY", "first " * 100)])
    for n in range(200):
        gates.masking([("API_KEY", f"{n} " * 3000)])
    size = sum(len(s) for gate in gates._kept.values() for s in gate.secrets)
    assert size <= MOST_KEPT_CHARACTERS
    assert gates.masking([("API_KEY", "first " * 100)]) is not first
