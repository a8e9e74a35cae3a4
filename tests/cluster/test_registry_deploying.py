"""Registered models, deployed by name by a real server on a real control plane."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from grpc import StatusCode
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import ModelFormat
from modelservice.v1.registry_pb2 import ModelDeployment, ModelVersion

from lab import Cluster
from tests.refusals import refused
from tests.registry.team import DEPLOYED, SUPERSEDED, UNDEPLOYED, Team, eventually, wish

from .asking import MODEL, Action, container, deploy, get, scaling, wait_gone, wait_ready
from .fixtures import StartReplica
from .objects import OBJECT, stored, written, written_once_ready

SERVICE = "fraud-staging"
SKLEARN = ModelFormat(name="sklearn")
VERSIONS = {
    "1": ModelVersion(storage_uri=MODEL, format=SKLEARN),
    "2": ModelVersion(storage_uri=f"{MODEL}/2", format=SKLEARN),
    "3": ModelVersion(image="registry.example/fraud:3"),
}
ID_LABELS = {
    "modelservice.dev/registered-model-id",
    "modelservice.dev/model-version-id",
    "modelservice.dev/environment-id",
    "modelservice.dev/service-id",
}


@pytest.fixture
def team(replica: StartReplica, sqlite_url: str, namespace: str) -> Team:
    """The callers of a server of their own, with a registry; their environment is the namespace."""
    server = replica({"MODELSERVICE_DATABASE_URL": sqlite_url})
    team = Team(server.channel, namespace)
    team.register(VERSIONS)
    return team


def ids(labels: dict[str, str]) -> dict[str, str]:
    return {key: text for key, text in labels.items() if key in ID_LABELS}


def pods(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    """Those that are to stay."""
    items: list[dict[str, Any]] = cluster.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]


def rolled_out(team: Team, answer: pb.DeployResponse) -> ModelDeployment:
    """The record once its rollout is READY and it says so."""
    wait_ready(team.models, team.namespace, SERVICE, answer.rollout_id)
    record_id = answer.service.deployment_id
    eventually(lambda: team.record(record_id).state == DEPLOYED, lambda: team.record(record_id))
    return team.record(record_id)


def edit(cluster: Cluster, namespace: str, change: dict[str, Any]) -> None:
    """As kubectl edit does."""
    path = OBJECT.format(namespace, SERVICE) + "?fieldManager=kubectl-edit"
    cluster.request("PATCH", path, change, "application/merge-patch+json")


def test_a_new_version_rolls_the_same_service_and_the_history_has_both(
    cluster: Cluster, team: Team, namespace: str
) -> None:
    first = team.deploy("", "1")
    assert (first.action, first.service.name) == (Action.ACTION_CREATED, SERVICE)
    one = rolled_out(team, first)
    second = team.deploy("", "2")
    assert (second.action, second.service.uid) == (Action.ACTION_UPDATED, first.service.uid)
    two = rolled_out(team, second)

    assert two.rollout_id == second.rollout_id
    assert stored(cluster, namespace, SERVICE)["spec"]["predictor"]["model"]["storageUri"] == (
        f"{MODEL}/2"
    )
    eventually(lambda: team.record(one.id).state == SUPERSEDED, lambda: team.record(one.id))
    assert [record.version for record in team.records().values()] == ["2", "1"]

    team.undeploy(SERVICE)
    wait_gone(team.models, namespace, SERVICE)
    eventually(lambda: team.record(two.id).state == UNDEPLOYED, lambda: team.record(two.id))
    team.wait_until_agreed()


def test_the_object_and_its_pods_have_the_ids_as_labels(
    cluster: Cluster, team: Team, namespace: str
) -> None:
    first = team.deploy("", "1")
    wait_ready(team.models, namespace, SERVICE, first.rollout_id)
    before = ids(stored(cluster, namespace, SERVICE)["metadata"]["labels"])
    assert before.keys() == ID_LABELS
    second = team.deploy("", "2")
    wait_ready(team.models, namespace, SERVICE, second.rollout_id)
    after = ids(stored(cluster, namespace, SERVICE)["metadata"]["labels"])
    assert {key for key in ID_LABELS if before[key] != after[key]} == {
        "modelservice.dev/model-version-id"
    }
    carried = [ids(pod["metadata"]["labels"]) for pod in pods(cluster, namespace)]
    assert carried
    assert all(labels == after for labels in carried)


def test_a_version_with_an_image_is_a_container_and_names_no_runtime(
    cluster: Cluster, team: Team, namespace: str
) -> None:
    answer = team.deploy("", "3")
    assert answer.service.spec.registered_model.resolved_container.image == VERSIONS["3"].image
    wait_ready(team.models, namespace, SERVICE, answer.rollout_id)
    predictor = stored(cluster, namespace, SERVICE)["spec"]["predictor"]
    assert [each["image"] for each in predictor["containers"]] == [VERSIONS["3"].image]
    assert "model" not in predictor


def test_what_get_gives_given_back_leaves_the_object_untouched(
    cluster: Cluster, team: Team, namespace: str
) -> None:
    first = team.deploy("", "1", labels={"team": "risk"})
    before = written_once_ready(cluster, team.models, namespace, SERVICE, first.rollout_id)
    shown = get(team.models, namespace, SERVICE)
    again = deploy(team.models, namespace, SERVICE, shown.spec, labels=shown.labels)
    assert (again.action, again.rollout_id) == (Action.ACTION_UNCHANGED, first.rollout_id)
    assert again.service.deployment_id == first.service.deployment_id
    assert written(cluster, namespace, SERVICE) == before
    assert list(team.records()) == [first.service.deployment_id]


def test_a_restart_and_a_change_of_scaling_stay_one_deployment(team: Team, namespace: str) -> None:
    first = team.deploy("", "1")
    rolled_out(team, first)
    asked = wish("", "1")
    asked.spec.scaling.CopyFrom(scaling(2))
    scaled = team.models.Deploy(asked)
    assert scaled.action == Action.ACTION_UPDATED
    rolled_out(team, scaled)
    restarted = deploy(team.models, namespace, SERVICE, restart=True)
    assert restarted.action == Action.ACTION_RESTARTED
    wait_ready(team.models, namespace, SERVICE, restarted.rollout_id)
    assert {each.service.deployment_id for each in (first, scaled, restarted)} == set(
        team.records()
    )
    team.wait_until_agreed()


def test_a_plain_deploy_over_it_leaves_nothing_of_the_registry(
    cluster: Cluster, team: Team, namespace: str
) -> None:
    record_id = team.deploy("", "3").service.deployment_id
    bare = deploy(team.models, namespace, SERVICE, container(VERSIONS["3"].image))
    assert (bare.action, bare.service.deployment_id) == (Action.ACTION_UPDATED, "")
    text = json.dumps(written_by_us(stored(cluster, namespace, SERVICE)))
    assert not [key for key in ID_LABELS if key in text]
    assert record_id not in text
    eventually(lambda: team.record(record_id).state == SUPERSEDED, lambda: team.record(record_id))


def written_by_us(obj: dict[str, Any]) -> dict[str, Any]:
    return {"labels": obj["metadata"]["labels"], "spec": obj["spec"]}


def test_an_edit_by_hand_ends_the_deployment_and_the_next_one_brings_the_version_back(
    cluster: Cluster, team: Team, namespace: str
) -> None:
    first = team.deploy("", "1")
    rolled_out(team, first)
    edit(cluster, namespace, {"spec": {"predictor": {"model": {"storageUri": "gs://theirs/m"}}}})
    record_id = first.service.deployment_id
    eventually(lambda: team.record(record_id).state == SUPERSEDED, lambda: team.record(record_id))
    shown = get(team.models, namespace, SERVICE).spec
    assert shown.model.storage_uri == "gs://theirs/m"

    refused(StatusCode.FAILED_PRECONDITION, "FIELD_CONFLICT", team.models.Deploy, wish("", "1"))
    again = team.deploy("", "1", force=True)
    assert again.action == Action.ACTION_UPDATED
    assert again.service.deployment_id not in ("", record_id)
    assert again.service.spec.registered_model.resolved_model.storage_uri == MODEL
    rolled_out(team, again)


def test_a_copy_of_it_is_from_no_registry(cluster: Cluster, team: Team, namespace: str) -> None:
    made = team.deploy("", "1").service
    held = stored(cluster, namespace, SERVICE)
    copied = {
        **{key: held[key] for key in ("apiVersion", "kind")},
        "metadata": {
            **{key: held["metadata"][key] for key in ("namespace", "labels")},
            "name": "a-copy",
        },
        "spec": copy.deepcopy(held["spec"]),
    }
    cluster.apply(copied, field_manager="kubectl")
    names = [service.name for service in team.services()]
    eventually(lambda: len(team.services()) == 2, lambda: names)
    shown = get(team.models, namespace, "a-copy")
    assert shown.unmanaged
    assert shown.spec.HasField("model")
    assert shown.deployment_id == ""
    assert get(team.models, namespace, SERVICE).deployment_id == made.deployment_id


def test_a_dry_run_that_would_take_over_names_what_it_would_deploy(
    cluster: Cluster, team: Team, namespace: str
) -> None:
    theirs = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"namespace": namespace, "name": "theirs"},
        "spec": {"predictor": {"model": {"modelFormat": {"name": "lab-slow"}}}},
    }
    cluster.apply(theirs, field_manager="kubectl")
    eventually(lambda: len(team.services()) == 1, team.services)
    would = team.deploy("theirs", "1", force=True, validate_only=True)
    assert would.action == Action.ACTION_UPDATED
    assert would.service.spec.registered_model.version == "1"
    assert would.service.deployment_id == ""
    assert team.records() == {}
