"""The fingerprint of what a spec runs."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given

from server.domain.registry.deployment import content_of
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceServiceSpec,
    RegisteredModelPredictor,
    Scaling,
)
from tests import strategies


@given(strategies.specs(), strategies.specs())
def test_it_tells_specs_apart_by_everything_but_their_scaling_strategy_and_mode(
    one: InferenceServiceSpec, other: InferenceServiceSpec
) -> None:
    alike = [
        replace(spec, scaling=Scaling(), rollout_strategy=None, deployment_mode="")
        for spec in (one, other)
    ]
    same = alike[0] == alike[1]
    assert (content_of(one) == content_of(other)) == same


@given(strategies.specs(), strategies.scalings())
def test_scaling_and_the_names_of_the_registry_are_no_part_of_it(
    spec: InferenceServiceSpec, scaling: Scaling
) -> None:
    named = RegisteredModelPredictor("fruit", "iris", "staging", "1", resolved=spec.serving)
    assert content_of(replace(spec, scaling=scaling, predictor=named)) == content_of(spec)


def test_it_is_the_same_in_every_release() -> None:
    assert content_of(InferenceServiceSpec(ContainerPredictor("iris:1"))) == "fc536f16f0449eec"
