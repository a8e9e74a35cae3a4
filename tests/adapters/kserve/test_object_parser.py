from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given

from server.adapters.kserve.manifests.annotations import AddedFields, rollout_hash_of
from server.adapters.kserve.manifests.manifest import DesiredObject
from server.adapters.kserve.manifests.object_parser import (
    parse_object,
    removed_paths,
    service_of,
)
from server.adapters.kserve.manifests.resource_defaults import KSERVE_DEFAULTS
from server.adapters.kserve.modes import FORMER_NAMES
from server.domain.rollout.status import InferenceServiceStatus, State
from server.domain.service.commands import Action
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceService,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    Resources,
    Scaling,
    SecretKeyRef,
)
from server.domain.service.preconditions import PastRequest
from tests.adapters.kserve.storing import applied, edited, stored
from tests.adapters.kserve.test_manifest import CONTAINER, KEY, MODEL, PROBE, desired_objects
from tests.cpu_time import cpu_time

UDP = {"containerPort": 8080, "protocol": "UDP"}
REFERRED = {"name": "Z", "value": "1"}
REFERRING = {"name": "A", "value": "$(Z)/x"}
STATUS = InferenceServiceStatus(State.READY, "it serves")


def read(obj: Mapping[str, Any]) -> InferenceService:
    return service_of(obj, STATUS)


def theirs(predictor: dict[str, Any], **beside: Any) -> dict[str, Any]:
    metadata = {"namespace": "model-serving", "name": "iris"}
    return stored({"metadata": metadata, "spec": {"predictor": predictor, **beside}})


@given(desired_objects)
def test_a_written_spec_is_parsed_back(desired: DesiredObject) -> None:
    service = read(applied(desired))
    assert service.spec == desired.spec
    assert service.labels == desired.labels
    assert service.annotations == desired.annotations
    assert service.status == STATUS
    assert not service.unmanaged


def test_a_model_whose_fields_are_all_empty_is_parsed() -> None:
    service = read(theirs({"model": {"modelFormat": {"name": ""}}}))
    assert service.spec
    assert service.spec.predictor == ModelPredictor(ModelFormat(""), "")


@given(desired_objects)
def test_a_mode_by_its_former_name_is_read_back_by_the_present_one(desired: DesiredObject) -> None:
    assert read(applied(replace(desired, mode_names=FORMER_NAMES))).spec == desired.spec


@given(desired_objects)
def test_it_is_read_back_without_managed_fields_too(desired: DesiredObject) -> None:
    obj = applied(desired)
    del obj["metadata"]["managedFields"]
    obj["metadata"]["annotations"].pop("modelFormat", None)
    mode = desired.spec.deployment_mode or "Standard"
    assert read(obj).spec == replace(desired.spec, deployment_mode=mode)


def test_selectors_see_all_labels_and_readers_the_users() -> None:
    service = read(applied(DesiredObject(KEY, MODEL, {"team": "a"})))
    assert service.labels == {"team": "a"}
    assert service.selectable_labels == {
        "team": "a",
        "app.kubernetes.io/managed-by": "modelservice",
    }


def test_labels_of_others_on_our_service_are_selectable_and_not_shown() -> None:
    obj = edited(
        applied(DesiredObject(KEY, MODEL, {"team": "a"})),
        "kubectl",
        {"metadata": {"labels": {"x": "y"}}},
    )
    service = read(obj)
    assert service.labels == {"team": "a"}
    assert service.selectable_labels["x"] == "y"


def test_the_annotation_that_stops_a_service_is_shown_whoever_wrote_it() -> None:
    ours = applied(DesiredObject(KEY, MODEL, {}, {"note": "7"}))
    change = {"metadata": {"annotations": {"serving.kserve.io/stop": "True", "theirs": "x"}}}
    service = read(edited(ours, "kubectl-annotate", change))
    assert service.annotations == {"note": "7", "serving.kserve.io/stop": "True"}


def test_an_edit_by_others_is_read_as_it_is() -> None:
    obj = edited(
        applied(DesiredObject(KEY, MODEL)),
        "kubectl-edit",
        {"spec": {"predictor": {"minReplicas": 2}}},
    )
    assert read(obj).spec == replace(MODEL, scaling=Scaling(min_replicas=2))


def test_resources_that_we_added_are_shown_once_others_change_them() -> None:
    obj = applied(DesiredObject(KEY, CONTAINER))
    assert read(obj).spec == CONTAINER
    obj["spec"]["predictor"]["containers"][0]["resources"]["limits"]["cpu"] = "3"
    assert read(obj).spec == replace(CONTAINER, resources=Resources({}, {"cpu": "3"}))


def test_a_probe_of_others_is_unsupported() -> None:
    probe = {"httpGet": {"path": "/", "port": 8080}}
    service = read(theirs({"model": {"modelFormat": {"name": "m"}, "readinessProbe": probe}}))
    assert service.status.message.endswith(
        "not part of `spec`: spec.predictor.model.readinessProbe"
    )


def test_a_service_of_kubectl_is_unmanaged_and_read_from_its_own_fields() -> None:
    env = [
        {"name": "A", "value": "1"},
        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
    ]
    model = {"modelFormat": {"name": "sklearn"}, "storageUri": "gs://b/m", "env": env}
    service = read(theirs({"model": model | {"resources": {"limits": {"cpu": 2}}}}))
    assert service.unmanaged
    assert service.spec == InferenceServiceSpec(
        ModelPredictor(ModelFormat("sklearn"), "gs://b/m"),
        env={"A": "1"},
        secret_env={"S": SecretKeyRef("hub", "token")},
        resources=Resources({}, {"cpu": "2"}),
    )
    assert service.status == STATUS


def test_annotations_of_kserves_webhook_and_of_kubectl_are_not_the_users() -> None:
    note = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "team.example.com/x": "y"}
    metadata = {"namespace": "n", "name": "iris", "annotations": note, "labels": {"a": "b"}}
    service = read(
        stored(
            {
                "metadata": metadata,
                "spec": theirs({"model": {"modelFormat": {"name": "m"}}})["spec"],
            }
        )
    )
    assert service.annotations == {"team.example.com/x": "y"}
    assert service.labels == {"a": "b"}


@pytest.mark.parametrize(
    ("obj", "paths"),
    [
        (
            theirs({"model": {"modelFormat": {"name": "m"}}, "logger": {"mode": "all"}}),
            ["spec.predictor.logger"],
        ),
        (
            theirs({"model": {"modelFormat": {"name": "m"}}}, transformer={"containers": []}),
            ["spec.transformer"],
        ),
        (
            theirs(
                {
                    "containers": [
                        {"name": "kserve-container", "image": "a", "volumeMounts": [{"name": "v"}]},
                        {"name": "beside", "image": "b"},
                    ]
                }
            ),
            [
                "spec.predictor.containers[beside]",
                "spec.predictor.containers[kserve-container].volumeMounts",
            ],
        ),
        (
            theirs(
                {
                    "model": {
                        "modelFormat": {"name": "m"},
                        "env": [
                            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
                        ],
                    }
                }
            ),
            ["spec.predictor.model.env"],
        ),
        (theirs({"sklearn": {"storageUri": "gs://b/m"}}), ["spec.predictor.sklearn"]),
    ],
    ids=["logger", "transformer", "containers", "downward env", "legacy"],
)
def test_the_message_names_unsupported_fields(obj: dict[str, Any], paths: list[str]) -> None:
    assert read(obj).status.message == f"it serves; not part of `spec`: {', '.join(paths)}"


def test_a_field_with_kubernetes_own_default_is_not_unsupported() -> None:
    token = {"name": "hub", "key": "token"}
    optional = [{"name": "S", "valueFrom": {"secretKeyRef": {**token, "optional": True}}}]
    required = [{"name": "S", "valueFrom": {"secretKeyRef": {**token, "optional": False}}}]
    model = {"modelFormat": {"name": "m"}}
    named = read(theirs({"model": {**model, "env": required, "tty": False}, "hostPID": False}))
    assert named.status == STATUS
    assert read(theirs({"model": {**model, "env": optional}})).status.message.endswith(
        "spec.predictor.model.env[S].valueFrom.secretKeyRef.optional"
    )
    beside = read(theirs({"model": model, "automountServiceAccountToken": True, "hostPID": True}))
    assert "spec.predictor.hostPID" in beside.status.message


@pytest.mark.parametrize(
    ("predictor", "paths"),
    [
        (
            {"model": {"modelFormat": {"name": "m"}}, "automountServiceAccountToken": False},
            "spec.predictor.automountServiceAccountToken",
        ),
        (
            {"containers": [{"name": "kserve-container", "ports": [UDP]}]},
            "spec.predictor.containers[kserve-container].ports[0].protocol",
        ),
        (
            {"containers": [{"name": "kserve-container", "env": [REFERRED, REFERRING]}]},
            "the order of spec.predictor.containers.env",
        ),
        (
            {
                "model": {"modelFormat": {"name": "m"}},
                **{f"field{n:02}": {"x": 1} for n in range(30)},
            },
            ", ".join(f"spec.predictor.field{n:02}" for n in range(30)),
        ),
    ],
    ids=["token", "value", "order", "many"],
)
def test_the_message_names_every_field_that_an_adoption_removes(
    predictor: dict[str, Any], paths: str
) -> None:
    assert read(theirs(predictor)).status.message == f"it serves; not part of `spec`: {paths}"


def test_a_field_that_a_webhook_added_is_not_named() -> None:
    obj = theirs({"model": {"modelFormat": {"name": "m"}}})
    obj["spec"]["predictor"]["automountServiceAccountToken"] = False
    assert read(obj).status == STATUS


def test_a_field_in_a_predictor_that_kserve_moved_is_named_without_an_owner() -> None:
    obj = theirs({"sklearn": {"storageUri": "gs://b/m", "workingDir": "/w"}})
    asked = obj["spec"]["predictor"].pop("sklearn")
    obj["spec"]["predictor"]["model"] = {"modelFormat": {"name": "sklearn"}, **asked}
    assert read(obj).status.message.endswith(": spec.predictor.model.workingDir")


def test_another_managers_label_is_named_because_ours_replaces_it() -> None:
    obj = theirs({"model": {"modelFormat": {"name": "m"}}})
    obj["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "Helm"}
    assert read(obj).status.message.endswith(": metadata.labels.app.kubernetes.io/managed-by")


def test_fields_of_others_in_a_service_of_ours_are_named() -> None:
    logger = {"spec": {"predictor": {"logger": {"mode": "all"}}}}
    service = read(edited(applied(DesiredObject(KEY, MODEL)), "kubectl-edit", logger))
    assert not service.unmanaged
    assert service.status.message == "it serves; not part of `spec`: spec.predictor.logger"


def test_paths_that_a_status_names_already_are_not_named_again() -> None:
    logger = {"spec": {"predictor": {"logger": {"mode": "all"}}}}
    obj = edited(applied(DesiredObject(KEY, MODEL)), "kubectl-edit", logger)
    status = read(obj).status
    assert service_of(obj, status).status == status


def test_removed_paths_are_the_unsupported_fields_that_a_write_removed() -> None:
    before = theirs(
        {
            "model": {"modelFormat": {"name": "m"}, "workingDir": "/w"},
            "automountServiceAccountToken": False,
            "logger": {"mode": "all"},
        }
    )
    after = theirs({"containers": [], "logger": {"mode": "all"}})
    assert removed_paths(parse_object(before), after) == [
        "spec.predictor.automountServiceAccountToken",
        "spec.predictor.model.workingDir",
    ]
    assert removed_paths(parse_object(before), before) == []


def test_a_thousand_removed_variables_are_found_in_milliseconds() -> None:
    def variables(kind: str) -> dict[str, Any]:
        key = {"fieldRef": {"fieldPath": "metadata.name"}}
        env = [{"name": f"{kind}-{n}", "valueFrom": key} for n in range(1000)]
        plain = {"name": "PLAIN", "value": "1"}
        return theirs({"model": {"modelFormat": {"name": "m"}, "env": [plain, *env]}})

    before, after = variables("a"), variables("b")
    assert len(parse_object(before).unsupported) == 1000
    with cpu_time() as taken:
        assert len(removed_paths(parse_object(before), after)) == 1000
    assert taken.seconds < 0.1


def test_a_predictor_of_an_unsupported_kind_has_no_spec() -> None:
    assert read(theirs({"sklearn": {"storageUri": "gs://b/m"}})).spec is None


def test_the_serving_container_of_several_is_parsed() -> None:
    containers = [{"name": "proxy", "image": "a"}, {"name": "kserve-container", "image": "b"}]
    spec = read(theirs({"containers": containers})).spec
    assert spec == InferenceServiceSpec(ContainerPredictor("b"))


def test_the_etag_ignores_status_and_versions() -> None:
    obj = applied(DesiredObject(KEY, MODEL))
    later = copy.deepcopy(obj)
    later["metadata"] |= {"resourceVersion": "99", "generation": 5, "managedFields": []}
    later["status"] = {"url": "http://iris"}
    assert read(obj).etag == read(later).etag


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"uid": "another"}},
        {"metadata": {"labels": {"x": "y"}}},
        {"metadata": {"annotations": {"x": "y"}}},
        {"spec": {"predictor": {"minReplicas": 4}}},
    ],
    ids=["uid", "labels", "annotations", "spec"],
)
def test_the_etag_changes_with(change: dict[str, Any]) -> None:
    obj = applied(DesiredObject(KEY, MODEL))
    assert read(obj).etag != read(edited(obj, "kubectl", change)).etag


def test_request_ids_are_read_only_from_our_own_annotation() -> None:
    first = PastRequest("ci-1", "hash", Action.CREATED, 1)
    obj = applied(DesiredObject(KEY, MODEL, requests=(first,)))
    assert parse_object(obj).requests == (first,)
    assert parse_object(stored(obj)).requests == ()


@pytest.mark.parametrize("note", ['["nonsense"', pytest.param("[" * 100_000, id="deep")])
def test_annotations_that_cannot_be_parsed_are_ignored(note: str) -> None:
    requests = (PastRequest("a", "b", Action.CREATED, 1),)
    obj = applied(DesiredObject(KEY, CONTAINER, requests=requests, added=AddedFields(probe=PROBE)))
    for key in ("requests", "defaults", "probe"):
        obj["spec"]["predictor"]["annotations"][f"modelservice.dev/{key}"] = note
    assert parse_object(obj).requests == ()
    assert read(obj).spec == replace(CONTAINER, resources=KSERVE_DEFAULTS)


@pytest.mark.parametrize(
    ("mode", "keys"),
    [
        ("Standard", {"modelservice.dev/ready-timeout"}),
        ("Knative", {"modelservice.dev/ready-timeout", "serving.knative.dev/progress-deadline"}),
    ],
)
def test_a_ready_timeout_is_an_annotation_of_the_pods_and_in_knative_mode_knatives_as_well(
    mode: str, keys: set[str]
) -> None:
    spec = replace(MODEL, ready_timeout=timedelta(minutes=15))
    obj = applied(DesiredObject(KEY, spec, mode=mode))
    annotations = obj["spec"]["predictor"]["annotations"]
    assert {key for key, text in annotations.items() if text == "900s"} == keys
    parsed = parse_object(obj)
    assert (parsed.spec, parsed.unsupported) == (spec, [])
    plain = applied(DesiredObject(KEY, MODEL, mode=mode))
    assert rollout_hash_of(plain) != rollout_hash_of(obj)


@pytest.mark.parametrize("text", ["", "0s", "900", "15m", "-1s", "604801s", "99999999s", "1.5s"])
def test_a_ready_timeout_of_others_that_cannot_be_is_none(text: str) -> None:
    obj = applied(DesiredObject(KEY, replace(MODEL, ready_timeout=timedelta(minutes=15))))
    obj["spec"]["predictor"]["annotations"]["modelservice.dev/ready-timeout"] = text
    assert parse_object(obj).spec == MODEL
