"""What processes of one machine cannot do is refused, with what to do instead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from server.domain.errors import UnsupportedByCluster
from server.domain.service.commands import Action
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    Resources,
    Scaling,
    SecretKeyRef,
    ServiceKey,
    Toleration,
)
from tests.adapters.local.world import IRIS, World


def model_at(uri: str) -> ModelPredictor:
    return ModelPredictor(ModelFormat("test"), uri)


@pytest.mark.parametrize(
    ("fields", "instead"),
    [
        ({"predictor": ContainerPredictor("x:1")}, "spec.model"),
        ({"secret_env": {"A": SecretKeyRef("s", "k")}}, "spec.env"),
        ({"service_account": "reader"}, "spec.service_account"),
        ({"node_selector": {"zone": "a"}}, "spec.node_selector"),
        ({"tolerations": (Toleration("gpu", "Exists"),)}, "tolerations"),
        ({"deployment_mode": "Standard"}, "spec.deployment_mode"),
        ({"deployment_mode": "Knative"}, "spec.deployment_mode"),
        ({"scaling": Scaling(min_replicas=2)}, "spec.scaling.min_replicas"),
        ({"predictor": model_at("iris.joblib")}, r"storage_uri must be .* got 'iris\.joblib'"),
        ({"predictor": model_at("./iris.joblib")}, "spec.model.storage_uri must be a URI"),
        ({"predictor": model_at("file://models/iris")}, "spec.model.storage_uri must be a URI"),
        ({"env": {"MLSERVER_MODEL_NAME": "meta/llama"}}, "MLSERVER_MODEL_NAME in spec.env"),
        ({"env": {"MLSERVER_MODEL_NAME": ""}}, "MLSERVER_MODEL_NAME in spec.env"),
        ({"env": {"A": "a/b", "MLSERVER_MODEL_NAME": "$(A)"}}, "MLSERVER_MODEL_NAME in spec.env"),
    ],
)
async def test_it_is_refused_before_anything_is_written(
    world: World, fields: dict[str, Any], instead: str
) -> None:
    spec = replace(world.model(), **fields)
    for dry in (True, False):
        with pytest.raises(UnsupportedByCluster, match=instead):
            await world.deploy(spec, validate_only=dry)
    assert await world.cluster.read(IRIS) is None


async def test_all_unsupported_fields_are_named_at_once(world: World) -> None:
    spec = InferenceServiceSpec(ContainerPredictor("x:1"), service_account="reader")
    with pytest.raises(UnsupportedByCluster, match=r"spec\.model.*spec\.service_account"):
        await world.deploy(spec)


@pytest.mark.parametrize(
    "fields",
    [
        {"resources": Resources({"cpu": "64", "memory": "1Ti"}, {"memory": "1Ti"})},
        {"image_pull_policy": "Always"},
        {"scaling": Scaling(min_replicas=0, max_replicas=5)},
    ],
)
async def test_what_means_nothing_here_is_kept_and_not_enforced(
    world: World, fields: dict[str, Any]
) -> None:
    spec = replace(world.model(), **fields)
    ready = await world.ready(spec)
    assert ready.spec == spec
    assert (await world.deploy(spec)).action is Action.UNCHANGED


async def test_any_namespace_exists(world: World) -> None:
    for namespace in ("a", "b"):
        service = await world.ready(world.model(), ServiceKey(namespace, "iris"))
        assert (await world.ask(service))["name"].startswith(f"{namespace}/iris/1/")
