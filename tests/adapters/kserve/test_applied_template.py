"""Pod templates that are made from the present spec, and others."""

from __future__ import annotations

from typing import Any

import pytest

from server.adapters.kserve.status.applied_template import is_applied
from server.adapters.kserve.status.components import component_specs
from server.adapters.kserve.status.observed_objects import ObservedObjects
from tests.adapters.kserve.replaying import merged
from tests.adapters.kserve.shown import serving, serving_model, with_service
from tests.cpu_time import cpu_time

Object = dict[str, Any]
KUBECTL = {
    "manager": "kubectl-edit",
    "operation": "Update",
    "fieldsV1": {"f:spec": {"f:predictor": {"f:containers": {}}}},
}


def predictor_applied(observed: ObservedObjects) -> bool:
    predictor = next(component_specs(observed.service))
    return is_applied(observed.service, predictor, observed.deployments[0]["spec"]["template"])


def edited(observed: ObservedObjects, spec: Object) -> ObservedObjects:
    """As after somebody else's edit of the spec, which keeps the rollout hash."""
    fields = [*observed.service["metadata"]["managedFields"], KUBECTL]
    return with_service(observed, {"spec": spec, "metadata": {"managedFields": fields}})


def unmanaged(observed: ObservedObjects) -> ObservedObjects:
    """As if it had never been ours: without a rollout hash on object and template."""
    bare = {"annotations": {"modelservice.dev/rollout": None}}
    observed = edited(observed, {"predictor": bare})
    template = {"spec": {"template": {"metadata": bare}}}
    [deployment] = observed.deployments
    return ObservedObjects(observed.service, deployments=(merged(deployment, template),))


def test_the_rollout_hash_decides_for_a_predictor_that_only_we_own() -> None:
    observed, _ = serving()
    assert predictor_applied(observed)
    next_rollout = {"annotations": {"modelservice.dev/rollout": "m2"}}
    assert not predictor_applied(with_service(observed, {"spec": {"predictor": next_rollout}}))


def test_a_template_with_a_removed_rollout_hash_is_not_applied() -> None:
    observed, _ = serving()
    gone = {"predictor": {"annotations": {"modelservice.dev/rollout": None}}}
    assert not predictor_applied(edited(observed, gone))


CONTAINER = {"name": "kserve-container", "image": "ready:1"}


@pytest.mark.parametrize(
    "changed",
    [
        {"image": "ready:2"},
        {"args": ["--more"]},
        {"command": ["sh"]},
        {"env": [{"name": "X", "value": "1"}]},
        {"env": [{"name": "STORAGE_URI", "value": "gs://models/iris"}]},
        {"resources": {"requests": {"cpu": "2"}}},
        {"resources": {"limits": {"nvidia.com/gpu": "1"}}},
        {"imagePullPolicy": "Always"},
        {"ports": [{"containerPort": 9000, "protocol": "TCP"}]},
    ],
)
def test_an_edit_by_another_manager_is_not_applied_until_the_template_has_it(
    changed: Object,
) -> None:
    observed, _ = serving()
    same = edited(observed, {"predictor": {"containers": [CONTAINER]}})
    assert predictor_applied(same)
    assert not predictor_applied(
        edited(observed, {"predictor": {"containers": [{**CONTAINER, **changed}]}})
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"serviceAccountName": "other"},
        {"nodeSelector": {"gpu": "yes"}},
        {"tolerations": [{"key": "gpu", "operator": "Exists"}]},
        {"model": {"storageUri": "gs://other"}},
        {"model": {"runtime": "kserve-mlserver"}},
        {"model": {"args": ["--http_port=9"]}},
        {"model": {"imagePullPolicy": "Always"}},
        {"model": {"ports": [{"containerPort": 9000, "protocol": "TCP"}]}},
    ],
)
def test_a_model_of_another_manager_is_compared_by_the_fields_that_it_sets(changed: Object) -> None:
    observed, _ = serving_model()
    assert predictor_applied(unmanaged(observed))
    assert not predictor_applied(
        unmanaged(with_service(observed, {"spec": {"predictor": changed}}))
    )


@pytest.mark.parametrize(
    "same",
    [
        {"resources": {"requests": {"cpu": "1000m", "memory": "2048Mi"}}},
        {"args": ["--http_port=8080"]},
        {"args": ["--model_name={{.Name}}", "--model_dir=/mnt/models", "--http_port=8080"]},
        {"env": [{"name": "INFERENCE_SERVICE_NAME", "value": "iris"}]},
        {"env": []},
        {"runtime": "kserve-sklearnserver"},
    ],
)
def test_an_equal_value_in_another_notation_is_applied(same: Object) -> None:
    observed, _ = serving_model()
    said = {"spec": {"predictor": {"model": same}}}
    assert predictor_applied(unmanaged(with_service(observed, said)))


OF_THE_RUNTIME = ["tritonserver", "--model-store=/mnt/models"]
USERS = ["--protocol", "grpc-v2", "--model_name={{.Name}}"]
AS_FILLED_IN = ["--protocol", "grpc-v2", "--model_name=iris"]
BEHIND = ["--predictor_host", "iris-predictor.model-serving", "--http_port", "8080"]


@pytest.mark.parametrize("component", ["transformer", "explainer"])
@pytest.mark.parametrize(
    ("actual", "is_made_from_it"),
    [
        ([*AS_FILLED_IN, *BEHIND], True),
        ([*OF_THE_RUNTIME, *AS_FILLED_IN, "--model-control-mode=explicit"], True),
        (AS_FILLED_IN, True),
        ([*BEHIND], False),
        ([], False),
        (["--protocol", *BEHIND, "grpc-v2", "--model_name=iris"], False),
        (["grpc-v2", "--protocol", "--model_name=iris", *BEHIND], False),
        (["--protocol", "v2", "--model_name=iris", *BEHIND], False),
    ],
)
def test_the_asked_arguments_stand_in_one_piece_among_those_that_kserve_adds(
    component: str, actual: list[str], is_made_from_it: bool
) -> None:
    observed, _ = serving()
    asked = {"image": "ready:1", "args": USERS}
    service = with_service(observed, {"spec": {component: {"containers": [asked]}}}).service
    [_, part] = component_specs(service)
    template = {"spec": {"containers": [{**CONTAINER, "args": actual}]}}
    assert is_applied(service, part, template) is is_made_from_it


def test_many_arguments_are_compared_in_a_moment() -> None:
    observed, _ = serving()
    asked = {"image": "ready:1", "args": ["-v"] * 50_000 + ["last"]}
    service = with_service(observed, {"spec": {"transformer": {"containers": [asked]}}}).service
    [_, part] = component_specs(service)
    template = {"spec": {"containers": [{**CONTAINER, "args": ["-v"] * 60_000 + ["-x"] * 60_000}]}}
    with cpu_time() as taken:
        is_applied(service, part, template)
    assert taken.seconds < 5


def test_a_thousand_variables_are_compared_in_a_moment() -> None:
    observed, _ = serving()
    variables = [{"name": f"V{number}", "value": "x"} for number in range(1000)]
    asked = {"image": "ready:1", "env": variables}
    service = with_service(observed, {"spec": {"transformer": {"containers": [asked]}}}).service
    [_, part] = component_specs(service)
    added = [{"name": "V0", "value": "of KServe"}, *reversed(variables)]
    template = {"spec": {"containers": [{**CONTAINER, "env": added}]}}
    with cpu_time() as taken:
        assert is_applied(service, part, template)
    assert taken.seconds < 0.5
    without_one = {"spec": {"containers": [{**CONTAINER, "env": added[:-1]}]}}
    assert not is_applied(service, part, without_one)


def test_a_single_container_has_kserves_name_whatever_it_was_called() -> None:
    observed, _ = serving()
    mine = {"image": "ready:1"}
    assert predictor_applied(edited(observed, {"predictor": {"containers": [mine]}}))


@pytest.mark.parametrize(
    ("asked", "actual"),
    [
        ([{"containerPort": 9000}], [{"containerPort": 9000, "protocol": "TCP"}]),
        (
            [{"containerPort": 9000, "protocol": "TCP"}],
            [{"containerPort": 8080, "name": "h2c"}, {"containerPort": 9000, "name": "user-port"}],
        ),
        ([], [{"containerPort": 8080, "protocol": "TCP"}]),
    ],
)
def test_ports_that_are_completed_or_added_are_applied(
    asked: list[Object], actual: list[Object]
) -> None:
    observed, _ = serving()
    desired = {"image": "ready:1", "ports": asked}
    service = with_service(observed, {"spec": {"transformer": {"containers": [desired]}}}).service
    [_, part] = component_specs(service)
    assert is_applied(service, part, {"spec": {"containers": [{**CONTAINER, "ports": actual}]}})


def test_without_a_rollout_hash_unowned_fields_are_compared_too() -> None:
    observed, _ = serving()
    bare = with_service(unmanaged(observed), {"metadata": {"managedFields": None}})
    assert predictor_applied(bare)
    other = {"predictor": {"containers": [{**CONTAINER, "image": "ready:2"}]}}
    assert not predictor_applied(with_service(bare, {"spec": other}))
