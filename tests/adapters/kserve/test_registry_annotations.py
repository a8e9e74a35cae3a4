"""A service that was deployed from the registry has its names, while it runs that model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from server.adapters.kserve.apply.adoption import as_owned
from server.adapters.kserve.apply.kserve_config import KServeConfig
from server.adapters.kserve.apply.write_plan import Plan, plan_deploy
from server.adapters.kserve.manifests.annotations import AddedFields, rollout_hash_of
from server.adapters.kserve.manifests.manifest import DesiredObject
from server.adapters.kserve.manifests.object_parser import parse_object, service_of
from server.adapters.kserve.names import FIELD_MANAGER
from server.domain.rollout.status import InferenceServiceStatus, State
from server.domain.service.commands import Action, Deploy, Provenance
from server.domain.service.inference_service import (
    InferenceService,
    InferenceServiceSpec,
    RegisteredModelPredictor,
    Scaling,
)
from tests.adapters.kserve.storing import applied, edited, rendered, stored
from tests.adapters.kserve.test_manifest import CONTAINER, KEY, MODEL, desired_objects

PROVENANCE = Provenance("model-1", "version-1", "environment-1", "service-1", "deployment-1")
LATER = replace(PROVENANCE, deployment_id="deployment-2")
NAMES_ANNOTATION = "modelservice.dev/registered-model"
ID_ANNOTATION = "modelservice.dev/deployment-id"


def named(spec: InferenceServiceSpec, version: str = "1") -> InferenceServiceSpec:
    """The spec, as a version of a registered model."""
    predictor = RegisteredModelPredictor("fruit", "iris", "staging", version, spec.serving)
    return replace(spec, predictor=predictor)


def registered(desired: DesiredObject) -> DesiredObject:
    origin, deployment_id = PROVENANCE.labels, PROVENANCE.deployment_id
    return replace(desired, spec=named(desired.spec), origin=origin, deployment_id=deployment_id)


DEPLOYED = registered(DesiredObject(KEY, MODEL, {"team": "a"}))
ANOTHER_MODEL = {"spec": {"predictor": {"model": {"storageUri": "gs://bucket/another"}}}}


def read(obj: Mapping[str, Any]) -> InferenceService:
    return service_of(obj, InferenceServiceStatus(State.READY))


def annotation_changed(key: str, text: str | None) -> dict[str, Any]:
    change = {"spec": {"predictor": {"annotations": {key: text}}}}
    return edited(applied(DEPLOYED), "kubectl-edit", change)


def planned(current: Mapping[str, Any], spec: InferenceServiceSpec | None, **asked: Any) -> Plan:
    labels = {"team": "a"} if spec else {}
    deploy = Deploy(KEY, spec, labels, **asked)
    plan = plan_deploy(deploy, parse_object(current), KServeConfig(), "never-used-before")
    assert isinstance(plan, Plan)
    return plan


def after(plan: Plan) -> InferenceService:
    """The service once the plan was carried out on a new one."""
    return read(stored(plan.manifest, FIELD_MANAGER, "Apply"))


def labels_of(plan: Plan) -> Mapping[str, str]:
    found: Mapping[str, str] = plan.manifest["metadata"]["labels"]
    return found


@given(desired_objects)
def test_registry_names_and_deployment_id_are_parsed_back(desired: DesiredObject) -> None:
    service = read(applied(registered(desired)))
    assert service.spec == named(desired.spec)
    assert service.deployment_id == "deployment-1"
    assert service.labels == desired.labels
    assert service.selectable_labels.items() >= PROVENANCE.labels.items()


def test_a_plain_service_has_neither() -> None:
    service = read(applied(DesiredObject(KEY, MODEL)))
    assert (service.spec, service.deployment_id) == (MODEL, "")


def test_the_rollout_hash_has_the_registrys_ids_and_not_the_deployment() -> None:
    def rollout_hash(desired: DesiredObject) -> str:
        return rollout_hash_of(rendered(desired))

    other = replace(PROVENANCE, version_id="version-2").labels
    assert rollout_hash(replace(DEPLOYED, deployment_id="deployment-2")) == rollout_hash(DEPLOYED)
    assert rollout_hash(replace(DEPLOYED, origin=other)) != rollout_hash(DEPLOYED)
    assert rollout_hash(replace(DEPLOYED, origin={})) != rollout_hash(DEPLOYED)


def test_a_copy_that_others_applied_is_not_from_the_registry() -> None:
    service = read(stored(applied(DEPLOYED)))
    assert service.spec is not None
    assert (service.spec.predictor, service.deployment_id) == (MODEL.predictor, "")


def test_our_annotations_are_ignored_if_others_copied_them_onto_a_service_of_ours() -> None:
    annotations = applied(DEPLOYED)["spec"]["predictor"]["annotations"]
    copied = {key: annotations[key] for key in (NAMES_ANNOTATION, ID_ANNOTATION)}
    change = {"spec": {"predictor": {"annotations": copied}}}
    service = read(edited(applied(DesiredObject(KEY, MODEL)), "kubectl-edit", change))
    assert (service.spec, service.deployment_id) == (MODEL, "")


def test_registry_names_that_others_wrote_are_ignored() -> None:
    other = applied(replace(DEPLOYED, spec=named(MODEL, "2")))
    forged = other["spec"]["predictor"]["annotations"][NAMES_ANNOTATION]
    assert read(annotation_changed(NAMES_ANNOTATION, forged)).spec == MODEL


def test_a_deployment_id_that_others_wrote_is_ignored() -> None:
    assert read(annotation_changed(ID_ANNOTATION, "deployment-9")).deployment_id == ""


def test_a_model_that_others_changed_has_no_registry_names() -> None:
    service = read(edited(applied(DEPLOYED), "kubectl-edit", ANOTHER_MODEL))
    assert service.spec is not None
    assert service.spec.predictor == replace(MODEL.serving, storage_uri="gs://bucket/another")


def test_an_edit_of_a_field_that_is_not_the_versions_keeps_the_names() -> None:
    change = {"spec": {"predictor": {"serviceAccountName": "another"}}}
    service = read(edited(applied(DEPLOYED), "kubectl-edit", change))
    assert service.spec == replace(named(MODEL), service_account="another")
    assert service.deployment_id == "deployment-1"


DEEP = pytest.param("[" * 100_000, id="deep")


@pytest.mark.parametrize("text", ["[", "[1]", "7", '{"project": "fruit"}', "{}", DEEP])
def test_registry_names_that_cannot_be_parsed_are_ignored(text: str) -> None:
    obj = applied(DEPLOYED)
    obj["spec"]["predictor"]["annotations"][NAMES_ANNOTATION] = text
    assert read(obj).spec == MODEL


@given(desired_objects)
def test_deployed_again_nothing_is_written_and_the_deployment_stays(desired: DesiredObject) -> None:
    desired = registered(desired)
    deploy = Deploy(
        desired.key, desired.spec, desired.labels, desired.annotations, provenance=LATER
    )
    current = parse_object(applied(replace(desired, added=AddedFields())))
    plan = plan_deploy(deploy, current, KServeConfig(), "fresh")
    assert isinstance(plan, Plan)
    again = rendered(replace(desired, added=AddedFields()))
    assert plan.manifest["spec"] == again["spec"]
    assert labels_of(plan) == again["metadata"]["labels"]


def test_a_change_of_scaling_alone_keeps_the_deployment_and_rolls_no_pod() -> None:
    current = applied(DEPLOYED)
    scaled = replace(named(MODEL), scaling=Scaling(2, 4))
    plan = planned(current, scaled, provenance=LATER)
    assert (plan.action, after(plan).deployment_id) == (Action.UPDATED, "deployment-1")
    assert rollout_hash_of(plan.manifest) == rollout_hash_of(current)
    assert labels_of(plan) == current["metadata"]["labels"]


@pytest.mark.parametrize("spec", [None, named(MODEL)], ids=["bare", "whole"])
def test_a_restart_keeps_the_deployment(spec: InferenceServiceSpec | None) -> None:
    current = applied(DEPLOYED)
    provenance = LATER if spec else None
    plan = planned(current, spec, provenance=provenance, restart=True)
    assert plan.action is Action.RESTARTED
    assert rollout_hash_of(plan.manifest) != rollout_hash_of(current)
    assert (after(plan).spec, after(plan).deployment_id) == (named(MODEL), "deployment-1")
    assert labels_of(plan) == current["metadata"]["labels"]


def test_another_version_is_another_deployment() -> None:
    provenance = replace(LATER, version_id="version-2")
    plan = planned(applied(DEPLOYED), named(CONTAINER, "2"), provenance=provenance)
    assert (after(plan).spec, after(plan).deployment_id) == (named(CONTAINER, "2"), "deployment-2")
    assert labels_of(plan)["modelservice.dev/model-version-id"] == "version-2"


def test_a_plain_deploy_over_it_leaves_nothing_of_the_registry() -> None:
    plan = planned(applied(DEPLOYED), MODEL)
    assert (after(plan).spec, after(plan).deployment_id) == (MODEL, "")
    assert rollout_hash_of(plan.manifest) != rollout_hash_of(applied(DEPLOYED))
    written = str(plan.manifest)
    assert not [text for text in ("deployment-1", "version-1", NAMES_ANNOTATION) if text in written]


@pytest.mark.parametrize(
    "spoilt",
    [
        edited(applied(DEPLOYED), "kubectl-edit", ANOTHER_MODEL),
        annotation_changed(ID_ANNOTATION, "deployment-9"),
    ],
    ids=["edited", "another deployment"],
)
def test_deployed_again_over_an_edit_it_is_another_deployment(spoilt: dict[str, Any]) -> None:
    plan = planned(spoilt, named(MODEL), provenance=LATER)
    assert after(plan).deployment_id == "deployment-2"
    assert rollout_hash_of(plan.manifest) != rollout_hash_of(spoilt)


def test_a_deployment_that_was_removed_from_it_is_replaced() -> None:
    current = applied(replace(DEPLOYED, deployment_id=""))
    plan = planned(current, named(MODEL), provenance=LATER)
    assert (plan.action, after(plan).deployment_id) == (Action.UPDATED, "deployment-2")
    assert rollout_hash_of(plan.manifest) != rollout_hash_of(current)


def test_a_bare_restart_of_a_model_that_others_changed_is_not_from_the_registry() -> None:
    plan = planned(edited(applied(DEPLOYED), "kubectl-edit", ANOTHER_MODEL), None, restart=True)
    assert after(plan).deployment_id == ""
    assert not labels_of(plan).keys() & PROVENANCE.labels.keys()


def test_a_dry_run_of_an_adoption_has_the_registry_names() -> None:
    desired = replace(DEPLOYED, deployment_id="")
    manifest = rendered(desired)
    answer = copy.deepcopy(stored(manifest))
    assert read(as_owned(answer, manifest)).spec == named(MODEL)
