"""The name that a service gets where none is given."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import FieldInvalid
from server.domain.registry.resolution import derived_name
from server.domain.service.commands import Deploy
from server.domain.service.inference_service import ServiceKey
from server.domain.service.validation import check_deploy
from tests.domain.samples import MODEL

names = st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
namespaces = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?", fullmatch=True)


def test_it_is_the_model_and_the_environment() -> None:
    assert derived_name("fraud", "staging", "staging") == "fraud-staging"


def test_one_that_is_too_long_is_cut_and_ends_with_a_hash_of_the_whole() -> None:
    name = derived_name("fraud-" * 8 + "x", "staging", "staging")
    assert name == "fraud-fraud-fraud-fraud-fraud-fraud-1bc9f423"


def test_what_is_cut_away_tells_them_apart() -> None:
    one, other = (derived_name("fraud" * 12, environment, "n") for environment in ("a", "b"))
    assert one != other


@given(names, names, namespaces)
def test_it_is_one_that_the_door_lets_through(model: str, environment: str, namespace: str) -> None:
    name = derived_name(model, environment, namespace)
    check_deploy(Deploy(ServiceKey(namespace, name), MODEL))
    assert name == derived_name(model, environment, namespace)
    if len(f"{model}-{environment}") > len(name):
        assert re.fullmatch(r".*-[0-9a-f]{8}", name)


def test_where_no_name_fits_the_namespace_the_door_says_so() -> None:
    namespace = "n" * 50
    key = ServiceKey(namespace, derived_name("fraud", "staging", namespace))
    with pytest.raises(FieldInvalid) as refused:
        check_deploy(Deploy(key, MODEL))
    assert [path for path, _ in refused.value.violations] == ["name"]
