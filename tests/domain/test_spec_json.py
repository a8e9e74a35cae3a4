"""The content of revisions as JSON is that of the API's own messages."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from server.api.specs import spec_message
from server.domain.revisions.revision import RevisionContent
from server.domain.revisions.spec_json import content_json, parse_content
from server.domain.service.inference_service import (
    InferenceServiceSpec,
    RegisteredModelPredictor,
    ServingPredictor,
)
from tests.strategies import annotations, containers, labels, models, names, specs
from tests.test_spec_fields import SAMPLES


def _registered(
    spec: InferenceServiceSpec, names_given: tuple[str, str, str, str]
) -> InferenceServiceSpec:
    assert not isinstance(spec.predictor, RegisteredModelPredictor)
    resolved: ServingPredictor = spec.predictor
    return replace(spec, predictor=RegisteredModelPredictor(*names_given, resolved=resolved))


_plain = specs(containers | models)
_every_spec = _plain | st.builds(
    _registered, _plain, st.tuples(names, names, names, st.just("") | names)
)


@given(_every_spec, labels, annotations)
def test_a_content_comes_back_from_its_json(
    spec: InferenceServiceSpec, given_labels: dict[str, str], given_annotations: dict[str, str]
) -> None:
    content = RevisionContent(spec, given_labels, given_annotations)
    stored = json.loads(json.dumps(content_json(content)))
    assert stored["spec"] == MessageToDict(spec_message(spec))
    assert parse_content(stored) == content


@pytest.mark.parametrize("spec", SAMPLES.values(), ids=SAMPLES)
def test_every_field_of_a_spec_comes_back(spec: InferenceServiceSpec) -> None:
    stored = json.loads(json.dumps(content_json(RevisionContent(spec))))
    assert stored["spec"] == MessageToDict(spec_message(spec))
    assert parse_content(stored).spec == spec


@pytest.mark.parametrize(
    "stored",
    [
        None,
        [],
        {},
        {"spec": {}},
        {"spec": {"container": {"image": 1}}},
        {"spec": {"container": {"image": "a"}, "later": 1}},
        {"spec": {"container": {"image": "a"}, "requestTimeout": "soon"}},
        {"spec": {"container": {"image": "a"}, "scaling": {"minReplicas": True}}},
        {"spec": {"container": {"image": "a"}, "model": {"format": {"name": "b"}}}},
        {"spec": {"container": {"image": "a"}}, "labels": ["a"]},
        {"spec": {"container": {"image": "a"}}, "labels": {"a": 1}},
    ],
)
def test_what_is_no_content_is_refused(stored: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_content(stored)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["spec", "container", "image", "scaling", "tolerations", "env"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=20,
    )
)
def test_any_json_is_a_content_or_a_value_error(stored: Any) -> None:
    with suppress(ValueError):
        assert isinstance(parse_content(stored), RevisionContent)
