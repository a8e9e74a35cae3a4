"""The door refuses names, labels and annotations that cannot work, and tells all at once."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import FieldInvalid
from server.domain.service.canonical_spec import canonical_deploy
from server.domain.service.commands import Delete, Deploy
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
from server.domain.service.validation import check_delete, check_deploy, check_key, check_namespace
from tests import strategies
from tests.domain.samples import container, deploy, resources, violations


@given(strategies.deploys())
def test_what_may_work_passes_and_so_does_its_canonical_form_which_is_its_own(
    wanted: Deploy,
) -> None:
    check_deploy(wanted)
    canonical = canonical_deploy(wanted)
    check_deploy(canonical)
    assert canonical_deploy(canonical) == canonical


def test_of_many_violations_the_first_50_are_looked_for() -> None:
    with pytest.raises(FieldInvalid) as refused:
        check_deploy(
            dataclasses.replace(deploy(container()), labels=dict.fromkeys(map(str, range(99)), "/"))
        )
    assert len(refused.value.violations) == 50


def test_the_canonical_form_has_canonical_quantities_and_the_mode_by_its_present_name() -> None:
    asked = deploy(
        dataclasses.replace(
            resources({"cpu": "500m"}, {"cpu": "1000m", "memory": "1024Mi"}),
            deployment_mode="RawDeployment",
        )
    )
    canonical = canonical_deploy(asked).spec
    assert canonical is not None
    assert canonical.resources == Resources({"cpu": "500m"}, {"cpu": "1", "memory": "1Gi"})
    assert canonical.deployment_mode == "Standard"


@pytest.mark.parametrize("name", ["iris", "a", "a-1", "x" * 39])
def test_a_good_name_passes(name: str) -> None:
    check_deploy(deploy(key=ServiceKey("model-serving", name)))


@pytest.mark.parametrize(
    ("namespace", "name", "path"),
    [
        ("model-serving", "", "name"),
        ("model-serving", "Iris", "name"),
        ("model-serving", "1iris", "name"),
        ("model-serving", "iris-", "name"),
        ("model-serving", "iris.v1", "name"),
        ("model-serving", "iris\n", "name"),
        ("model-serving", "x" * 49, "name"),
        ("model-serving", "x" * 40, "name"),  # 64 with -predictor- and the namespace
        ("", "iris", "namespace"),
        ("-", "iris", "namespace"),
        ("Upper", "iris", "namespace"),
        ("dotted.name", "iris", "namespace"),
        ("n" * 64, "iris", "namespace"),
    ],
)
def test_a_name_that_cannot_work_is_refused(namespace: str, name: str, path: str) -> None:
    assert path in violations(deploy(key=ServiceKey(namespace, name)))


@pytest.mark.parametrize(
    "key",
    [
        "kubernetes.io/x",
        "node.kubernetes.io/x",
        "k8s.io/x",
        "x.k8s.io/y",
        "serving.kserve.io/inferenceservice",
        "serving.kserve.io/stop",
        "modelservice.dev/service-id",
        "deep.modelservice.dev/x",
        "app.kubernetes.io/managed-by",
        "bad key",
        "a/b/c",
        "",
        "k" * 64,
    ],
)
def test_a_reserved_or_wrong_label_is_refused(key: str) -> None:
    assert len(violations(deploy(labels={key: "x"}))) == 1


def test_a_violation_names_the_label() -> None:
    assert list(violations(deploy(labels={"kubernetes.io/x": "y"}))) == [
        'labels["kubernetes.io/x"]'
    ]


@pytest.mark.parametrize("value", ["has space", "-x", "x" * 64, "ü"])
def test_a_wrong_label_value_is_refused(value: str) -> None:
    assert list(violations(deploy(labels={"team": value}))) == ['labels["team"]']


@pytest.mark.parametrize(
    "key", ["team", "app.kubernetes.io/name", "example.com/a_b.C", "notk8s.io"]
)
def test_labels_of_the_users_own_pass(key: str) -> None:
    assert violations(deploy(labels={key: "x"}, annotations={key: "any text\n"})) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("serving.kserve.io/stop", "true"),
        ("serving.kserve.io/stop", "False"),
        ("serving.kserve.io/autoscalerClass", "none"),
        ("serving.kserve.io/storageSecretName", "s3-credentials"),
        ("storage.kserve.io/readonly", "false"),
        ("serving.kserve.io/enable-prometheus-scraping", "true"),
        ("serving.kserve.io/enable-metric-aggregation", "true"),
        ("prometheus.io/port", "9090"),
    ],
)
def test_the_annotations_that_are_a_users_business_pass(key: str, value: str) -> None:
    assert violations(deploy(annotations={key: value})) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("serving.kserve.io/stop", "yes"),
        ("serving.kserve.io/deploymentMode", "Knative"),
        ("serving.kserve.io/disable-auto-update", "true"),
        ("internal.serving.kserve.io/agent", "true"),
        ("Kubernetes.IO/x", "y"),
        ("modelservice.dev/rollout", "y"),
        ("app.kubernetes.io/managed-by", "me"),
        ("bad key", "y"),
    ],
)
def test_an_annotation_of_the_platforms_is_refused(key: str, value: str) -> None:
    assert list(violations(deploy(annotations={key: value}))) == [f'annotations["{key}"]']


def test_more_annotations_than_pods_can_carry_are_refused() -> None:
    assert list(violations(deploy(annotations={"note": "x" * 250_000}))) == ["annotations"]
    assert list(violations(deploy(annotations={f"n{i}": "" for i in range(513)}))) == [
        "annotations"
    ]
    assert list(violations(deploy(labels={f"n{i}": "" for i in range(129)}))) == ["labels"]


@pytest.mark.parametrize("request_id", ["a b", "x" * 65, "ünique", "a/b", "a\n"])
def test_a_wrong_request_id_is_refused(request_id: str) -> None:
    assert list(violations(deploy(request_id=request_id))) == ["request_id"]


def test_a_spec_may_be_left_out_by_a_restart_alone() -> None:
    assert violations(deploy(None, restart=True)) == {}
    assert list(violations(deploy(None))) == ["spec"]
    assert list(violations(deploy(None, restart=True, labels={"a": "b"}))) == ["labels"]


def test_a_dry_run_is_checked_all_the_same() -> None:
    assert violations(deploy(container(image=""), validate_only=True))


def test_everything_wrong_is_told_at_once() -> None:
    wanted = deploy(
        dataclasses.replace(
            container(image="", port=-1),
            env={"A=B": "1"},
            resources=Resources(limits={"cpu": "many"}),
            tolerations=(Toleration(operator="Exists"), Toleration()),
        ),
        key=ServiceKey("Bad", ""),
        labels={"modelservice.dev/x": "y"},
        request_id=" ",
    )
    assert set(violations(wanted)) == {
        "namespace",
        "name",
        "request_id",
        'labels["modelservice.dev/x"]',
        "spec.container.image",
        "spec.container.port",
        'spec.env["A=B"]',
        'spec.resources.limits["cpu"]',
        "spec.tolerations[1].key",
    }


@given(strategies.keys)
def test_the_key_of_whatever_may_exist_passes(key: ServiceKey) -> None:
    check_key(key)
    check_namespace(key.namespace)
    check_delete(Delete(key))


def test_a_longer_name_than_ours_may_be_read_and_deleted() -> None:
    check_delete(Delete(ServiceKey("model-serving", "x" * 60)))


@pytest.mark.parametrize("key", [("ns", ""), ("ns", "A"), ("-", "a"), ("", "a"), ("ns", "x" * 254)])
def test_a_key_that_nothing_can_have_is_refused(key: tuple[str, str]) -> None:
    with pytest.raises(FieldInvalid):
        check_key(ServiceKey(*key))


_any_text = st.text()
_any_map = st.dictionaries(_any_text, _any_text, max_size=3)
_any_number = st.integers(-(2**31), 2**31 - 1)
_any_container = st.builds(
    ContainerPredictor,
    _any_text,
    st.tuples(_any_text),
    st.tuples(_any_text),
    _any_number,
)
_any_model = st.builds(
    ModelPredictor,
    st.builds(ModelFormat, _any_text, _any_text),
    _any_text,
    _any_text,
    _any_text,
    st.tuples(_any_text),
)
_any_spec = st.builds(
    InferenceServiceSpec,
    predictor=_any_container | _any_model,
    env=_any_map,
    secret_env=st.dictionaries(
        _any_text, st.builds(SecretKeyRef, _any_text, _any_text), max_size=2
    ),
    resources=st.builds(Resources, _any_map, _any_map),
    scaling=st.builds(Scaling, _any_number, _any_number, _any_number, _any_text),
    service_account=_any_text,
    image_pull_policy=_any_text,
    deployment_mode=_any_text,
    node_selector=_any_map,
    tolerations=st.tuples(
        st.builds(Toleration, _any_text, _any_text, _any_text, _any_text, _any_number)
    ),
    request_timeout=st.timedeltas(),
)


@given(
    st.builds(
        Deploy,
        key=st.builds(ServiceKey, _any_text, _any_text),
        spec=st.none() | _any_spec,
        labels=_any_map,
        annotations=_any_map,
        etag=_any_text,
        request_id=_any_text,
        restart=st.booleans(),
    )
)
def test_whatever_is_sent_either_passes_or_is_refused_as_invalid(wanted: Deploy) -> None:
    if violations(wanted):
        return
    canonical_deploy(wanted)
