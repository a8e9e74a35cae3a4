from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.adapters.kserve.manifests.annotations import AddedFields, rollout_hash_of
from server.adapters.kserve.manifests.manifest import DesiredObject, without_scaling
from server.adapters.kserve.manifests.resource_defaults import KSERVE_DEFAULTS
from server.domain.service.canonical_spec import canonical_options
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
from server.domain.service.preconditions import PastRequest
from tests import strategies
from tests.adapters.kserve.storing import rendered

KEY = ServiceKey("model-serving", "iris")
MODEL = InferenceServiceSpec(ModelPredictor(ModelFormat("sklearn"), "gs://bucket/model"))
CONTAINER = InferenceServiceSpec(ContainerPredictor("kserve/sklearnserver:latest"))
PROBE = {"httpGet": {"path": "/v2/models/iris/ready", "port": 8080}, "periodSeconds": 5}

desired_objects = st.builds(
    DesiredObject,
    strategies.keys,
    strategies.specs().map(canonical_options),
    strategies.labels,
    strategies.annotations,
    added=st.builds(AddedFields, probe=st.sampled_from([None, PROBE])),
)


def predictor(spec: InferenceServiceSpec, defaults: Resources = KSERVE_DEFAULTS) -> dict[str, Any]:
    written: dict[str, Any] = rendered(DesiredObject(KEY, spec), defaults)["spec"]["predictor"]
    return written


def serving(spec: InferenceServiceSpec, defaults: Resources = KSERVE_DEFAULTS) -> dict[str, Any]:
    written = predictor(spec, defaults)
    container: dict[str, Any] = written.get("model") or written["containers"][0]
    return container


def rollout_hash(spec: InferenceServiceSpec, **desired: Any) -> str:
    return rollout_hash_of(rendered(DesiredObject(KEY, spec, **desired)))


def test_a_model_is_written_under_model() -> None:
    spec = InferenceServiceSpec(
        ModelPredictor(
            ModelFormat("sklearn", "1"), "gs://b/m", "kserve-mlserver", "v2", ("--workers", "2")
        ),
        env={"B": "2", "A": ""},
        secret_env={"TOKEN": SecretKeyRef("hub", "token")},
        resources=Resources({"cpu": "500m"}, {"cpu": "2"}),
        image_pull_policy="Always",
    )
    assert predictor(spec)["model"] == {
        "modelFormat": {"name": "sklearn", "version": "1"},
        "storageUri": "gs://b/m",
        "runtime": "kserve-mlserver",
        "protocolVersion": "v2",
        "args": ["--workers", "2"],
        "env": [
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
            {"name": "A"},
            {"name": "B", "value": "2"},
        ],
        "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "2"}},
        "imagePullPolicy": "Always",
    }


def test_a_container_is_written_with_the_defaults_that_kserve_would_add() -> None:
    spec = InferenceServiceSpec(
        ContainerPredictor("mine:1", ("serve",), ("--fast",), 9000),
        resources=Resources({"cpu": "100m"}),
    )
    assert predictor(spec)["containers"] == [
        {
            "name": "kserve-container",
            "image": "mine:1",
            "command": ["serve"],
            "args": ["--fast"],
            "ports": [{"containerPort": 9000, "protocol": "TCP"}],
            "resources": {
                "requests": {"cpu": "100m", "memory": "2Gi"},
                "limits": {"cpu": "1", "memory": "2Gi"},
            },
        }
    ]


def test_scaling_and_placement_stand_beside_the_predictor() -> None:
    spec = replace(
        MODEL,
        scaling=Scaling(0, 3, 70, "cpu"),
        service_account="reader",
        node_selector={"disk": "ssd"},
        tolerations=(Toleration("gpu", "Exists", effect="NoExecute", toleration_seconds=0),),
        request_timeout=timedelta(minutes=5),
    )
    written = predictor(spec)
    assert {k: v for k, v in written.items() if k not in ("model", "annotations")} == {
        "minReplicas": 0,
        "maxReplicas": 3,
        "scaleTarget": 70,
        "scaleMetric": "cpu",
        "serviceAccountName": "reader",
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [
            {"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}
        ],
        "timeout": 300,
    }


def test_the_users_labels_stand_beside_ours_and_never_above_them() -> None:
    desired = DesiredObject(
        KEY,
        replace(MODEL, deployment_mode="Standard"),
        {"team": "a", "app.kubernetes.io/managed-by": "helm"},
        {"note": "x"},
    )
    assert rendered(desired)["metadata"] == {
        "namespace": "model-serving",
        "name": "iris",
        "labels": {"team": "a", "app.kubernetes.io/managed-by": "modelservice"},
        "annotations": {"note": "x", "serving.kserve.io/deploymentMode": "Standard"},
    }


def test_a_default_limit_gives_way_to_a_larger_request() -> None:
    asked = replace(CONTAINER, resources=Resources({"memory": "4Gi"}))
    assert serving(asked)["resources"]["limits"]["memory"] == "4Gi"


def test_a_default_request_gives_way_to_a_smaller_limit() -> None:
    asked = replace(CONTAINER, resources=Resources({}, {"cpu": "250m"}))
    assert serving(asked)["resources"]["requests"]["cpu"] == "250m"


def test_a_model_leaves_the_runtimes_own_resources_alone() -> None:
    assert "resources" not in serving(MODEL)
    asked = replace(MODEL, resources=Resources({"memory": "10Gi"}))
    assert serving(asked)["resources"] == {"requests": {"memory": "10Gi"}}


def test_resources_that_a_runtime_requires_are_added_to_the_specs() -> None:
    asked = replace(MODEL, resources=Resources({"memory": "10Gi"}))
    beside = Resources({}, {"memory": "10Gi"})
    written = rendered(DesiredObject(KEY, asked, added=AddedFields(beside)))["spec"]["predictor"]
    assert written["model"]["resources"]["limits"] == {"memory": "10Gi"}
    assert rollout_hash(asked, added=AddedFields(beside)) != rollout_hash(asked)


def test_where_kserve_adds_no_resources_none_are_written() -> None:
    assert "resources" not in serving(CONTAINER, Resources())


@given(desired_objects)
def test_nothing_empty_is_written(desired: DesiredObject) -> None:
    def empty(value: Any, name: str = "") -> list[str]:
        if isinstance(value, dict):
            return [p for n, v in value.items() for p in empty(v, f"{name}.{n}")]
        if isinstance(value, list) and value:
            return [p for v in value if not isinstance(v, str) for p in empty(v, name)]
        return [name] if value in (None, "", [], {}) else []

    written = rendered(desired)
    users = {
        f".metadata.{kind}.{key}"
        for kind in ("labels", "annotations")
        for key in getattr(desired, kind)
    }
    users |= {f".spec.predictor.nodeSelector.{key}" for key in desired.spec.node_selector}
    assert set(empty(written)) <= users


@given(desired_objects, strategies.scalings())
def test_a_change_of_scaling_alone_changes_nothing_that_reaches_the_pods(
    desired: DesiredObject, scaling: Scaling
) -> None:
    one = rendered(desired)
    other = rendered(replace(desired, spec=replace(desired.spec, scaling=scaling)))
    assert one["metadata"] == other["metadata"]
    assert without_scaling(one["spec"]["predictor"]) == without_scaling(other["spec"]["predictor"])


@pytest.mark.parametrize(
    "changed",
    [
        {"spec": CONTAINER},
        {"spec": replace(MODEL, env={"A": "1"})},
        {"spec": replace(MODEL, secret_env={"A": SecretKeyRef("s", "k")})},
        {"spec": replace(MODEL, resources=Resources({"cpu": "2"}))},
        {"spec": replace(MODEL, service_account="reader")},
        {"spec": replace(MODEL, image_pull_policy="Never")},
        {"spec": replace(MODEL, deployment_mode="Standard")},
        {"spec": replace(MODEL, node_selector={"a": "b"})},
        {"spec": replace(MODEL, tolerations=(Toleration("a"),))},
        {"spec": replace(MODEL, request_timeout=timedelta(seconds=9))},
        {"spec": MODEL, "labels": {"team": "a"}},
        {"spec": MODEL, "annotations": {"note": "x"}},
        {"spec": MODEL, "restart": "again"},
        {"spec": MODEL, "added": AddedFields(probe=PROBE)},
    ],
    ids=lambda changed: ",".join(changed),
)
def test_the_rollout_hash_changes_with(changed: dict[str, Any]) -> None:
    assert rollout_hash(**changed) != rollout_hash(MODEL)


def test_the_rollout_hash_ignores_scaling_and_request_ids() -> None:
    requests = (PastRequest("ci-1", "hash", Action.CREATED, 1),)
    assert rollout_hash(replace(MODEL, scaling=Scaling(3, 5)), requests=requests) == rollout_hash(
        MODEL
    )


@pytest.mark.parametrize("spec", [MODEL, CONTAINER], ids=["model", "container"])
def test_a_probe_is_written_into_the_serving_container(spec: InferenceServiceSpec) -> None:
    written = rendered(DesiredObject(KEY, spec, added=AddedFields(probe=PROBE)))["spec"][
        "predictor"
    ]
    container = written.get("model") or written["containers"][0]
    assert container["readinessProbe"] == PROBE


def test_the_rollout_hash_of_a_plain_model_is_that_of_earlier_releases() -> None:
    assert rollout_hash(MODEL) == "23a56686aa57bd88"


def test_a_default_that_the_spec_names_changes_the_rollout_hash() -> None:
    asked = replace(CONTAINER, resources=Resources({"cpu": "1"}))
    assert serving(asked)["resources"] == serving(CONTAINER)["resources"]
    assert rollout_hash(asked) != rollout_hash(CONTAINER)
