"""Quantities have one canonical text, and keep their value in it."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.kubernetes.quantities import canonical, value
from tests import strategies


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("1000m", "1"),
        ("0.5", "500m"),
        ("1024Mi", "1Gi"),
        ("1.5Gi", "1536Mi"),
        ("2000", "2k"),
        ("1.50", "1500m"),
        ("+5", "5"),
        ("007", "7"),
        (".5", "500m"),
        ("5.", "5"),
        ("-1500m", "-1500m"),
        ("0Mi", "0"),
        ("0", "0"),
        ("1E", "1E"),
        ("7Ei", "7Ei"),
    ],
)
def test_a_quantity_is_written_as_kubernetes_writes_it(given_text: str, expected: str) -> None:
    assert canonical(given_text) == expected


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [("12e6", "12e6"), ("1500E3", "1500e3"), ("5e0", "5"), ("12000e3", "12e6"), ("1e-6", "1e-6")],
)
def test_an_exponent_stays_an_exponent(given_text: str, expected: str) -> None:
    assert canonical(given_text) == expected


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [("0.5Ki", "512"), ("1.0001Ki", "1024102400u"), ("0.1Ki", "102400m")],
)
def test_a_binary_suffix_goes_where_it_would_lose_precision(given_text: str, expected: str) -> None:
    assert canonical(given_text) == expected


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [("0.1n", "1n"), ("1.5n", "2n"), ("-1.5n", "-2n"), ("1e-12", "1e-9")],
)
def test_more_precision_than_a_billionth_is_rounded_up(given_text: str, expected: str) -> None:
    assert canonical(given_text) == expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "1 ", "1gi", "1KI", "Gi", ".", "+", "1.2.3", "1e", "1e1.5", "ten", "0x10", "1_000",
     "٣", "8Ei", "1e19", "1000E", "1e9999", "1" * 65, "nan", "inf"],
)  # fmt: skip
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quantity"):
        canonical(text)
    with pytest.raises(ValueError, match="quantity"):
        value(text)


@given(strategies.quantities)
def test_the_canonical_text_is_its_own_and_has_the_same_value(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)
    assert value(canonical(text)) == value(text)


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_whole_numbers_keep_every_digit(number: int) -> None:
    assert value(canonical(str(number))) == number


@given(strategies.quantities, strategies.quantities)
def test_equal_values_of_one_family_have_one_text(one: str, other: str) -> None:
    plain = canonical(f"{value(one):f}")
    assert (plain == canonical(f"{value(other):f}")) == (value(one) == value(other))


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    try:
        canonical(text)
    except ValueError:
        with pytest.raises(ValueError, match="quantity"):
            value(text)
    else:
        assert isinstance(value(text), Decimal)
