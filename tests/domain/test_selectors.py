"""Label selectors mean what they mean to Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.kubernetes.selectors import Requirement, Selector
from tests import strategies

VISION = {"team": "vision", "tier": "a", "cores": "8", "empty": ""}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "team=vision",
        "team==vision",
        "team = vision",
        "team!=speech",
        "absent!=x",
        "team in (vision,speech)",
        "team in(vision)",
        "tier notin (b,c)",
        "absent notin (b)",
        "team",
        "!absent",
        "! absent",
        "empty=",
        "empty in ()",
        "empty in (x,)",
        "empty",
        "cores>7",
        "cores<9",
        "team=vision,tier in (a, b),!canary,cores>4",
        "absent!=",
    ],
)
def test_it_covers_labels_that_fit_every_condition(text: str) -> None:
    assert Selector.parse(text).matches(VISION)


@pytest.mark.parametrize(
    "text",
    [
        "team=speech",
        "team!=vision",
        "team=",
        "team in (speech)",
        "team notin (vision,speech)",
        "absent",
        "!team",
        "absent=vision",
        "absent in (a)",
        "cores>8",
        "cores<8",
        "team>1",
        "absent<5",
        "team=vision,tier=b",
        "empty!=",
    ],
)
def test_it_leaves_out_labels_that_break_a_condition(text: str) -> None:
    assert not Selector.parse(text).matches(VISION)


def test_the_words_in_and_notin_can_be_keys_and_values() -> None:
    selector = Selector.parse("in in (notin),notin=in")
    assert selector.matches({"in": "notin", "notin": "in"})
    assert not selector.matches({"in": "notin"})


@pytest.mark.parametrize(
    "text",
    [
        ",",
        "team=vision,",
        ",team",
        "team=vision tier=a",
        "team in vision",
        "team in (a",
        "team in (a b)",
        "team in (a))",
        "team ==== x",
        "!team=vision",
        "!!team",
        "!",
        "=vision",
        "team=vi/sion",
        "te am",
        "-team",
        "/team",
        "a/b/c=x",
        "UPPER.example/x in (-)",
        "cores>many",
        "cores>",
        "cores>1.5",
        "cores<99999999999999999999",
        "team~vision",
        "team=vision;tier=a",
        "k" * 64,
        "team=" + "v" * 64,
        "a=b," * 2000 + "a=b",
    ],
)
def test_a_wrong_selector_is_refused_with_a_message(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Selector.parse(text)


def test_the_message_says_what_must_be_and_what_was_found() -> None:
    with pytest.raises(ValueError, match=r"^must have ',' or '\)' where it has 'b'$"):
        Selector.parse("team in (a b)")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a=1,b", "b , a==1"),
        ("a in (2,1)", "a in (1,2,1)"),
        ("a in (1)", "a=1"),
        ("a notin (1)", "a!=1"),
        ("a>07", "a>7"),
    ],
)
def test_the_same_conditions_have_the_same_text(one: str, other: str) -> None:
    assert str(Selector.parse(one)) == str(Selector.parse(other))


def test_only_the_selector_without_conditions_is_false() -> None:
    assert not Selector.parse(" ")
    assert Selector.parse("!a")


_requirements = st.one_of(
    st.builds(
        lambda key, operator, values: Requirement(key, operator, tuple(sorted(values))),
        strategies.label_keys,
        st.sampled_from(["in", "notin"]),
        st.sets(strategies.label_values, min_size=1, max_size=3),
    ),
    st.builds(Requirement, strategies.label_keys, st.sampled_from(["exists", "!"])),
    st.builds(
        Requirement,
        strategies.label_keys,
        st.sampled_from([">", "<"]),
        st.tuples(st.integers(0, 2**63 - 1).map(str)),
    ),
)
_selectors = st.sets(_requirements, max_size=5).map(lambda found: Selector(tuple(sorted(found))))


@given(_selectors)
def test_the_canonical_text_reads_back_as_the_same_selector(selector: Selector) -> None:
    assert Selector.parse(str(selector)) == selector


@given(strategies.labels, strategies.label_keys, strategies.label_values)
def test_each_condition_and_its_contrary_divide_all_labels(
    labels: Mapping[str, str], key: str, value: str
) -> None:
    for one, other in [(key, f"!{key}"), (f"{key}={value}", f"{key}!={value}")]:
        assert Selector.parse(one).matches(labels) != Selector.parse(other).matches(labels)


@given(st.text(), strategies.labels)
def test_no_text_breaks_it(text: str, labels: Mapping[str, str]) -> None:
    try:
        selector = Selector.parse(text)
    except ValueError:
        return
    selector.matches(labels)
    assert Selector.parse(str(selector)) == selector


def test_it_has_at_most_50_requirements() -> None:
    fifty = ",".join(f"l{i}" for i in range(50))
    assert Selector.parse(fifty).requirements
    with pytest.raises(ValueError, match="must have at most 50 requirements, got 51"):
        Selector.parse(fifty + ",!x")
