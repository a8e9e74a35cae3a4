from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from server.adapters.kserve.apply.adoption import adopted_managed_fields
from server.adapters.kserve.apply.kserve_config import KServeConfig
from server.adapters.kserve.apply.write_plan import Plan, plan_deploy
from server.adapters.kserve.manifests.annotations import (
    AddedFields,
    rollout_hash_of,
)
from server.adapters.kserve.manifests.manifest import DesiredObject
from server.adapters.kserve.manifests.object_parser import (
    PENDING_STATUS,
    parse_object,
    service_of,
)
from server.adapters.kserve.modes import FORMER_NAMES, PRESENT_NAMES
from server.adapters.kserve.names import (
    DEPLOYED_BY_ANNOTATION,
    FIELD_MANAGER,
    MODE_ANNOTATION,
    REQUESTS_ANNOTATION,
    ROLLBACK_ANNOTATION,
    ROLLOUT_ANNOTATION,
)
from server.adapters.kserve.releases import KSERVE_0_15, KSERVE_0_16, Release
from server.adapters.kserve.revisions.rollout_record import record_of
from server.domain.errors import FieldInvalid, ModeImmutable, UnsupportedByCluster
from server.domain.service.commands import STOP_ANNOTATION, Action, Deploy
from server.domain.service.inference_service import (
    RECREATE,
    InferenceServiceSpec,
    Resources,
    RolloutStrategy,
    Scaling,
)
from server.domain.service.preconditions import PastRequest
from tests.adapters.kserve.storing import applied, edited, rendered, stored
from tests.adapters.kserve.test_manifest import CONTAINER, KEY, MODEL, PROBE, desired_objects

FRESH = "never-used-before"
OTHER_PROBE = {"httpGet": {"path": "/v1/models/iris", "port": 8080}, "periodSeconds": 5}
SCALED = replace(MODEL, scaling=Scaling(2, 4))
RECREATING = replace(MODEL, rollout_strategy=RolloutStrategy(RECREATE))


def planned(deploy: Deploy, current: Mapping[str, Any] | None, **config: Any) -> Plan:
    parsed = parse_object(current) if current else None
    plan = plan_deploy(deploy, parsed, KServeConfig(**config), FRESH)
    assert isinstance(plan, Plan)
    return plan


def after(plan: Plan) -> dict[str, Any]:
    """The object once the plan was carried out on a new one."""
    manifest = {k: v for k, v in plan.manifest.items() if k in ("metadata", "spec")}
    return stored(manifest, FIELD_MANAGER, "Apply")


def noted(plan: Plan) -> list[tuple[str, Action, int]]:
    return [(r.request_id, r.action, r.generation) for r in parse_object(after(plan)).requests]


def deployed_by(plan: Plan) -> str:
    return parse_object(after(plan)).service(PENDING_STATUS).deployed_by


def test_the_user_is_kept_where_no_pod_is_replaced_and_only_there() -> None:
    created = planned(Deploy(KEY, MODEL, user="ann"), None)
    assert deployed_by(created) == "ann"
    current = after(created)
    same = planned(Deploy(KEY, MODEL, user="bob"), current)
    scaled = planned(Deploy(KEY, SCALED, user="bob"), current)
    for plan in (same, scaled):
        annotations = plan.manifest["spec"]["predictor"]["annotations"]
        assert annotations == current["spec"]["predictor"]["annotations"]
    assert deployed_by(planned(Deploy(KEY, CONTAINER, user="bob"), current)) == "bob"
    assert deployed_by(planned(Deploy(KEY, MODEL, restart=True, user="bob"), current)) == "bob"


def test_without_a_user_no_annotation_is_written() -> None:
    plan = planned(Deploy(KEY, MODEL), None)
    assert list(plan.manifest["spec"]["predictor"]["annotations"]) == [ROLLOUT_ANNOTATION]


def test_a_retry_of_a_restart_by_another_user_replaces_no_pod() -> None:
    current = after(planned(Deploy(KEY, MODEL, user="ann"), None))
    restart = Deploy(KEY, MODEL, restart=True, request_id="job-7", user="bob")
    restarted = after(planned(restart, current))
    del restarted["spec"]["predictor"]["annotations"][REQUESTS_ANNOTATION]
    again = planned(replace(restart, user="carol"), restarted)
    assert not again.replaces_pods
    assert deployed_by(again) == "bob"


def test_a_user_that_others_wrote_is_not_shown() -> None:
    current = after(planned(Deploy(KEY, MODEL, user="ann"), None))
    texts = {DEPLOYED_BY_ANNOTATION: "bob"}
    changed = edited(current, "kubectl-edit", {"spec": {"predictor": {"annotations": texts}}})
    assert parse_object(changed).service(PENDING_STATUS).deployed_by == ""


def test_a_creation_demands_that_there_is_none() -> None:
    plan = planned(Deploy(KEY, MODEL, request_id="ci-1"), None)
    assert plan.action is Action.CREATED
    assert plan.manifest["metadata"]["resourceVersion"] == "0"
    assert noted(plan) == [("ci-1", Action.CREATED, 1)]


def test_an_update_demands_the_very_object_that_it_was_planned_on() -> None:
    current = applied(DesiredObject(KEY, MODEL))
    metadata = planned(Deploy(KEY, CONTAINER), current).manifest["metadata"]
    assert metadata["uid"] == current["metadata"]["uid"]
    assert metadata["resourceVersion"] == current["metadata"]["resourceVersion"]


@given(desired_objects)
def test_the_same_deploy_again_is_the_same_manifest(desired: DesiredObject) -> None:
    desired = replace(
        desired, requests=(PastRequest("ci-1", "x", Action.CREATED, 1),), restart="once"
    )
    deploy = Deploy(
        desired.key, desired.spec, desired.labels, desired.annotations, request_id="ci-2"
    )
    plan = planned(deploy, applied(desired))
    again = {
        k: v for k, v in plan.manifest["metadata"].items() if k not in ("uid", "resourceVersion")
    }
    assert {**plan.manifest, "metadata": again} == rendered(desired)


def test_a_write_that_replaces_the_pods_remembers_its_request() -> None:
    current = applied(DesiredObject(KEY, MODEL))
    plan = planned(Deploy(KEY, CONTAINER, request_id="ci-1"), current)
    assert noted(plan) == [("ci-1", Action.UPDATED, 2)]


@pytest.mark.parametrize("spec", [SCALED, RECREATING], ids=["scaling", "strategy"])
def test_a_change_that_reaches_no_pod_keeps_them_and_remembers_nothing(
    spec: InferenceServiceSpec,
) -> None:
    current = applied(DesiredObject(KEY, MODEL))
    plan = planned(Deploy(KEY, spec, request_id="ci-1"), current)
    assert plan.action is Action.UPDATED
    assert rollout_hash_of(plan.manifest) == rollout_hash_of(current)
    assert noted(plan) == []


def test_a_restart_stamps_its_request_id_so_that_a_retry_changes_nothing() -> None:
    current = applied(DesiredObject(KEY, MODEL))
    restart = Deploy(KEY, None, restart=True, request_id="ci-1")
    plan = planned(restart, current)
    assert plan.action is Action.RESTARTED
    assert rollout_hash_of(plan.manifest) != rollout_hash_of(current)
    assert noted(plan) == [("ci-1", Action.RESTARTED, 2)]
    forgotten = applied(DesiredObject(KEY, MODEL, restart="ci-1"))
    assert rollout_hash_of(planned(restart, forgotten).manifest) == rollout_hash_of(forgotten)


def test_a_restart_without_a_request_id_always_restarts() -> None:
    current = applied(DesiredObject(KEY, MODEL))
    plan = planned(Deploy(KEY, None, restart=True), current)
    assert parse_object(after(plan)).our_annotations.restart == FRESH


@pytest.mark.parametrize("spec", [CONTAINER, SCALED], ids=["pods", "scaling"])
def test_a_restart_that_changes_something_else_too_is_an_update(spec: Any) -> None:
    plan = planned(Deploy(KEY, spec, restart=True), applied(DesiredObject(KEY, MODEL)))
    assert plan.action is Action.UPDATED


def test_a_bare_restart_keeps_spec_labels_and_annotations() -> None:
    current = applied(DesiredObject(KEY, SCALED, {"team": "a"}, {"note": "x"}))
    plan = planned(Deploy(KEY, None, restart=True), current)
    desired = DesiredObject(KEY, SCALED, {"team": "a"}, {"note": "x"}, restart=FRESH)
    assert plan.manifest["spec"] == rendered(desired)["spec"]
    assert plan.manifest["metadata"]["labels"] == current["metadata"]["labels"]
    assert plan.manifest["metadata"]["annotations"] == {"note": "x"}


def test_later_writes_carry_the_restart_over() -> None:
    current = applied(DesiredObject(KEY, MODEL, restart="ci-1"))
    plan = planned(Deploy(KEY, CONTAINER), current)
    assert parse_object(after(plan)).our_annotations.restart == "ci-1"


def test_a_label_that_others_changed_comes_back_with_a_new_rollout() -> None:
    current = applied(DesiredObject(KEY, MODEL, {"team": "a"}))
    relabelled = edited(current, "kubectl", {"metadata": {"labels": {"team": "b"}}})
    plan = planned(Deploy(KEY, MODEL, {"team": "a"}), relabelled)
    assert rollout_hash_of(plan.manifest) != rollout_hash_of(current)
    assert plan.action is Action.UPDATED


THEIR_ENV = [{"name": "B", "value": "2"}, {"name": "A", "value": "9"}]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"labels": {"team": "zz"}}},
        {"metadata": {"annotations": {"note": "y"}}},
        {"spec": {"predictor": {"model": {"storageUri": "gs://theirs/model"}}}},
        {"spec": {"predictor": {"model": {"env": THEIR_ENV}}}},
        {"spec": {"predictor": {"nodeSelector": {"gpu": "yes"}}}},
        {"spec": {"predictor": {"minReplicas": 3}}},
    ],
    ids=["label", "annotation", "model", "variables", "nodes", "scaling"],
)
def test_a_spec_read_after_an_edit_by_others_replaces_no_pod_when_deployed(
    change: dict[str, Any], force: bool
) -> None:
    spec = replace(MODEL, env={"A": "1", "B": "2"})
    current = applied(
        DesiredObject(KEY, spec, {"team": "a"}, {"note": "x"}, added=AddedFields(probe=PROBE))
    )
    now = edited(current, "kubectl", change)
    got = service_of(now, PENDING_STATUS)
    plan = planned(Deploy(KEY, got.spec, got.labels, got.annotations, force=force), now)
    assert plan.unchanged or rollout_hash_of(plan.manifest) == rollout_hash_of(current)
    assert not plan.wants_probe
    assert not plan.adopts


BESIDE = [
    {"annotations": {"their": "note"}},
    {"canaryTrafficPercent": 20},
    {"model": {"livenessProbe": {"tcpSocket": {"port": 1}}}},
    {"model": {"env": [{"name": "P", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}},
]


@pytest.mark.parametrize("beside", BESIDE, ids=["annotation", "traffic", "probe", "variable"])
def test_fields_that_others_added_beside_an_edit_replace_no_pod_while_they_stay(
    beside: dict[str, Any],
) -> None:
    spec = replace(MODEL, env={"A": "1", "B": "2"})
    current = applied(DesiredObject(KEY, spec, added=AddedFields(probe=PROBE)))
    theirs = [*THEIR_ENV, *beside.get("model", {}).get("env", [])]
    now = edited(current, "kubectl", {"spec": {"predictor": beside}})
    now = edited(now, "kubectl", {"spec": {"predictor": {"model": {"env": theirs}}}})
    got = service_of(now, PENDING_STATUS)
    assert planned(Deploy(KEY, got.spec), now).unchanged
    assert not planned(Deploy(KEY, got.spec, force=True), now).unchanged


def test_an_unsupported_field_in_a_list_that_is_written_whole_is_a_change() -> None:
    [container] = applied(DesiredObject(KEY, CONTAINER))["spec"]["predictor"]["containers"]
    mounted = {**container, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    change = {"spec": {"predictor": {"containers": [mounted]}}}
    now = edited(applied(DesiredObject(KEY, CONTAINER)), "kubectl", change)
    got = service_of(now, PENDING_STATUS)
    assert not planned(Deploy(KEY, got.spec), now).unchanged


def test_the_spec_from_before_an_edit_is_a_new_rollout() -> None:
    current = applied(DesiredObject(KEY, MODEL))
    moved = edited(
        current, "kubectl", {"spec": {"predictor": {"model": {"storageUri": "gs://theirs/model"}}}}
    )
    # Given back, it is ours and theirs.
    moved["metadata"]["managedFields"].append(current["metadata"]["managedFields"][0])
    plan = planned(Deploy(KEY, MODEL, force=True), moved)
    assert rollout_hash_of(plan.manifest) != rollout_hash_of(current)
    assert plan.action is Action.UPDATED


def test_a_field_that_force_removes_makes_a_new_rollout() -> None:
    logger = {"spec": {"predictor": {"logger": {"mode": "all"}}}}
    current = edited(applied(DesiredObject(KEY, MODEL)), "kubectl", logger)
    kept, forced = (planned(Deploy(KEY, MODEL, force=force), current) for force in (False, True))
    assert (
        rollout_hash_of(kept.manifest)
        == rollout_hash_of(current)
        != rollout_hash_of(forced.manifest)
    )
    assert (kept.adopts, forced.adopts) == (False, True)


def test_traffic_that_others_pinned_is_taken_back_without_replacing_pods() -> None:
    pin = {"spec": {"predictor": {"canaryTrafficPercent": 0}}}
    current = edited(applied(DesiredObject(KEY, MODEL)), "kubectl", pin)
    plan = planned(Deploy(KEY, MODEL, force=True), current)
    assert plan.adopts
    assert rollout_hash_of(plan.manifest) == rollout_hash_of(current)
    moved = edited(current, "kubectl", {"spec": {"predictor": {"model": {"storageUri": "x://y"}}}})
    spec = service_of(moved, PENDING_STATUS).spec
    assert rollout_hash_of(
        planned(Deploy(KEY, spec, force=True), moved).manifest
    ) != rollout_hash_of(current)


def test_scaling_that_others_changed_comes_back_without_replacing_pods() -> None:
    current = applied(DesiredObject(KEY, SCALED))
    scaled = edited(current, "kubectl", {"spec": {"predictor": {"minReplicas": 3}}})
    plan = planned(Deploy(KEY, SCALED, force=True), scaled)
    assert rollout_hash_of(plan.manifest) == rollout_hash_of(current)


def with_readiness(
    current: Mapping[str, Any], manager: str, probe: Mapping[str, Any]
) -> dict[str, Any]:
    return edited(current, manager, {"spec": {"predictor": {"model": {"readinessProbe": probe}}}})


def probe_in(plan: Plan) -> Any:
    return plan.manifest["spec"]["predictor"]["model"].get("readinessProbe")


@given(desired_objects)
def test_while_nothing_else_changes_the_probe_stays_and_no_runtime_is_asked(
    desired: DesiredObject,
) -> None:
    current = applied(desired)
    plan = planned(Deploy(desired.key, desired.spec, desired.labels, desired.annotations), current)
    assert rollout_hash_of(plan.manifest) == rollout_hash_of(current)
    assert not plan.wants_probe


def test_a_change_of_scaling_alone_keeps_the_probe() -> None:
    plan = planned(
        Deploy(KEY, SCALED), applied(DesiredObject(KEY, MODEL, added=AddedFields(probe=PROBE)))
    )
    assert not plan.wants_probe
    assert probe_in(plan) == PROBE


@pytest.mark.parametrize("held", [None, PROBE], ids=["without", "with"])
@pytest.mark.parametrize(
    "deploy",
    [
        Deploy(KEY, replace(MODEL, env={"A": "1"})),
        Deploy(KEY, MODEL, {"team": "a"}),
        Deploy(KEY, None, restart=True),
        Deploy(KEY, CONTAINER),
    ],
    ids=["spec", "labels", "restart", "kind"],
)
def test_a_write_that_replaces_the_pods_settles_the_probe_anew(deploy: Deploy, held: Any) -> None:
    plan = planned(deploy, applied(DesiredObject(KEY, MODEL, added=AddedFields(probe=held))))
    assert plan.wants_probe
    assert "readinessProbe" not in str(plan.manifest)
    probed = plan.with_added(AddedFields(probe=OTHER_PROBE))
    assert str(OTHER_PROBE) in str(probed.manifest)
    assert probed.manifest["metadata"] == plan.manifest["metadata"]
    assert parse_object(after(probed)).our_annotations.added.probe == OTHER_PROBE


LARGE = replace(MODEL, resources=Resources({"memory": "10Gi"}))
LIMIT = Resources({}, {"memory": "10Gi"})


def test_while_the_pods_stay_so_do_the_resources_that_were_added() -> None:
    current = applied(DesiredObject(KEY, LARGE, added=AddedFields(LIMIT)))
    for again in (LARGE, replace(LARGE, scaling=Scaling(2, 3))):
        plan = planned(Deploy(KEY, again), current)
        assert rollout_hash_of(plan.manifest) == rollout_hash_of(current)
        assert not plan.replaces_pods
        assert plan.manifest["spec"]["predictor"]["model"]["resources"] == {
            "requests": {"memory": "10Gi"},
            "limits": {"memory": "10Gi"},
        }


def test_resources_that_were_added_are_settled_anew_with_new_pods() -> None:
    current = applied(DesiredObject(KEY, LARGE, added=AddedFields(LIMIT)))
    asked = replace(LARGE, resources=Resources({"memory": "10Gi"}, {"memory": "10Gi"}))
    for deploy in (Deploy(KEY, replace(LARGE, env={"A": "1"})), Deploy(KEY, asked)):
        plan = planned(deploy, current)
        assert plan.replaces_pods
        assert parse_object(after(plan)).our_annotations.added.resources == Resources()
    added = planned(Deploy(KEY, LARGE), None).with_added(AddedFields(LIMIT))
    assert parse_object(after(added)).our_annotations.added.resources == LIMIT


def test_a_new_service_gets_a_probe() -> None:
    plan = planned(Deploy(KEY, MODEL), None)
    assert plan.wants_probe
    probed = plan.with_added(AddedFields(probe=PROBE))
    assert probed.manifest["metadata"]["resourceVersion"] == "0"
    assert probe_in(probed) == PROBE


def test_a_probe_of_others_is_left_alone() -> None:
    current = with_readiness(
        applied(DesiredObject(KEY, MODEL)), "kubectl", {"tcpSocket": {"port": 1}}
    )
    changed = replace(MODEL, env={"A": "1"})
    assert not planned(Deploy(KEY, changed), current).wants_probe
    assert planned(Deploy(KEY, changed, force=True), current).wants_probe


def test_a_probe_that_was_adopted_before_the_apply_is_ours() -> None:
    current = theirs({"model": {"modelFormat": {"name": "m"}, "readinessProbe": {"exec": {}}}})
    current["metadata"]["managedFields"] = adopted_managed_fields(current)
    assert planned(Deploy(KEY, MODEL, force=True), current).wants_probe


def test_a_bare_restart_adds_no_probe_to_a_service_of_others() -> None:
    restart = Deploy(KEY, None, restart=True, force=True)
    assert not planned(restart, theirs({"model": {"modelFormat": {"name": "m"}}})).wants_probe


def test_a_probe_of_ours_that_others_replaced_is_not_merged_with_theirs() -> None:
    current = with_readiness(
        applied(DesiredObject(KEY, MODEL)), "kubectl", {"tcpSocket": {"port": 1}}
    )
    note = {"modelservice.dev/probe": json.dumps(PROBE)}
    current["spec"]["predictor"]["annotations"] |= note
    plan = planned(Deploy(KEY, MODEL), current)
    assert probe_in(plan) is None
    assert not plan.wants_probe


def test_a_probe_of_ours_that_others_edited_comes_back_with_a_new_rollout() -> None:
    current = applied(DesiredObject(KEY, MODEL, added=AddedFields(probe=PROBE)))
    slower = with_readiness(current, "kubectl", {"periodSeconds": 60})
    plan = planned(Deploy(KEY, MODEL), slower)
    plan = plan.with_added(AddedFields(probe=PROBE))
    assert rollout_hash_of(plan.manifest) != rollout_hash_of(current)
    assert plan.action is Action.UPDATED


def test_a_bare_restart_takes_the_probe_in_a_container_for_ours() -> None:
    current = applied(DesiredObject(KEY, CONTAINER, added=AddedFields(probe=PROBE)))
    assert planned(Deploy(KEY, None, restart=True), current).action is Action.RESTARTED
    current["spec"]["predictor"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 1}}
    with pytest.raises(FieldInvalid, match=r"readinessProbe"):
        planned(Deploy(KEY, None, restart=True), current)


def test_a_stopped_service_stays_stopped() -> None:
    current = applied(DesiredObject(KEY, MODEL, {}, {STOP_ANNOTATION: "true", "note": "x"}))
    annotations = planned(Deploy(KEY, CONTAINER), current).manifest["metadata"]["annotations"]
    assert annotations == {STOP_ANNOTATION: "true"}


@pytest.mark.parametrize("note", [{}, {"note": "x"}])
def test_what_others_stopped_is_not_written_unless_the_deploy_names_it(
    note: dict[str, str],
) -> None:
    stop = {STOP_ANNOTATION: "true"}
    current = edited(
        applied(DesiredObject(KEY, MODEL)), "kubectl-annotate", {"metadata": {"annotations": stop}}
    )
    assert parse_object(current).annotations == stop
    kept = planned(Deploy(KEY, CONTAINER, annotations=note), current)
    assert kept.manifest["metadata"].get("annotations", {}) == note
    # The annotation is part of the content, whoever has set it.
    named = planned(Deploy(KEY, CONTAINER, annotations=note | stop), current)
    assert named.manifest["metadata"]["annotations"] == note | stop
    assert rollout_hash_of(named.manifest) == rollout_hash_of(kept.manifest)
    assert not planned(Deploy(KEY, MODEL), current).replaces_pods


def test_a_deploy_that_names_the_stop_annotation_decides_it() -> None:
    current = applied(DesiredObject(KEY, MODEL, {}, {STOP_ANNOTATION: "true"}))
    deploy = Deploy(KEY, MODEL, annotations={STOP_ANNOTATION: "false"})
    annotations = planned(deploy, current).manifest["metadata"]["annotations"]
    assert annotations == {STOP_ANNOTATION: "false"}


def test_a_stop_and_a_start_change_one_annotation_and_make_a_rollout_each() -> None:
    current = applied(DesiredObject(KEY, MODEL, {"team": "x"}, {"note": "7"}))
    hashes = [rollout_hash_of(current)]
    for stop in (True, False, True, False):
        before = current
        plan = planned(Deploy(KEY, None, stop=stop), current)
        assert (plan.action, plan.replaces_pods) == (Action.UPDATED, True)
        if not stop:
            # The pods that the stop ends have the hash of the start before.
            plan = plan_deploy(
                Deploy(KEY, None, stop=False),
                parse_object(current),
                KServeConfig(),
                f"{FRESH}-{len(hashes)}",
            )
            assert isinstance(plan, Plan)
        current = after(plan)
        expected = {"note": "7", STOP_ANNOTATION: "true" if stop else "false"}
        annotations = current["metadata"]["annotations"]
        assert {key: annotations[key] for key in expected} == expected
        assert current["metadata"]["labels"] == before["metadata"]["labels"]
        hashes.append(rollout_hash_of(current))
    assert len({*hashes[::2]}) == len(hashes[::2])
    # Neither makes a revision.
    started = record_of(parse_object(current)).content_hash
    first = applied(DesiredObject(KEY, MODEL, {"team": "x"}, {"note": "7"}))
    assert started == record_of(parse_object(first)).content_hash


@pytest.mark.parametrize(("stop", "written"), [(True, "True"), (False, "false"), (False, None)])
def test_a_stop_of_what_is_stopped_and_a_start_of_what_runs_write_nothing(
    stop: bool, written: str | None
) -> None:
    annotations = {STOP_ANNOTATION: written} if written else {}
    for current in (
        applied(DesiredObject(KEY, MODEL, {}, annotations)),
        edited(
            applied(DesiredObject(KEY, MODEL)),
            "kubectl",
            {"metadata": {"annotations": annotations}},
        ),
    ):
        plan = planned(Deploy(KEY, None, stop=stop), current)
        assert (plan.action, plan.unchanged) == (Action.UNCHANGED, True)


def test_a_stop_that_would_remove_fields_is_refused() -> None:
    current = theirs({"containers": [{"name": "kserve-container", "image": "a"}, {"name": "b"}]})
    with pytest.raises(FieldInvalid, match=r"name: must be .*containers\[b\]"):
        planned(Deploy(KEY, None, stop=True, force=True), current)


def theirs(predictor: dict[str, Any]) -> dict[str, Any]:
    metadata = {"namespace": KEY.namespace, "name": KEY.name}
    return stored({"metadata": metadata, "spec": {"predictor": predictor}})


def test_a_forced_deploy_adopts_the_predictor() -> None:
    current = theirs({"model": {"modelFormat": {"name": "sklearn"}}})
    assert planned(Deploy(KEY, CONTAINER, force=True), current).adopts
    assert not planned(Deploy(KEY, None, restart=True, force=True), current).adopts
    assert not planned(
        Deploy(KEY, CONTAINER, force=True), applied(DesiredObject(KEY, MODEL))
    ).adopts


def test_a_bare_restart_removes_no_unsupported_container() -> None:
    current = theirs({"containers": [{"name": "kserve-container", "image": "a"}, {"name": "b"}]})
    with pytest.raises(FieldInvalid, match=r"containers\[b\]"):
        planned(Deploy(KEY, None, restart=True, force=True), current)


KNATIVE = replace(MODEL, deployment_mode="Knative")


def test_a_service_runs_in_the_mode_that_it_has_then_is_asked_then_is_the_clusters() -> None:
    running = applied(DesiredObject(KEY, MODEL)) | {"status": {"deploymentMode": "Standard"}}
    assert planned(Deploy(KEY, CONTAINER), running, default_mode="Knative").mode == "Standard"
    assert planned(Deploy(KEY, MODEL), None, default_mode="Knative").mode == "Knative"
    assert planned(Deploy(KEY, KNATIVE), None, default_mode="Standard").mode == "Knative"


@pytest.mark.parametrize("mode", ["RawDeployment", "Serverless"])
def test_a_former_name_of_a_mode_is_refused_with_the_present_ones(mode: str) -> None:
    deploy = Deploy(KEY, replace(MODEL, deployment_mode=mode))
    with pytest.raises(UnsupportedByCluster, match="must be Standard or Knative on this server"):
        planned(deploy, None)


def test_an_unsupported_default_mode_is_refused_unless_the_spec_names_a_mode() -> None:
    refused = "in ModelMesh mode, the cluster's default, .* to Standard or Knative"
    with pytest.raises(UnsupportedByCluster, match=refused):
        planned(Deploy(KEY, MODEL), None, default_mode="ModelMesh")
    assert planned(Deploy(KEY, KNATIVE), None, default_mode="ModelMesh").mode == "Knative"


def test_the_mode_of_a_service_stays() -> None:
    standard = applied(DesiredObject(KEY, MODEL)) | {"status": {"deploymentMode": "Standard"}}
    knative = applied(DesiredObject(KEY, MODEL)) | {"status": {"deploymentMode": "Knative"}}
    with pytest.raises(ModeImmutable, match="is Knative and cannot become Standard"):
        planned(Deploy(KEY, replace(MODEL, deployment_mode="Standard")), knative)
    with pytest.raises(ModeImmutable, match="is Standard and cannot become Knative"):
        planned(Deploy(KEY, KNATIVE), standard)
    assert planned(Deploy(KEY, MODEL), knative).mode == "Knative"


def test_the_mode_of_a_service_that_kserve_has_not_looked_at_is_the_clusters() -> None:
    new = applied(DesiredObject(KEY, MODEL))
    del new["metadata"]["annotations"][MODE_ANNOTATION]  # as where Knative is the default
    refused = "is Knative, the cluster's default mode, and cannot become Standard"
    with pytest.raises(ModeImmutable, match=refused):
        planned(
            Deploy(KEY, replace(MODEL, deployment_mode="Standard")), new, default_mode="Knative"
        )
    assert planned(Deploy(KEY, KNATIVE), new, default_mode="Knative").mode == "Knative"


def test_a_mode_that_was_named_is_written_again_where_it_is_left_out() -> None:
    current = applied(DesiredObject(KEY, KNATIVE))
    plan = planned(Deploy(KEY, MODEL), current, default_mode="Standard")
    assert plan.mode == "Knative"
    assert rollout_hash_of(plan.manifest) == rollout_hash_of(current)


@pytest.mark.parametrize(("metric", "mode"), [("rps", "Standard"), ("cpu", "Knative")])
def test_a_metric_of_another_mode_than_the_clusters_is_refused(metric: str, mode: str) -> None:
    scaled = replace(MODEL, scaling=Scaling(metric=metric))
    refused = rf"scaling\.metric: must be .* got '{metric}'; {mode} is the cluster's default"
    with pytest.raises(FieldInvalid, match=refused):
        planned(Deploy(KEY, scaled), None, default_mode=mode)
    running = applied(DesiredObject(KEY, MODEL)) | {"status": {"deploymentMode": mode}}
    for current, asked in ((None, replace(scaled, deployment_mode=mode)), (running, scaled)):
        with pytest.raises(FieldInvalid) as error:
            planned(Deploy(KEY, asked), current, default_mode=mode)
        assert "default" not in error.value.message


def test_knative_scales_by_cpu_where_the_annotations_ask_for_kubernetes_own_autoscaler() -> None:
    hpa = {"autoscaling.knative.dev/class": "hpa.autoscaling.knative.dev"}
    by_cpu = replace(MODEL, scaling=Scaling(metric="cpu"))
    plan = planned(Deploy(KEY, by_cpu, annotations=hpa), None, default_mode="Knative")
    assert plan.manifest["spec"]["predictor"]["scaleMetric"] == "cpu"
    by_requests = replace(MODEL, scaling=Scaling(metric="rps"))
    with pytest.raises(FieldInvalid, match="must be one of cpu, memory with autoscaling"):
        planned(Deploy(KEY, by_requests, annotations=hpa), None, default_mode="Knative")


def test_only_a_ready_service_can_be_frozen() -> None:
    off = {"metadata": {"annotations": {"serving.kserve.io/disable-auto-update": "true"}}}
    current = edited(applied(DesiredObject(KEY, MODEL)), "kubectl", off)
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    for spec in (CONTAINER, SCALED):
        assert planned(Deploy(KEY, spec), current | ready).frozen
        assert not planned(Deploy(KEY, spec), current).frozen
        old = planned(Deploy(KEY, spec), current | ready, release=KSERVE_0_15)
        assert not old.frozen  # KServe 0.15 knows nothing of it


STANDARD = replace(MODEL, deployment_mode="Standard")


def written_mode(plan: Plan) -> str:
    return str(plan.manifest["metadata"]["annotations"][MODE_ANNOTATION])


@pytest.mark.parametrize(
    ("spec", "release", "name"),
    [
        (STANDARD, KSERVE_0_15, "RawDeployment"),
        (KNATIVE, KSERVE_0_15, "Serverless"),
        (STANDARD, KSERVE_0_16, "Standard"),
        (KNATIVE, KSERVE_0_16, "Knative"),
    ],
)
def test_a_mode_is_written_by_the_name_that_the_clusters_kserve_knows(
    spec: InferenceServiceSpec, release: Release, name: str
) -> None:
    assert written_mode(planned(Deploy(KEY, spec), None, release=release)) == name


@pytest.mark.parametrize("spec", [STANDARD, KNATIVE], ids=["Standard", "Knative"])
def test_on_kserve_0_15_the_same_deploy_again_is_the_same_manifest(
    spec: InferenceServiceSpec,
) -> None:
    settled = {"status": {"deploymentMode": FORMER_NAMES[spec.deployment_mode]}}
    current = applied(DesiredObject(KEY, spec, mode_names=FORMER_NAMES)) | settled
    plan = planned(Deploy(KEY, spec), current, release=KSERVE_0_15)
    assert plan.mode == spec.deployment_mode
    assert rollout_hash_of(plan.manifest) == rollout_hash_of(current)
    assert written_mode(plan) == FORMER_NAMES[spec.deployment_mode]


@pytest.mark.parametrize("names", [FORMER_NAMES, PRESENT_NAMES], ids=["former", "present"])
@pytest.mark.parametrize("release", [KSERVE_0_15, KSERVE_0_16], ids=["0.15", "0.16"])
def test_a_mode_that_kserve_has_settled_on_is_written_as_it_is_in_the_status(
    names: Mapping[str, str], release: Release
) -> None:
    status = {"status": {"deploymentMode": names["Standard"]}}
    current = applied(DesiredObject(KEY, STANDARD, mode_names=names)) | status
    assert (
        written_mode(planned(Deploy(KEY, STANDARD), current, release=release))
        == (names["Standard"])
    )


def test_a_stop_that_kserve_0_15_would_not_carry_out_is_refused() -> None:
    stop = {STOP_ANNOTATION: "true"}
    with pytest.raises(UnsupportedByCluster, match=r"KServe 0\.15.*Knative mode only"):
        planned(Deploy(KEY, MODEL, annotations=stop), None, release=KSERVE_0_15)
    assert planned(Deploy(KEY, MODEL, annotations=stop), None, release=KSERVE_0_16)
    assert planned(Deploy(KEY, KNATIVE, annotations=stop), None, release=KSERVE_0_15)
    start = {STOP_ANNOTATION: "false"}
    assert planned(Deploy(KEY, MODEL, annotations=start), None, release=KSERVE_0_15)
    running = applied(DesiredObject(KEY, MODEL))
    with pytest.raises(UnsupportedByCluster, match=r"KServe 0\.15.*Knative mode only"):
        planned(Deploy(KEY, None, stop=True), running, release=KSERVE_0_15)
    # A vendor's 0.15 that stops services sets the condition in all of them.
    condition = {"status": {"conditions": [{"type": "Stopped", "status": "False"}]}}
    current = applied(DesiredObject(KEY, MODEL)) | condition
    assert planned(Deploy(KEY, MODEL, annotations=stop), current, release=KSERVE_0_15)


def test_a_rollback_is_marked_with_its_generation_where_pods_are_replaced_and_only_there() -> None:
    current = after(planned(Deploy(KEY, MODEL), None))
    rolled_back = planned(Deploy(KEY, CONTAINER, rollback_of=7), current)
    assert annotation(rolled_back, ROLLBACK_ANNOTATION) == "[7,2]"
    there = after(rolled_back)
    scaled = replace(CONTAINER, scaling=Scaling(2, 4))
    for kept in (Deploy(KEY, scaled), Deploy(KEY, CONTAINER, rollback_of=3)):
        assert annotation(planned(kept, there), ROLLBACK_ANNOTATION) == "[7,2]"
    for new in (Deploy(KEY, MODEL), Deploy(KEY, None, restart=True)):
        assert annotation(planned(new, there), ROLLBACK_ANNOTATION) is None


def annotation(plan: Plan, key: str) -> str | None:
    text: str | None = plan.manifest["spec"]["predictor"]["annotations"].get(key)
    return text
