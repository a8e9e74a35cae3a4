"""A component's Knative Service, its Revisions and where its traffic goes (Knative mode).

Revisions are told apart by uid: after a stop their names begin at 00001 again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
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
    uid_of,
)
from server.adapters.kserve.status.applied_template import contains, is_applied
from server.adapters.kserve.status.components import (
    ComponentSpec,
    Workload,
    child_of,
    generation_seen,
    workload_of,
)
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.domain.rollout.status import TrafficShare

_SERVICE_UID_LABEL = "serving.knative.dev/serviceUID"
_MIN_SCALE = "autoscaling.knative.dev/min-scale"
_MAX_SCALE = "autoscaling.knative.dev/max-scale"
_TARGET = "autoscaling.knative.dev/target"
_METRIC = "autoscaling.knative.dev/metric"
_SCALING = (_MIN_SCALE, _MAX_SCALE, _TARGET, _METRIC)


@dataclass(frozen=True, slots=True)
class Revision:
    """A Revision with the Deployment that runs it; None until Knative has made that."""

    obj: Object
    workload: Workload | None

    @property
    def ready(self) -> bool:
        """Knative says that it could take traffic, with or without pods."""
        return is_condition_true(self.obj, "Ready")


@dataclass(frozen=True, slots=True)
class KnativeService:
    """A Knative Service as it is, with what it made.

    `latest`: the newest Revision, if it is made from the present template. `revisions`: all that
    are there. `ingress_ready`: those that traffic goes to.
    """

    obj: Object
    latest: Revision | None
    revisions: tuple[Revision, ...]
    ingress_ready: tuple[Revision, ...]

    @property
    def attempt(self) -> str:
        """What the pods are made from, by a name of its own."""
        return f"{uid_of(self.obj)}/{self.obj['metadata'].get('generation', 0)}"

    @property
    def latest_name(self) -> str:
        """The name of the newest Revision; empty before there is one."""
        return str(get_map(self.obj, "status").get("latestCreatedRevisionName") or "")

    @property
    def complete(self) -> bool:
        """Whether Knative has all as it was asked: the newest Revision is made from the present
        template, and the traffic is where it should be."""
        ready = get_map(self.obj, "status").get("latestReadyRevisionName")
        return (
            self.latest is not None
            and generation_seen(self.obj)
            and ready == self.latest_name
            and is_condition_true(self.obj, "Ready")
            and _told_traffic(self.obj) == _asked_traffic(self.obj)
        )


def knative_service_of(which: ComponentSpec, observed: ObservedObjects) -> KnativeService | None:
    """The component's Knative Service; None where it is not there."""
    owner = uid_of(observed.service)
    ours = (s for s in observed.knative_services if controller_of(s) == owner)
    found = child_of(ours, which.deployments[0])
    if not found:
        return None
    of_service = {r.obj["metadata"]["name"]: r for r in _revisions_of(found, observed)}
    latest = of_service.get(str(get_map(found, "status").get("latestCreatedRevisionName")))
    made = (
        latest if latest and _is_made_from(get_map(found, "spec", "template"), latest.obj) else None
    )
    shares = traffic_of(found) if _was_routed(observed.service, which) else ()
    ingress_ready = (of_service.get(share.revision) for share in shares if share.percent)
    return KnativeService(
        found, made, tuple(of_service.values()), tuple(r for r in ingress_ready if r is not None)
    )


def _was_routed(service: Object, which: ComponentSpec) -> bool:
    """Whether traffic has come in once: before that Knative only says where it is to go.

    KServe notes a component's address when its Knative Service is Ready first.
    """
    status = get_map(service, "status", "components", which.component.lower())
    return bool(status.get("url"))


def traffic_of(knative_service: Object) -> tuple[TrafficShare, ...]:
    """The percent of traffic that goes to each Revision by now, in the order of the Service."""
    shares: dict[str, int] = {}
    for target in get_list(knative_service, "status", "traffic"):
        name = str(target.get("revisionName") or "")
        shares[name] = shares.get(name, 0) + int(target.get("percent") or 0)
    return tuple(TrafficShare(name, percent) for name, percent in shares.items())


def is_asked(service: Object, which: ComponentSpec, knative_service: Object) -> bool:
    """Whether the Knative Service asks for what the component's present spec does.

    Scaling and traffic are not in the marker, and a Revision of its own comes of the former.
    """
    template = get_map(knative_service, "spec", "template")
    return (
        is_applied(service, which, template)
        and _scaling_of(template) == _asked_scaling(service, which)
        and _timeouts_fit(which.spec, get_map(template, "spec"))
        and _split_fits(service, which, knative_service)
    )


def _revisions_of(knative_service: Object, observed: ObservedObjects) -> Iterator[Revision]:
    uid = uid_of(knative_service)
    deployments = {controller_of(d): d for d in observed.deployments}
    for revision in observed.revisions:
        if get_map(revision, "metadata", "labels").get(_SERVICE_UID_LABEL) == uid:
            made = deployments.get(uid_of(revision))
            yield Revision(revision, workload_of(made, observed) if made else None)


def _is_made_from(template: Object, revision: Object) -> bool:
    """Whether the Revision was made from the template, rather than from the one before."""
    told = [annotations_of(o).get(ROLLOUT_ANNOTATION) for o in (template, revision)]
    return (
        told[0] == told[1]
        and _scaling_of(template) == _scaling_of(revision)
        and contains(
            get_list(revision, "spec", "containers"), get_list(template, "spec", "containers")
        )
    )


def _scaling_of(template: Object) -> Mapping[str, str]:
    annotations = annotations_of(template)
    return {key: str(annotations[key]) for key in _SCALING if key in annotations}


def _asked_scaling(service: Object, which: ComponentSpec) -> Mapping[str, str]:
    """The annotations that KServe makes of the scaling fields.

    What the fields do not name it takes from annotations; bounds not from those of the object.
    """
    spec = which.spec
    own = get_map(spec, "annotations")
    inherited = {
        _MAX_SCALE: own.get(_MAX_SCALE),
        _TARGET: {**annotations_of(service), **own}.get(_TARGET),
        _METRIC: {**annotations_of(service), **own}.get(_METRIC),
    }
    named = {
        _MIN_SCALE: spec.get("minReplicas", 1),
        _MAX_SCALE: spec.get("maxReplicas") or None,
        _TARGET: spec.get("scaleTarget"),
        _METRIC: spec.get("scaleMetric"),
    }
    asked = {**inherited, **{key: value for key, value in named.items() if value is not None}}
    return {key: str(value) for key, value in asked.items() if value is not None}


def _timeouts_fit(spec: Object, revision_spec: Object) -> bool:
    """Knative puts in its own where nothing is asked."""
    names = {"timeout": "timeoutSeconds", "containerConcurrency": "containerConcurrency"}
    return all(
        spec.get(ours) is None or revision_spec.get(theirs) == spec[ours]
        for ours, theirs in names.items()
    )


def _split_fits(service: Object, which: ComponentSpec, knative_service: Object) -> bool:
    """Whether the newest Revision is to get the percent that the spec names.

    As long as there was no other to share with, it gets all.
    """
    percent: Any = which.spec.get("canaryTrafficPercent")
    status = get_map(service, "status", "components", which.component.lower())
    splits = percent is not None and bool(status.get("latestRolledoutRevision"))
    return _asked_traffic(knative_service)[True, int(percent) if splits else 100] > 0


def _asked_traffic(knative_service: Object) -> Counter[tuple[object, int]]:
    """How many targets have each percent, by Revision; that of the newest goes by True."""
    targets = get_list(knative_service, "spec", "traffic")
    return Counter(
        (t.get("latestRevision") or t.get("revisionName"), int(t.get("percent") or 0))
        for t in targets
    )


def _told_traffic(knative_service: Object) -> Counter[tuple[object, int]]:
    """The same by now: what follows the newest Revision counts as its own once it is there."""
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
