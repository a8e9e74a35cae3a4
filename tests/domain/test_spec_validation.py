"""The door refuses specs that can never work, with the path of each field."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given

from server.domain.errors import FieldInvalid
from server.domain.kubernetes.quantities import value
from server.domain.service.inference_service import (
    RECREATE,
    ROLLING,
    ContainerPredictor,
    InferenceServiceSpec,
    ModelFormat,
    Resources,
    RolloutStrategy,
    Scaling,
    SecretKeyRef,
)
from server.domain.service.spec_validation import MOST_REPLICAS
from server.domain.service.validation import check_deploy
from tests import strategies
from tests.domain.samples import (
    MODEL,
    container,
    deploy,
    env,
    knative,
    model,
    registered,
    requests,
    resources,
    secret,
    spec,
    toleration,
    violations,
)


def strategy(*words: str) -> InferenceServiceSpec:
    return spec(rollout_strategy=RolloutStrategy(*words))


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        (container(image=""), "spec.container.image"),
        (container(image="my image:1"), "spec.container.image"),
        (container(image="image:1\n"), "spec.container.image"),
        (container(port=-1), "spec.container.port"),
        (container(port=65536), "spec.container.port"),
        (container(args=("fine", "not\0fine")), "spec.container.args[1]"),
        (container(command=("x" * 140_000,)), "spec.container.command[0]"),
        (container(args=("x",) * 1001), "spec.container.args"),
        (container(args=("x" * 100_000,) * 6), "spec"),
        (model(format=ModelFormat("")), "spec.model.format.name"),
        (model(format=ModelFormat(" ")), "spec.model.format.name"),
        (model(runtime="kserve/sklearnserver:latest"), "spec.model.runtime"),
        (model(protocol_version="v3"), "spec.model.protocol_version"),
        (model(storage_uri="gs://a\0"), "spec.model.storage_uri"),
        (model(args=("\0",)), "spec.model.args[0]"),
        (registered(project=""), "spec.registered_model.project"),
        (registered(project="x" * 101), "spec.registered_model.project"),
        (registered(project="a\tb"), "spec.registered_model.project"),
        (registered(model="Iris"), "spec.registered_model.model"),
        (registered(model="x" * 64), "spec.registered_model.model"),
        (registered(environment=""), "spec.registered_model.environment"),
        (registered(environment="-a"), "spec.registered_model.environment"),
        (registered(version="-1"), "spec.registered_model.version"),
        (registered(version="1" * 64), "spec.registered_model.version"),
        (env(**{"A=B": "1"}), 'spec.env["A=B"]'),
        (env(**{"": "1"}), 'spec.env[""]'),
        (env(**{"1A": "1"}), 'spec.env["1A"]'),
        (env(**{"A B": "1"}), 'spec.env["A B"]'),
        (env(**{"..A": "1"}), 'spec.env["..A"]'),
        (env(**{'A"': "1"}), 'spec.env["A\\""]'),
        (env(PYTHONPATH="/x"), 'spec.env["PYTHONPATH"]'),
        (dataclasses.replace(MODEL, env={"PYTHONPATH": "/x"}), 'spec.env["PYTHONPATH"]'),
        (env(A="\0"), 'spec.env["A"]'),
        (env(A="x" * 131_072), 'spec.env["A"]'),
        (env(PROTOCOL="v3"), 'spec.env["PROTOCOL"]'),
        (env(**{f"V{i}": "" for i in range(1001)}), "spec.env"),
        (secret(SecretKeyRef("s", "k"), "A=B"), 'spec.secret_env["A=B"]'),
        (secret(SecretKeyRef("s", "k"), "PYTHONPATH"), 'spec.secret_env["PYTHONPATH"]'),
        (secret(SecretKeyRef("s", "k"), "STORAGE_URI"), 'spec.secret_env["STORAGE_URI"]'),
        (secret(SecretKeyRef("s", "k"), "PROTOCOL"), 'spec.secret_env["PROTOCOL"]'),
        (secret(SecretKeyRef("", "k")), 'spec.secret_env["TOKEN"].secret'),
        (secret(SecretKeyRef("S_1", "k")), 'spec.secret_env["TOKEN"].secret'),
        (secret(SecretKeyRef("s", "")), 'spec.secret_env["TOKEN"].key'),
        (secret(SecretKeyRef("s", "a/b")), 'spec.secret_env["TOKEN"].key'),
        (spec(env={"A": "1"}, secret_env={"A": SecretKeyRef("s", "k")}), 'spec.env["A"]'),
        (requests(cpu="lots"), 'spec.resources.requests["cpu"]'),
        (requests(cpu=""), 'spec.resources.requests["cpu"]'),
        (requests(cpu="-1"), 'spec.resources.requests["cpu"]'),
        (requests(pods="1"), 'spec.resources.requests["pods"]'),
        (requests(gpu="1"), 'spec.resources.requests["gpu"]'),
        (requests(**{"nvidia.com/gpu": "1"}), 'spec.resources.requests["nvidia.com/gpu"]'),
        (requests(**{"hugepages-2Mi": "4Mi"}), 'spec.resources.requests["hugepages-2Mi"]'),
        (resources({}, {f"a.b/r{i}": "0" for i in range(33)}), "spec.resources.limits"),
        (resources({"cpu": "2"}, {"cpu": "1500m"}), 'spec.resources.requests["cpu"]'),
        (resources({"memory": "1Gi"}, {"memory": "1G"}), 'spec.resources.requests["memory"]'),
        (resources({"a.b/c": "1"}, {"a.b/c": "2"}), 'spec.resources.requests["a.b/c"]'),
        (resources({}, {"a.b/c": "500m"}), 'spec.resources.limits["a.b/c"]'),
        (resources({}, {"memory": "4 Gi"}), 'spec.resources.limits["memory"]'),
        (spec(scaling=Scaling(min_replicas=-1)), "spec.scaling.min_replicas"),
        (spec(scaling=Scaling(max_replicas=0)), "spec.scaling.max_replicas"),
        (spec(scaling=Scaling(3, 2)), "spec.scaling.min_replicas"),
        (spec(scaling=Scaling(min_replicas=MOST_REPLICAS + 1)), "spec.scaling.min_replicas"),
        (spec(scaling=Scaling(max_replicas=2**31 - 1)), "spec.scaling.max_replicas"),
        (spec(scaling=Scaling(target=0)), "spec.scaling.target"),
        (spec(scaling=Scaling(metric="rps"), deployment_mode="Standard"), "spec.scaling.metric"),
        (knative(env={"K_SERVICE": "x"}), 'spec.env["K_SERVICE"]'),
        (knative(secret_env={"PORT": SecretKeyRef("a", "b")}), 'spec.secret_env["PORT"]'),
        (knative(predictor=ContainerPredictor("i:1", port=8012)), "spec.container.port"),
        (spec(scaling=Scaling(metric="gpu")), "spec.scaling.metric"),
        (spec(scaling=Scaling(metric="cpu"), deployment_mode="Knative"), "spec.scaling.metric"),
        (spec(service_account="Bad_Name"), "spec.service_account"),
        (spec(image_pull_policy="always"), "spec.image_pull_policy"),
        (spec(deployment_mode="standard"), "spec.deployment_mode"),
        (spec(deployment_mode="ModelMesh"), "spec.deployment_mode"),
        (spec(node_selector={"bad key": "x"}), 'spec.node_selector["bad key"]'),
        (spec(node_selector={"zone": "a/b"}), 'spec.node_selector["zone"]'),
        (toleration(operator="In", key="a"), "spec.tolerations[0].operator"),
        (toleration(effect="Never", key="a"), "spec.tolerations[0].effect"),
        (toleration(key=""), "spec.tolerations[0].key"),
        (toleration(key="a b"), "spec.tolerations[0].key"),
        (toleration(key="a", value="x/y"), "spec.tolerations[0].value"),
        (toleration(key="a", operator="Exists", value="x"), "spec.tolerations[0].value"),
        (toleration(key="a", toleration_seconds=5), "spec.tolerations[0].toleration_seconds"),
        (spec(request_timeout=timedelta(0)), "spec.request_timeout"),
        (spec(request_timeout=timedelta(seconds=-5)), "spec.request_timeout"),
        (spec(request_timeout=timedelta(seconds=1.5)), "spec.request_timeout"),
        (spec(ready_timeout=timedelta(0)), "spec.ready_timeout"),
        (spec(ready_timeout=timedelta(seconds=1.5)), "spec.ready_timeout"),
        (spec(ready_timeout=timedelta(days=7, seconds=1)), "spec.ready_timeout"),
        (strategy("", ""), "spec.rollout_strategy.type"),
        (strategy("Recreate"), "spec.rollout_strategy.type"),
        (strategy(RECREATE, "1"), "spec.rollout_strategy.max_surge"),
        (strategy(RECREATE, "", "50%"), "spec.rollout_strategy.max_unavailable"),
        (strategy(ROLLING, "-1"), "spec.rollout_strategy.max_surge"),
        (strategy(ROLLING, "1.5"), "spec.rollout_strategy.max_surge"),
        (strategy(ROLLING, "25 %"), "spec.rollout_strategy.max_surge"),
        (strategy(ROLLING, "01"), "spec.rollout_strategy.max_surge"),
        (strategy(ROLLING, "10001%"), "spec.rollout_strategy.max_surge"),
        (strategy(ROLLING, "9" * 5000), "spec.rollout_strategy.max_surge"),
        (strategy(ROLLING, "", "101%"), "spec.rollout_strategy.max_unavailable"),
        (strategy(ROLLING, "0", "0%"), "spec.rollout_strategy.max_unavailable"),
        (
            replace(strategy(RECREATE), deployment_mode="Knative"),
            "spec.rollout_strategy",
        ),
    ],
)
def test_a_spec_that_cannot_work_is_refused_at_its_field(
    wanted: InferenceServiceSpec, path: str
) -> None:
    found = violations(deploy(wanted))
    assert [path] == list(found)
    assert "must " in found[path]


@pytest.mark.parametrize(
    ("scaling", "why"),
    [
        (Scaling(min_replicas=-1), "must be from 0 to 10000, got -1"),
        (Scaling(min_replicas=10_001), "must be from 0 to 10000, got 10001"),
        (Scaling(max_replicas=0), "must be from 1 to 10000, got 0"),
        (Scaling(3, 2), "must not be above max_replicas, which is 2, got 3"),
    ],
)
def test_replicas_that_cannot_be_are_told_with_their_bounds(scaling: Scaling, why: str) -> None:
    assert list(violations(deploy(spec(scaling=scaling))).values()) == [why]


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (container(port=70000), "must be from 1 to 65535, or 0 for KServe's default, got 70000"),
        (
            spec(image_pull_policy="always"),
            "must be one of Always, IfNotPresent, Never, got 'always'",
        ),
        (
            spec(request_timeout=timedelta(0)),
            "must be a whole number of seconds, at least 1, got 0",
        ),
        (spec(scaling=Scaling(target=0)), "must be at least 1, got 0"),
        (
            spec(ready_timeout=timedelta(days=8)),
            "must be a whole number of seconds, from 1 to 604800, got 691200",
        ),
        (
            strategy(ROLLING, "some"),
            'must be a number of pods such as "1", or a percentage such as "25%", at most 10000,'
            " got 'some'",
        ),
        (
            strategy(ROLLING, "0%", "0"),
            "must not be 0 if max_surge is 0: no pod could ever be replaced",
        ),
        (requests(cpu="-1"), "must not be negative, got -1"),
        (
            resources({}, {"memory": "4 Gi"}),
            "must be a Kubernetes quantity, such as 500m, 2 or 4Gi, got '4 Gi'",
        ),
        (
            model(runtime="kserve/sklearn" + "x" * 500),
            "must be the name of a serving runtime of the cluster, not an image, got"
            f" 'kserve/sklearn{'x' * 50}'...",
        ),
        (container(image=""), "must be set"),
        (env(SECRET_TOKEN="hush\0"), "must have no NUL character"),
        (
            env(SECRET_TOKEN="h" * 140_000),
            "must have at most 131071 bytes, Linux' limit, got 140013",
        ),
        (
            dataclasses.replace(container(), env={"PROTOCOL": "hush"}),
            "must be v1 or v2 for KServe",
        ),
    ],
)
def test_a_refused_field_is_told_what_must_be_and_what_was_given(
    wanted: InferenceServiceSpec, why: str
) -> None:
    assert list(violations(deploy(wanted)).values()) == [why]


def test_knatives_autoscalers_measure_each_their_own() -> None:
    hpa = {"autoscaling.knative.dev/class": "hpa.autoscaling.knative.dev"}
    kpa = {"autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev"}
    for metric, passing, refused in (("memory", hpa, kpa), ("rps", kpa, hpa)):
        wanted = knative(scaling=Scaling(metric=metric))
        assert violations(deploy(wanted, annotations=passing)) == {}
        assert list(violations(deploy(wanted, annotations=refused))) == ["spec.scaling.metric"]


@pytest.mark.parametrize(
    "wanted",
    [
        env(STORAGE_URI="gs://bucket/model", PROTOCOL="v2"),
        env(**{"my.env-name": "a=b\nc"}),
        dataclasses.replace(MODEL, env={"PROTOCOL": "anything"}),
        model(storage_uri=""),
        model(storage_uri="unknown-scheme://x", runtime="not-there-yet"),
        model(format=ModelFormat("unheard-of", "7")),
        resources({"nvidia.com/gpu": "1"}, {"nvidia.com/gpu": "1"}),
        resources({}, {"nvidia.com/gpu": "2"}),
        resources({"memory": "1024Mi"}, {"memory": "1Gi"}),
        spec(scaling=Scaling(min_replicas=0)),
        spec(scaling=Scaling(MOST_REPLICAS, MOST_REPLICAS)),
        spec(scaling=Scaling(metric="rps"), deployment_mode="Knative"),
        spec(scaling=Scaling(metric="concurrency")),
        spec(scaling=Scaling(metric="cpu")),
        env(PORT="80", K_SERVICE="iris"),
        knative(predictor=ContainerPredictor("i:1", port=8080), scaling=Scaling(0, 3, 10, "rps")),
        spec(request_timeout=timedelta(minutes=5)),
        toleration(operator="Exists"),
        spec(ready_timeout=timedelta(days=7)),
        strategy(ROLLING),
        strategy(ROLLING, "0"),
        strategy(ROLLING, "0", "1"),
        strategy(ROLLING, "200%", "100%"),
        strategy(RECREATE),
        toleration(key="a", effect="NoExecute", toleration_seconds=0),
    ],
)
def test_what_a_cluster_may_yet_carry_out_is_not_refused(wanted: InferenceServiceSpec) -> None:
    assert violations(deploy(wanted)) == {}


def test_no_value_of_a_variable_is_told() -> None:
    refused = deploy(env(**{"A=B": "hunter2", "PROTOCOL": "hunter2", "C": "hunter2\0"}))
    with pytest.raises(FieldInvalid) as told:
        check_deploy(refused)
    assert "hunter2" not in told.value.message


def test_a_long_key_is_told_cut() -> None:
    [path] = violations(deploy(env(**{"A=" + "x" * 1000: "1"})))
    assert len(path) < 100


@given(strategies.resources())
def test_no_request_that_passes_is_above_its_limit(asked: Resources) -> None:
    for name in asked.requests.keys() & asked.limits.keys():
        assert value(asked.requests[name]) <= value(asked.limits[name])
