"""Which runtime KServe takes for a model, and what of its resources is in the way of a caller's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from server.adapters.kserve.manifests.resource_defaults import model_additions
from server.adapters.kserve.manifests.serving_runtimes import Runtimes, candidates, resources_of
from server.domain.service.inference_service import ModelFormat, ModelPredictor, Resources
from server.domain.service.resource_validation import fits, resource_violations
from tests import strategies
from tests.adapters.kserve.runtimes import runtime

SKLEARN = ModelPredictor(ModelFormat("sklearn"))


def made(name: str, at: str, *, priority: int | None = None, **fields: Any) -> dict[str, Any]:
    known = runtime(name, **fields)
    known["metadata"]["creationTimestamp"] = f"2026-01-{at}T00:00:00Z"
    if priority is not None:
        known["spec"]["supportedModelFormats"][0]["priority"] = priority
    return known


def test_kserve_prefers_the_namespaces_own_then_priority_then_protocol_then_the_newest() -> None:
    cluster = [
        made("plain", "01"),
        made("older-two", "02", priority=2),
        made("grpc", "09", protocols=("grpc-v1", "v1")),
        made("newer-two", "03", priority=2),
        made("any", "09", protocols=()),
        made("b-same", "05"),
        made("a-same", "05"),
    ]
    namespaced = [made("own", "01"), made("own-of-another-format", "01", formats=("onnx:1",))]
    ordered = [r["metadata"]["name"] for r in candidates(SKLEARN, Runtimes(namespaced, cluster))]
    first = ["own", "newer-two", "older-two"]
    assert ordered == [*first, "grpc", "a-same", "b-same", "plain", "any"]


STOCK = Resources({"cpu": "1", "memory": "2Gi"}, {"cpu": "1", "memory": "2Gi"})


@pytest.mark.parametrize(
    ("own", "asked", "added"),
    [
        (Resources({}, {"memory": "64Gi"}), Resources({"memory": "10Gi"}), Resources()),
        (Resources(), Resources({"memory": "10Gi"}), Resources()),
        (Resources({"memory": "256Mi"}), Resources({}, {"memory": "1Gi"}), Resources()),
        (STOCK, Resources({"memory": "4Gi"}), Resources({}, {"memory": "4Gi"})),
        (STOCK, Resources({}, {"cpu": "250m"}), Resources({"cpu": "250m"})),
        (STOCK, Resources({"cpu": "2"}, {"cpu": "3"}), Resources()),
        (
            Resources({"a.b/gpu": "1"}, {"a.b/gpu": "1"}),
            Resources({}, {"a.b/gpu": "2"}),
            Resources({"a.b/gpu": "2"}),
        ),
        (
            Resources({}, {"ephemeral-storage": "1Gi"}),
            Resources({"ephemeral-storage": "2Gi"}),
            Resources({}, {"ephemeral-storage": "2Gi"}),
        ),
    ],
)
def test_only_that_is_added_without_which_both_would_be_invalid_together(
    own: Resources, asked: Resources, added: Resources
) -> None:
    assert model_additions(asked, own) == added


@given(strategies.resources(), strategies.resources())
def test_additions_make_any_two_resources_valid_together_and_replace_none(
    own: Resources, asked: Resources
) -> None:
    added = model_additions(asked, own)
    assert not added.requests.keys() & asked.requests.keys()
    assert not added.limits.keys() & asked.limits.keys()
    requests = {**own.requests, **asked.requests, **added.requests}
    limits = {**own.limits, **asked.limits, **added.limits}
    assert all(fits(name, requests.get(name), limits.get(name)) for name in requests)
    assert not list(resource_violations(Resources(requests, limits)))


def test_a_runtimes_resources_are_read_however_they_are_written() -> None:
    resources = {"requests": {"cpu": 2, "memory": "1024Mi", "odd": "{{x}}"}, "limits": None}
    known = runtime(container={"resources": resources})
    assert resources_of(known) == Resources({"cpu": "2", "memory": "1Gi"}, {})
    assert resources_of(runtime()) == Resources()
