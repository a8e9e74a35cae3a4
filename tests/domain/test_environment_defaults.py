"""An environment's defaults stand where a Deploy asks for nothing."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta

from hypothesis import given

from server.domain.registry.environment_defaults import with_defaults
from server.domain.service.inference_service import (
    InferenceServiceSpec,
    Resources,
    Scaling,
    SecretKeyRef,
    ServingOptions,
    Toleration,
)
from server.domain.service.spec_validation import spec_violations
from tests import strategies
from tests.domain.samples import MODEL

DEFAULTS = ServingOptions(
    env={"A": "default", "B": "default"},
    secret_env={"TOKEN": SecretKeyRef("default", "key")},
    resources=Resources({"cpu": "1", "memory": "1Gi"}, {"cpu": "2"}),
    scaling=Scaling(1, 5, 70, "cpu"),
    service_account="default",
    image_pull_policy="Always",
    deployment_mode="Standard",
    node_selector={"zone": "a", "disk": "ssd"},
    tolerations=(Toleration("default"),),
    request_timeout=timedelta(seconds=90),
)


def test_a_bare_wish_takes_all_defaults() -> None:
    merged = with_defaults(MODEL, DEFAULTS)
    assert merged.predictor == MODEL.predictor
    assert all(getattr(merged, f.name) == getattr(DEFAULTS, f.name) for f in fields(ServingOptions))


def test_maps_are_merged_by_key_scaling_by_field_and_all_else_as_a_whole() -> None:
    asked = replace(
        MODEL,
        env={"B": "mine"},
        resources=Resources({"cpu": "3"}, {"memory": "8Gi"}),
        scaling=Scaling(min_replicas=0, target=50),
        node_selector={"zone": "b"},
        tolerations=(Toleration("mine"), Toleration("another")),
        service_account="mine",
        request_timeout=timedelta(seconds=5),
    )
    merged = with_defaults(asked, DEFAULTS)
    assert merged.env == {"A": "default", "B": "mine"}
    assert merged.resources == Resources(
        {"cpu": "3", "memory": "1Gi"}, {"cpu": "2", "memory": "8Gi"}
    )
    assert merged.scaling == Scaling(0, 5, 50, "cpu")
    assert merged.node_selector == {"zone": "b", "disk": "ssd"}
    assert merged.tolerations == asked.tolerations
    assert (merged.service_account, merged.image_pull_policy) == ("mine", "Always")
    assert merged.request_timeout == timedelta(seconds=5)


def test_a_variable_is_secret_or_not_as_it_is_asked() -> None:
    mine = SecretKeyRef("mine", "key")
    asked = replace(MODEL, env={"TOKEN": "plain"}, secret_env={"A": mine})
    merged = with_defaults(asked, DEFAULTS)
    assert merged.env == {"B": "default", "TOKEN": "plain"}
    assert merged.secret_env == {"A": mine}


@given(strategies.specs(), strategies.specs())
def test_what_is_asked_is_what_one_gets(
    asked: InferenceServiceSpec, environment: InferenceServiceSpec
) -> None:
    merged = with_defaults(asked, environment)
    assert merged.env.items() >= asked.env.items()
    assert merged.secret_env.items() >= asked.secret_env.items()
    assert merged.node_selector.items() >= asked.node_selector.items()
    assert not merged.env.keys() & merged.secret_env.keys()
    assert with_defaults(merged, environment) == merged


@given(strategies.specs())
def test_without_defaults_nothing_changes(asked: InferenceServiceSpec) -> None:
    assert with_defaults(asked, ServingOptions()) == asked
    assert not list(spec_violations(with_defaults(MODEL, asked), {}))
