"""Parse a component's Knative Service, its Revisions and its traffic (Knative mode).

Revisions are identified by uid: after a stop their names begin at 00001 again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.adapters.kserve.names import ROLLOUT_ANNOTATION
from server.adapters.kserve.objects import (
    Object,
    annotations_of,
    controller_of,
    get_list,
    get_map,
    is_condition_true,
    name_of,
    uid_of,
)
from server.adapters.kserve.status.applied_template import contains, is_applied
from server.adapters.kserve.status.components import (
    ComponentSpec,
    ParsedDeployment,
    find_child,
    parsed_deployments,
)
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.parsed_service import ParsedService
from server.domain.rollout.status import Component, TrafficShare

_SERVICE_UID_LABEL = "serving.knative.dev/serviceUID"
_MIN_SCALE = "autoscaling.knative.dev/min-scale"
_MAX_SCALE = "autoscaling.knative.dev/max-scale"
_TARGET = "autoscaling.knative.dev/target"
_METRIC = "autoscaling.knative.dev/metric"
_SCALING = (_MIN_SCALE, _MAX_SCALE, _TARGET, _METRIC)


@dataclass(frozen=True, slots=True)
class Revision:
    """Hold a Revision with its Deployment; None until Knative has created that.

    `ready`: Knative reports that it could take traffic, with or without pods.
    """

    name: str
    obj: Object
    ready: bool
    deployment: ParsedDeployment | None


@dataclass(frozen=True, slots=True)
class KnativeService:
    """Hold a Knative Service with its Revisions.

    `applied`: it is made from the component's present spec. `latest`: the newest Revision, if it is
    made from the present template; `latest_was_ready`: it has been ready once. `routed`: the
    Revisions that get traffic. `attempt`: names the generation of the Service. `complete`: the
    newest Revision is made from the present template, and the traffic goes where the spec says.
    """

    obj: Object
    template: Object
    attempt: str
    applied: bool
    complete: bool
    latest: Revision | None
    latest_was_ready: bool
    latest_name: str
    revisions: tuple[Revision, ...]
    routed: tuple[Revision, ...]
    traffic: tuple[TrafficShare, ...]


def knative_service_of(
    component: ComponentSpec, service: ParsedService, observed: ObservedObjects
) -> KnativeService | None:
    """Return the component's Knative Service, or None."""
    services = observed.cache.parse(
        _parse_services,
        service,
        observed.knative_services,
        observed.revisions,
        parsed_deployments(observed),
    )
    return services.get(component.kind)


def _parse_services(
    service: ParsedService,
    knative_services: tuple[Object, ...],
    revisions: tuple[Object, ...],
    deployments: tuple[ParsedDeployment, ...],
) -> Mapping[Component, KnativeService]:
    own = [s for s in knative_services if controller_of(s) == service.uid]
    by_owner = {controller_of(d.obj): d for d in deployments}
    found: dict[Component, KnativeService] = {}
    for component in service.components:
        if child := find_child(own, component.deployments[0]):
            parsed = [
                Revision(name_of(r), r, is_condition_true(r, "Ready"), by_owner.get(uid_of(r)))
                for r in revisions
                if get_map(r, "metadata", "labels").get(_SERVICE_UID_LABEL) == uid_of(child)
            ]
            found[component.kind] = _parse_service(service, component, child, parsed)
    return found


def _parse_service(
    service: ParsedService,
    component: ComponentSpec,
    knative_service: Object,
    revisions: Sequence[Revision],
) -> KnativeService:
    metadata, status = knative_service["metadata"], get_map(knative_service, "status")
    template = get_map(knative_service, "spec", "template")
    latest_name = str(status.get("latestCreatedRevisionName") or "")
    by_name = {r.name: r for r in revisions}
    latest = by_name.get(latest_name)
    if latest and not _is_made_from(template, latest.obj):
        latest = None
    latest_ready_name = str(status.get("latestReadyRevisionName") or "")
    was_ready = latest is not None and latest_ready_name == latest_name
    traffic = _traffic_shares(knative_service)
    # KServe sets a component's url when its Knative Service is first Ready; before that Knative
    # only reports where the traffic is to go.
    had_traffic = _component_status(service, component).get("url")
    shares = traffic if had_traffic else ()
    routed = (by_name.get(share.revision) for share in shares if share.percent)
    return KnativeService(
        obj=knative_service,
        template=template,
        attempt=f"{uid_of(knative_service)}/{metadata.get('generation', 0)}",
        applied=_is_applied(service, component, knative_service),
        complete=was_ready
        and int(status.get("observedGeneration") or 0) >= int(metadata["generation"])
        and is_condition_true(knative_service, "Ready")
        and _actual_traffic(knative_service) == _desired_traffic(knative_service),
        latest=latest,
        latest_was_ready=was_ready,
        latest_name=latest_name,
        revisions=tuple(revisions),
        routed=tuple(r for r in routed if r is not None),
        traffic=traffic,
    )


def _component_status(service: ParsedService, component: ComponentSpec) -> Object:
    return get_map(service.status, "components", component.kind.lower())


def _traffic_shares(knative_service: Object) -> tuple[TrafficShare, ...]:
    """Return the percent of traffic that each Revision gets, in the order of the Service."""
    shares: dict[str, int] = {}
    for target in get_list(knative_service, "status", "traffic"):
        name = str(target.get("revisionName") or "")
        shares[name] = shares.get(name, 0) + int(target.get("percent") or 0)
    return tuple(TrafficShare(name, percent) for name, percent in shares.items())


def _is_applied(service: ParsedService, component: ComponentSpec, knative_service: Object) -> bool:
    """Return whether the Knative Service is made from the component's present spec.

    Scaling and traffic are not in the rollout hash; a change of scaling makes another Revision.
    """
    template = get_map(knative_service, "spec", "template")
    return (
        is_applied(service.obj, component, template)
        and _scaling_of(template) == _desired_scaling(service, component)
        and _timeouts_fit(component.spec, get_map(template, "spec"))
        and _split_fits(service, component, knative_service)
    )


def _is_made_from(template: Object, revision: Object) -> bool:
    """Return whether the Revision is made from this template, rather than the one before."""
    hashes = [annotations_of(o).get(ROLLOUT_ANNOTATION) for o in (template, revision)]
    return (
        hashes[0] == hashes[1]
        and _scaling_of(template) == _scaling_of(revision)
        and contains(
            get_list(revision, "spec", "containers"), get_list(template, "spec", "containers")
        )
    )


def _scaling_of(template: Object) -> Mapping[str, str]:
    annotations = annotations_of(template)
    return {key: str(annotations[key]) for key in _SCALING if key in annotations}


def _desired_scaling(service: ParsedService, component: ComponentSpec) -> Mapping[str, str]:
    """Return the annotations that KServe makes of the scaling fields.

    For an unset field it takes an annotation; bounds not from those of the InferenceService.
    """
    spec = component.spec
    own = get_map(spec, "annotations")
    all_annotations = {**service.annotations, **own}
    inherited = {
        _MAX_SCALE: own.get(_MAX_SCALE),
        _TARGET: all_annotations.get(_TARGET),
        _METRIC: all_annotations.get(_METRIC),
    }
    fields = {
        _MIN_SCALE: spec.get("minReplicas", 1),
        _MAX_SCALE: spec.get("maxReplicas") or None,
        _TARGET: spec.get("scaleTarget"),
        _METRIC: spec.get("scaleMetric"),
    }
    desired = {**inherited, **{key: value for key, value in fields.items() if value is not None}}
    return {key: str(value) for key, value in desired.items() if value is not None}


def _timeouts_fit(spec: Object, revision_spec: Object) -> bool:
    """Compare the timeouts that the spec sets; Knative fills in the others."""
    names = {"timeout": "timeoutSeconds", "containerConcurrency": "containerConcurrency"}
    return all(
        spec.get(ours) is None or revision_spec.get(theirs) == spec[ours]
        for ours, theirs in names.items()
    )


def _split_fits(service: ParsedService, component: ComponentSpec, knative_service: Object) -> bool:
    """Return whether the newest Revision is to get the percent that the spec sets.

    It gets all traffic until there was another Revision to share it with.
    """
    percent: Any = component.spec.get("canaryTrafficPercent")
    status = _component_status(service, component)
    splits = percent is not None and bool(status.get("latestRolledoutRevision"))
    return _desired_traffic(knative_service)[True, int(percent) if splits else 100] > 0


def _desired_traffic(knative_service: Object) -> Counter[tuple[object, int]]:
    """Count the traffic targets by Revision and percent; the newest Revision is True."""
    targets = get_list(knative_service, "spec", "traffic")
    return Counter(
        (t.get("latestRevision") or t.get("revisionName"), int(t.get("percent") or 0))
        for t in targets
    )


def _actual_traffic(knative_service: Object) -> Counter[tuple[object, int]]:
    """Count the present targets in the same way; a target follows the newest Revision once it is
    there."""
    latest = get_map(knative_service, "status").get("latestCreatedRevisionName")
    return Counter(
        (
            True
            if t.get("latestRevision") and t.get("revisionName") == latest
            else t.get("revisionName"),
            int(t.get("percent") or 0),
        )
        for t in get_list(knative_service, "status", "traffic")
    )
