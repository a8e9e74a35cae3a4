"""Plan the one write that a Deploy comes to on the object that is there. Pure.

A plan holds for that very object only: its uid and resourceVersion are the write's preconditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from server.adapters.kserve.apply.kserve_config import KServeConfig
from server.adapters.kserve.manifests.annotations import (
    AddedFields,
    origin_of,
    rollback_text,
    rollout_hash_of,
    start_stamp,
    with_rollout_hash,
)
from server.adapters.kserve.manifests.field_ownership import (
    PREDICTOR,
    manager_names_at,
    owned_fields,
)
from server.adapters.kserve.manifests.manifest import Body, DesiredObject, body_of, complete
from server.adapters.kserve.manifests.object_diff import asks_for_same_pods, removes_fields
from server.adapters.kserve.manifests.object_parser import ParsedObject
from server.adapters.kserve.manifests.readiness_probe import probe_for
from server.adapters.kserve.manifests.resource_defaults import (
    container_additions,
    model_additions,
    still_added,
)
from server.adapters.kserve.manifests.serving_runtimes import resources_of
from server.adapters.kserve.modes import (
    FORMER_NAMES,
    MODES,
    PRESENT_NAMES,
    STANDARD,
    mode_of,
    settled_mode_of,
)
from server.adapters.kserve.names import SCALING_FIELDS, UPDATES_DISABLED_ANNOTATION
from server.adapters.kserve.objects import (
    Object,
    annotations_of,
    get_condition,
    get_map,
    is_condition_true,
)
from server.adapters.kserve.releases import Release
from server.domain.errors import FieldInvalid, FieldViolation, ModeImmutable, UnsupportedByCluster
from server.domain.service.commands import STOP_ANNOTATION, Action, Deploy, is_stop_requested
from server.domain.service.inference_service import (
    ModelPredictor,
    RegisteredModelPredictor,
    Resources,
)
from server.domain.service.preconditions import (
    PastRequest,
    Stored,
    admit_deploy,
    desired_annotations,
    desired_spec,
    keeps_stopped,
    with_request,
)
from server.domain.service.spec_validation import mode_violations

# This field moves traffic, and no pod.
_TRAFFIC = "spec.predictor.canaryTrafficPercent"


@dataclass(frozen=True)
class Plan:
    """One write of `desired`, onto `current` (None: there must be no object).

    `action` is the outcome if the write changes anything. `mode` is the deployment mode of the
    service; with `default_mode` it is the cluster's default. `replaces_pods`: the pods are
    replaced, so the fields to add are to be settled anew, with a readiness probe if `wants_probe`.
    `adopts`: our apply first becomes the owner of the whole predictor, so that the fields that are
    not desired go away. `frozen`: KServe would not act on a change. `unchanged`: there is nothing
    to write. `leaves_stop`: the annotation that stops the service stays as another manager's.
    """

    current: ParsedObject | None
    desired: DesiredObject
    body: Body
    action: Action
    mode: str = STANDARD
    default_mode: bool = False
    replaces_pods: bool = False
    wants_probe: bool = False
    adopts: bool = False
    frozen: bool = False
    unchanged: bool = False
    leaves_stop: bool = False

    def with_added_fields(self, runtimes: Sequence[Object]) -> Plan:
        """Return the plan with the fields that new pods get beside those of the spec.

        For a model they depend on the `runtimes` that KServe chooses from; it takes the first.
        """
        key, spec = self.desired.key, self.desired.spec
        resources = self.desired.added.resources
        if runtimes:
            resources = model_additions(spec.resources, resources_of(runtimes[0]))
        probe = probe_for(key.name, spec, runtimes) if self.wants_probe else None
        return self.with_added(AddedFields(resources, probe))

    def with_added(self, added: AddedFields) -> Plan:
        """Return the plan with these fields added to the serving container."""
        return replace(self, desired=replace(self.desired, added=added))

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """The object to apply, with its preconditions. Pods that stay keep their rollout hash."""
        manifest = complete(self.body, self.desired)
        preconditions = {"resourceVersion": "0"}
        if self.current:
            obj = self.current.obj
            preconditions = {name: obj["metadata"][name] for name in ("uid", "resourceVersion")}
            if not self.replaces_pods:
                kept = self.current.our_annotations.rollout_hash
                manifest = with_rollout_hash(manifest, kept)
        metadata = {**manifest["metadata"], **preconditions}
        if self.leaves_stop:
            annotations = dict(metadata.pop("annotations"))
            del annotations[STOP_ANNOTATION]
            metadata |= {"annotations": annotations} if annotations else {}
        return {**manifest, "metadata": metadata}


def plan_deploy(
    deploy: Deploy, current: ParsedObject | None, config: KServeConfig, fresh_stamp: str
) -> Plan | PastRequest:
    """Plan the write on `current`, or return the first write of the request_id.

    Raises a ServiceError if the object does not allow the Deploy. `fresh_stamp` has never been
    used before.
    """
    stored = Stored(current.pending, current.requests) if current else None
    replayed = admit_deploy(deploy, stored)
    if replayed:
        return replayed
    obj = current.obj if current else {}
    settled_mode = settled_mode_of(obj)
    held_mode = mode_of(settled_mode, annotations_of(obj))
    desired = _desired_object(deploy, current, stored, settled_mode, config)
    mode = _admit_mode(desired, current, held_mode, config)
    _admit_stop(deploy, obj, mode, config.release)
    desired = replace(desired, mode=mode)
    if current is None:
        plan = _plan_creation(deploy, desired, fresh_stamp)
    else:
        plan = _plan_update(deploy, desired, current, config.release, fresh_stamp)
    default_mode = not (desired.spec.deployment_mode or held_mode)
    leaves_stop = _leaves_stop(deploy, current)
    return replace(plan, mode=mode, default_mode=default_mode, leaves_stop=leaves_stop)


def _leaves_stop(deploy: Deploy, current: ParsedObject | None) -> bool:
    """Return whether a Deploy keeps the annotation that another manager stops the service by.

    If we applied it too, it would stay where that manager withdraws it.
    """
    if current is None or deploy.stop is not None or STOP_ANNOTATION in deploy.annotations:
        return False
    path = ("f:metadata", "f:annotations", f"f:{STOP_ANNOTATION}")
    is_ours = owned_fields(current.managers.ours, *path) is not None
    return STOP_ANNOTATION in current.annotations and not is_ours


def _desired_object(
    deploy: Deploy,
    current: ParsedObject | None,
    stored: Stored | None,
    settled_mode: str,
    config: KServeConfig,
) -> DesiredObject:
    spec = desired_spec(deploy, stored)
    labels, origin = deploy.labels, deploy.origin
    annotations = desired_annotations(deploy, current.annotations if current else {})
    if current and deploy.spec is None:
        labels, origin = current.labels, {}
        if isinstance(spec.predictor, RegisteredModelPredictor):
            origin = origin_of(current.obj, current.managers)
    # A model's additions depend on its runtime. They stay while its pods stay.
    held = current.our_annotations.added if current else AddedFields()
    if isinstance(spec.serving, ModelPredictor):
        resources = Resources(
            still_added(held.resources.requests, spec.resources.requests),
            still_added(held.resources.limits, spec.resources.limits),
        )
    else:
        resources = container_additions(spec.resources, config.resources)
    # KServe compares a written mode with the one in the status, by its text.
    known = (names for names in (PRESENT_NAMES, FORMER_NAMES) if settled_mode in names.values())
    return DesiredObject(
        deploy.key,
        spec,
        labels,
        annotations,
        added=AddedFields(resources, held.probe),
        origin=origin,
        mode_names=next(known, config.release.mode_names),
    )


def _plan_creation(deploy: Deploy, desired: DesiredObject, fresh_stamp: str) -> Plan:
    desired = replace(
        desired,
        restart=(deploy.request_id or fresh_stamp) if deploy.restart else "",
        requests=with_request((), deploy, Action.CREATED, 1),
        deployment_id=deploy.deployment_id,
        deployed_by=deploy.user,
    )
    return Plan(
        None, desired, body_of(desired), Action.CREATED, replaces_pods=True, wants_probe=True
    )


def _plan_update(
    deploy: Deploy,
    desired: DesiredObject,
    current: ParsedObject,
    release: Release,
    fresh_stamp: str,
) -> Plan:
    obj, managers, ours = current.obj, current.managers, current.our_annotations
    if keeps_stopped(deploy, current.annotations):
        return Plan(current, desired, body_of(desired), Action.UNCHANGED, unchanged=True)
    if deploy.spec is None:
        _admit_without_spec(deploy, current)
    # The object as it would be if the pods stay.
    desired = replace(
        desired,
        restart=ours.restart,
        requests=current.requests,
        # The id of a record that is missing is added, which replaces the pods.
        deployment_id=ours.deployment_id or deploy.deployment_id,
        deployed_by=ours.deployed_by,
        rollback=ours.rollback,
    )
    body = body_of(desired)
    manifest = complete(body, desired)
    same_hash = rollout_hash_of(manifest) == ours.rollout_hash
    predictor, held_predictor = manifest["spec"]["predictor"], get_map(obj, "spec", "predictor")
    rescales = any(predictor.get(name) != held_predictor.get(name) for name in SCALING_FIELDS)
    contested = (
        deploy.force
        and deploy.spec is not None
        and bool(manager_names_at(managers.others, *PREDICTOR))
    )
    # An adoption removes the fields that others have beside ours.
    removed = _unsupported_in_predictor(current) if contested else []
    adopts = contested and (rescales or bool(removed))
    same_pods = (
        not current.unmanaged
        and all(path == _TRAFFIC for path in removed)
        # With us as the only owner, the rollout hash alone says which rollout a pod is of.
        and (same_hash or not adopts)
        and asks_for_same_pods(manifest, obj, managers)
    )
    frozen = _is_frozen(obj, release)
    plan = Plan(current, desired, body, Action.UPDATED, adopts=adopts, frozen=frozen)
    if same_pods and not deploy.restart:
        return plan
    # Others may have written the same in another way, such as another order of variables.
    if (
        not deploy.restart
        and _reads_as(current, desired)
        and not (
            _unsupported_in_predictor(current)
            and (deploy.force or removes_fields(manifest, obj, managers))
        )
    ):
        return replace(plan, action=Action.UNCHANGED, unchanged=True)
    starts = is_stop_requested(current.annotations) and not is_stop_requested(desired.annotations)
    if deploy.restart:
        desired = replace(desired, restart=deploy.request_id or fresh_stamp)
    elif starts:
        # The hash of the pods that are still to be stopped would come back, and their state.
        desired = replace(desired, restart=start_stamp(ours.restart, fresh_stamp))
    elif same_hash:
        # The hash of an earlier rollout would come back, and with it the state of that rollout.
        desired = replace(desired, restart=fresh_stamp)
    if deploy.spec is not None and not same_pods:
        desired = replace(desired, deployment_id=deploy.deployment_id)
    action = Action.RESTARTED if same_pods and not rescales else Action.UPDATED
    plan = replace(plan, desired=desired, action=action, adopts=contested)
    return _plan_rollout(deploy, plan, current)


def _plan_rollout(deploy: Deploy, plan: Plan, current: ParsedObject) -> Plan:
    """Complete the plan of a write that replaces the pods."""
    desired, present = plan.desired, current.our_annotations.rollout_hash
    if deploy.restart and rollout_hash_of(complete(plan.body, desired)) == present:
        # A retry of the restart that made this rollout.
        return plan
    generation = int(current.obj["metadata"]["generation"]) + 1
    is_model = isinstance(desired.spec.serving, ModelPredictor)
    added = AddedFields(Resources() if is_model else desired.added.resources)
    requests = with_request(desired.requests, deploy, plan.action, generation)
    desired = replace(
        desired,
        requests=requests,
        added=added,
        deployed_by=deploy.user,
        rollback=rollback_text(deploy.rollback_of, generation),
    )
    return replace(
        plan,
        desired=desired,
        replaces_pods=True,
        wants_probe=plan.adopts or _leaves_probe_to_us(deploy, current),
    )


def _admit_without_spec(deploy: Deploy, current: ParsedObject) -> None:
    """Refuse a write without a spec that would remove fields: a list of containers is written
    whole."""
    lost = [path for path in current.unsupported if "spec.predictor.containers" in path]
    if not lost:
        return
    path, why = "spec", "must be given, because the service has fields that this API does not have"
    if deploy.stop is not None:
        path, why = "name", "must be of a service without fields that this API does not have"
    raise FieldInvalid([FieldViolation(path, f"{why} ({', '.join(lost)})")])


def _admit_mode(
    desired: DesiredObject, current: ParsedObject | None, held_mode: str, config: KServeConfig
) -> str:
    """Return the mode that the service runs in, or will."""
    key, spec, asked = desired.key, desired.spec, desired.spec.deployment_mode
    supported = " or ".join(MODES)
    if asked and asked not in MODES:
        raise UnsupportedByCluster(
            f"spec.deployment_mode: must be {supported} on this server, got {asked}"
        )
    # KServe gives a service that it has not reconciled yet the default mode.
    held = held_mode or config.default_mode if current else ""
    if held and asked and held != asked:
        default = "" if held_mode else ", the cluster's default mode,"
        raise ModeImmutable(
            f"{key} is {held}{default} and cannot become {asked}: KServe fixes the deployment mode"
            " of a service; delete it first"
        )
    mode = held or asked or config.default_mode
    by_default = not (asked or held_mode)
    if mode not in MODES:
        default = ", the cluster's default" if by_default else ""
        raise UnsupportedByCluster(
            f"{key} would run in {mode} mode{default}, which this server does not support; set"
            f" spec.deployment_mode to {supported}"
            + (" after deleting the service" if held else "")
        )
    if violations := list(mode_violations(spec, mode, desired.annotations)):
        note = f"; {mode} is the cluster's default deployment mode" if by_default else ""
        raise FieldInvalid([v._replace(why=f"{v.why}{note}") for v in violations])
    return mode


def _admit_stop(deploy: Deploy, obj: Object, mode: str, release: Release) -> None:
    """Refuse a stop that KServe would not carry out: the service would go on serving."""
    asked = deploy.stop or is_stop_requested(deploy.annotations)
    if not asked or release.stops_deployments or mode != STANDARD:
        return
    # A vendor's KServe that stops services has this condition in all of them.
    if not get_condition(obj, "Stopped"):
        raise UnsupportedByCluster(
            f"annotations[{STOP_ANNOTATION}]: KServe {release.name}, which the cluster has, stops"
            " services of Knative mode only; delete the service, or upgrade KServe to 0.16"
        )


def _reads_as(current: ParsedObject, desired: DesiredObject) -> bool:
    """Return whether readers see the desired content already."""
    return (
        not current.unmanaged
        and current.spec == desired.spec
        and current.labels == desired.labels
        and current.annotations == desired.annotations
        and desired.deployment_id == current.our_annotations.deployment_id
        and (not desired.origin or desired.origin == origin_of(current.obj, current.managers))
    )


def _unsupported_in_predictor(current: ParsedObject) -> list[str]:
    # The other components are not written, and stay.
    return [path for path in current.unsupported if "spec.predictor" in path]


def _is_frozen(obj: Object, release: Release) -> bool:
    """Return whether KServe ignores changes: it does so once the service is ready."""
    return (
        release.disables_updates
        and annotations_of(obj).get(UPDATES_DISABLED_ANNOTATION) == "true"
        and is_condition_true(obj, "Ready")
    )


def _leaves_probe_to_us(deploy: Deploy, current: ParsedObject) -> bool:
    """Return whether no other manager sets the model's readiness probe.

    KServe would merge another probe with ours, and can make no pods from two kinds of probe. A bare
    restart adds nothing to a service that others made.
    """
    if deploy.spec is None and current.unmanaged:
        return False
    path = (*PREDICTOR, "f:model", "f:readinessProbe")
    if owned_fields(current.managers.others, *path) is None:
        return True
    return owned_fields(current.managers.ours, *path, "f:httpGet") is not None
