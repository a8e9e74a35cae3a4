"""What a Deploy comes to on the object that is there: pure.

A plan holds for that very object only; its uid and resourceVersion are the write's preconditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from server.adapters.kserve.apply.kserve_config import KServeConfig
from server.adapters.kserve.manifests.annotations import (
    FilledIn,
    filled_in_of,
    marker_of,
    restart_of,
    with_marker,
)
from server.adapters.kserve.manifests.field_ownership import (
    PREDICTOR,
    ours,
    owned,
    predictor_owners,
)
from server.adapters.kserve.manifests.manifest import Wish, manifest_of
from server.adapters.kserve.manifests.object_diff import loses, stands
from server.adapters.kserve.manifests.object_parser import (
    UNJUDGED,
    asked_of,
    is_unmanaged,
    requests_of,
    stored_of,
    unfit_of,
)
from server.adapters.kserve.manifests.registry_annotations import deployment_id_of, origin_of
from server.adapters.kserve.manifests.resource_defaults import besides_still
from server.adapters.kserve.modes import (
    FORMER_NAMES,
    MODES,
    PRESENT_NAMES,
    STANDARD,
    mode_of,
    settled_mode_of,
)
from server.adapters.kserve.names import SCALING_FIELDS, UPDATES_DISABLED_ANNOTATION
from server.adapters.kserve.objects import get_condition
from server.adapters.kserve.releases import Release
from server.domain.errors import FieldInvalid, FieldViolation, ModeImmutable, UnsupportedByCluster
from server.domain.service.commands import STOP_ANNOTATION, Action, Deploy, is_stop_requested
from server.domain.service.inference_service import (
    InferenceServiceSpec,
    RegisteredModelPredictor,
    Resources,
)
from server.domain.service.preconditions import (
    PastRequest,
    Stored,
    admit_deploy,
    desired_spec,
    with_request,
)
from server.domain.service.spec_validation import mode_violations

RawObject = Mapping[str, Any]

# It moves requests, and no pod.
_TRAFFIC = "spec.predictor.canaryTrafficPercent"


@dataclass(frozen=True, slots=True)
class Plan:
    """One write. `action` is what it does if it changes anything, `mode` what the service runs in;
    `default_mode`: nobody named it, so that it is the cluster's default.

    `takes_over`: the parts of the predictor that others own become ours first, so that what the
    manifest does not name goes away. `frozen`: KServe would not carry a change out.
    `replaces_pods`: what is filled in beside what is asked is still to be settled. `wants_probe`:
    and there may be a readiness probe in it. `reads_the_same`: there is nothing to write.
    """

    current: RawObject | None
    wish: Wish
    manifest: RawObject
    action: Action
    mode: str = STANDARD
    default_mode: bool = False
    replaces_pods: bool = False
    wants_probe: bool = False
    takes_over: bool = False
    frozen: bool = False
    reads_the_same: bool = False


def plan_of(
    deploy: Deploy, current: RawObject | None, config: KServeConfig, fresh_stamp: str
) -> Plan | PastRequest:
    """Plan the write, or answer the first write of the request_id.

    Raises the refusal that fits the object. `fresh_stamp` has never been used before.
    """
    stored = stored_of(current, UNJUDGED) if current else None
    replayed = admit_deploy(deploy, stored)
    if replayed:
        return replayed
    wish = replace(_wish(deploy, current, stored), mode_names=_mode_names(current, config.release))
    mode = _admitted_mode(wish, current, config)
    _admit_stop(deploy, current, mode, config.release)
    if current is None:
        plan = _creation(deploy, wish, config, fresh_stamp)
    else:
        if deploy.spec is None:
            _admit_bare_restart(current)
        plan = _update(deploy, wish, current, config, fresh_stamp)
    return replace(plan, mode=mode, default_mode=_names_no_mode(wish.spec, current))


def with_filled_in(plan: Plan, filled_in: FilledIn, config: KServeConfig) -> Plan:
    """The plan, with this in what it writes beside what is asked."""
    wish = replace(plan.wish, probe=filled_in.probe, beside=filled_in.resources)
    manifest = _conditional(manifest_of(wish, config.resources), plan.current)
    return replace(plan, wish=wish, manifest=manifest)


def _creation(deploy: Deploy, wish: Wish, config: KServeConfig, fresh_stamp: str) -> Plan:
    stamp = (deploy.request_id or fresh_stamp) if deploy.restart else ""
    requests = with_request((), deploy, Action.CREATED, 1)
    wish = replace(wish, restart=stamp, requests=requests, deployment_id=deploy.deployment_id)
    manifest = _conditional(manifest_of(wish, config.resources), None)
    return Plan(None, wish, manifest, Action.CREATED, replaces_pods=True, wants_probe=True)


def _update(
    deploy: Deploy, wish: Wish, current: RawObject, config: KServeConfig, fresh_stamp: str
) -> Plan:
    held = filled_in_of(current)
    unmoved = replace(
        wish,
        restart=restart_of(current),
        requests=requests_of(current),
        # Where there is none, although there should be, the pods are replaced for it.
        deployment_id=deployment_id_of(current) or deploy.deployment_id,
        # While the pods stay so does what was filled in, also where the runtimes changed since.
        probe=held.probe,
        beside=besides_still(held.resources, wish.spec.resources),
    )
    manifest = manifest_of(unmoved, config.resources)
    rescaled = _rescales(manifest, current)
    contested = deploy.force and deploy.spec is not None and bool(predictor_owners(current))
    # What others have beside the manifest goes away by that.
    taken_away = _unfit_in_predictor(current) if contested else []
    takes_over = contested and (rescaled or bool(taken_away))
    same_pods = _keeps_pods(manifest, current, taken_away, takes_over=takes_over)
    if same_pods and not deploy.restart:
        kept = _conditional(with_marker(manifest, marker_of(current)), current)
        return Plan(
            current,
            unmoved,
            kept,
            Action.UPDATED,
            takes_over=takes_over,
            frozen=_is_frozen(current, config.release),
        )
    if not deploy.restart and _reads_as(unmoved, manifest, current, force=deploy.force):
        return Plan(current, unmoved, manifest, Action.UNCHANGED, reads_the_same=True)
    moved = unmoved
    if deploy.restart:
        moved = replace(unmoved, restart=deploy.request_id or fresh_stamp)
    elif marker_of(manifest) == marker_of(current):
        # The marker of an earlier rollout would come back, and with it that rollout's verdict.
        moved = replace(unmoved, restart=fresh_stamp)
    if deploy.spec is not None and not same_pods:
        moved = replace(moved, deployment_id=deploy.deployment_id)
    merely_restarts = same_pods and not rescaled
    action = Action.RESTARTED if merely_restarts else Action.UPDATED
    replaces_pods = marker_of(manifest_of(moved, config.resources)) != marker_of(current)
    if replaces_pods:
        moved = replace(
            _remembering(deploy, moved, current, action), probe=None, beside=Resources()
        )
    return Plan(
        current=current,
        wish=moved,
        manifest=_conditional(manifest_of(moved, config.resources), current),
        action=action,
        replaces_pods=replaces_pods,
        wants_probe=replaces_pods and (contested or _leaves_probe_to_us(deploy, current)),
        takes_over=contested,
        frozen=_is_frozen(current, config.release),
    )


def _remembering(deploy: Deploy, wish: Wish, current: RawObject, action: Action) -> Wish:
    generation = int(current["metadata"]["generation"]) + 1
    return replace(wish, requests=with_request(wish.requests, deploy, action, generation))


def _wish(deploy: Deploy, current: RawObject | None, stored: Stored | None) -> Wish:
    spec = desired_spec(deploy, stored)
    held = stored.service if stored else None
    if deploy.spec is None and held and current:
        registered = isinstance(spec.predictor, RegisteredModelPredictor)
        origin = origin_of(current) if registered else {}
        return Wish(deploy.key, spec, held.labels, held.annotations, origin=origin)
    annotations = dict(deploy.annotations)
    if held and STOP_ANNOTATION in held.annotations:
        annotations.setdefault(STOP_ANNOTATION, held.annotations[STOP_ANNOTATION])
    return Wish(deploy.key, spec, deploy.labels, annotations, origin=deploy.origin)


def _names_no_mode(spec: InferenceServiceSpec, current: RawObject | None) -> bool:
    """Whether neither the spec nor the service names a mode: the cluster's default is taken."""
    return not (spec.deployment_mode or (current and mode_of(current)))


def _admitted_mode(wish: Wish, current: RawObject | None, config: KServeConfig) -> str:
    """The mode that the service runs in, or will."""
    key, spec = wish.key, wish.spec
    asked = spec.deployment_mode
    if asked and asked not in MODES:
        raise UnsupportedByCluster(
            f"deployment_mode {asked} is not supported by this server; name {' or '.join(MODES)}"
        )
    # One that KServe has not looked at yet will be of the default, unless this makes it another.
    held = mode_of(current) or config.default_mode if current else ""
    if held and asked and held != asked:
        default = "" if mode_of(current or {}) else ", the cluster's default mode,"
        raise ModeImmutable(
            f"{key} is {held}{default} and cannot become {asked}: KServe fixes the deployment mode"
            " of a service; delete it first"
        )
    mode = held or asked or config.default_mode
    default = ", the cluster's default" if _names_no_mode(spec, current) else ""
    if mode not in MODES:
        raise UnsupportedByCluster(
            f"{key} would run in {mode} mode{default}, which this server does not support; name"
            f" deployment_mode {' or '.join(MODES)}"
            + (" after deleting the service" if held else "")
        )
    if violations := list(mode_violations(spec, mode, wish.annotations)):
        note = f"; {mode} is the cluster's default deployment mode" if default else ""
        raise FieldInvalid([v._replace(why=f"{v.why}{note}") for v in violations])
    return mode


def _mode_names(current: RawObject | None, release: Release) -> Mapping[str, str]:
    """The names of the modes that KServe compares with the one in the status, where there is one:
    a release that knows others keeps that."""
    settled = settled_mode_of(current) if current else ""
    return next(
        (names for names in (PRESENT_NAMES, FORMER_NAMES) if settled in names.values()),
        release.mode_names,
    )


def _admit_stop(deploy: Deploy, current: RawObject | None, mode: str, release: Release) -> None:
    """Refuse to stop what would go on serving. A KServe that stops a service says so of each."""
    stops = release.stops_deployments or mode != STANDARD or get_condition(current or {}, "Stopped")
    if is_stop_requested(deploy.annotations) and not stops:
        raise UnsupportedByCluster(
            f"annotations[{STOP_ANNOTATION}]: KServe {release.name}, which the cluster has, stops"
            " services of Knative mode only; delete the service, or upgrade KServe to 0.16"
        )


def _admit_bare_restart(current: RawObject) -> None:
    """A list of containers is written whole, so none may be lost that the contract cannot say."""
    lost = [path for path in unfit_of(current) if "spec.predictor.containers" in path]
    if lost:
        unfit = ", ".join(lost)
        why = f"must be given, since the service has what this API has no field for ({unfit})"
        raise FieldInvalid([FieldViolation("spec", why)])


def _keeps_pods(
    manifest: RawObject, current: RawObject, taken_away: Sequence[str], *, takes_over: bool
) -> bool:
    """Whether the object asks for the manifest's pods already, no matter who wrote it."""
    if is_unmanaged(current) or not stands(manifest, current):
        return False
    # Once nobody else owns any of it, the marker alone says which rollout a pod is of.
    if takes_over and marker_of(manifest) != marker_of(current):
        return False
    return all(path == _TRAFFIC for path in taken_away)


def _reads_as(wish: Wish, manifest: RawObject, current: RawObject, *, force: bool) -> bool:
    """Whether it reads as the wish, with nothing beside that a write would take away.

    Others may have written it in words of their own, such as another order of variables.
    """
    asked = asked_of(current)
    return (
        not is_unmanaged(current)
        and (asked.spec, asked.labels, asked.annotations)
        == (wish.spec, wish.labels, wish.annotations)
        and wish.origin in ({}, origin_of(current))
        and wish.deployment_id == deployment_id_of(current)
        and not (_unfit_in_predictor(current) and (force or loses(manifest, current)))
    )


def _unfit_in_predictor(current: RawObject) -> list[str]:
    """Other components are not written, and stay."""
    return [path for path in unfit_of(current) if "spec.predictor" in path]


def _rescales(manifest: RawObject, current: RawObject) -> bool:
    wished, held = manifest["spec"]["predictor"], current["spec"].get("predictor", {})
    return any(wished.get(name) != held.get(name) for name in SCALING_FIELDS)


def _is_frozen(current: RawObject, release: Release) -> bool:
    if not release.disables_updates:
        return False
    annotations = current["metadata"].get("annotations") or {}
    conditions = (current.get("status") or {}).get("conditions") or ()
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and annotations.get(UPDATES_DISABLED_ANNOTATION) == "true"


def _leaves_probe_to_us(deploy: Deploy, current: RawObject) -> bool:
    """Whether nobody else has a say in it.

    Somebody else's probe in a model would be merged with ours, and of two kinds of probe KServe can
    make no pods. A bare restart adds nothing to what others made.
    """
    if deploy.spec is None and is_unmanaged(current):
        return False
    path = (*PREDICTOR, "f:model", "f:readinessProbe")
    theirs = owned(current, lambda entry: not ours(entry), *path)
    return theirs is None or owned(current, ours, *path, "f:httpGet") is not None


def _conditional(manifest: RawObject, current: RawObject | None) -> RawObject:
    """What to write, if the object still is `current`, or there still is none."""
    conditions = {"resourceVersion": "0"}
    if current is not None:
        conditions = {name: current["metadata"][name] for name in ("uid", "resourceVersion")}
    return {**manifest, "metadata": {**manifest["metadata"], **conditions}}
