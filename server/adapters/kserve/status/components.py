"""The components of a service, and the Deployments that KServe makes of them (Standard mode).

Components come from the spec: the status goes on naming those that were removed. Deployments are
found by KServe's names for them: a canary's carries the same labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from server.adapters.kserve.objects import (
    Object,
    controller_of,
    get_condition,
    get_map,
    name_of,
    parse_time,
    uid_of,
)
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.domain.rollout.status import Component

HASH_LABEL = "pod-template-hash"
FORMER_SUFFIX = "-default"


@dataclass(frozen=True, slots=True)
class ComponentSpec:
    """One component as the spec names it: its Deployments, the one with the scale first."""

    component: Component
    spec: Object
    deployments: tuple[str, ...]

    @property
    def ready_condition(self) -> str:
        """The type of KServe's condition for it."""
        return f"{self.component.capitalize()}Ready"

    @property
    def min_replicas(self) -> int:
        """The fewest replicas that the spec asks for, where KServe itself sees to it."""
        return max(1, self.min_scale)

    @property
    def min_scale(self) -> int:
        """The fewest replicas where there may be none."""
        least = self.spec.get("minReplicas")
        return 1 if least is None else int(least)


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment with its pods; those made from its present template are the new ones.

    `current` is empty until Kubernetes has made the ReplicaSet of that template.
    """

    deployment: Object
    current: Object
    new_pods: tuple[Object, ...]
    pods: tuple[Object, ...]


def component_specs(service: Object) -> Iterator[ComponentSpec]:
    """The components that the spec names, the predictor first."""
    name, spec = name_of(service), get_map(service, "spec")
    predictor = get_map(spec, "predictor")
    middle = f"-{predictor['name']}" if predictor.get("name") else ""
    workers = (f"{name}-predictor-worker",) if "workerSpec" in predictor else ()
    yield ComponentSpec(Component.PREDICTOR, predictor, (f"{name}{middle}-predictor", *workers))
    for component in (Component.TRANSFORMER, Component.EXPLAINER):
        kind = component.lower()
        if kind in spec:
            yield ComponentSpec(component, get_map(spec, kind), (f"{name}-{kind}",))


def workloads_of(which: ComponentSpec, observed: ObservedObjects) -> list[Workload]:
    """Those of the component's Deployments that are there."""
    found = (child_of(observed.deployments, name) for name in which.deployments)
    return [workload_of(deployment, observed) for deployment in found if deployment]


def autoscaler_of(which: ComponentSpec, observed: ObservedObjects) -> Object:
    """The component's HorizontalPodAutoscaler, or an empty object."""
    return child_of(observed.autoscalers, which.deployments[0])


def child_of(objects: Iterable[Object], name: str) -> Object:
    """The object that KServe made under this name, or an empty one.

    KServe 0.15 keeps the name that a former release gave to the children of an old service.
    """
    found = {name_of(o): o for o in objects}
    return found.get(name) or found.get(f"{name}{FORMER_SUFFIX}") or {}


def workload_of(deployment: Object, observed: ObservedObjects) -> Workload:
    """A Deployment with its ReplicaSet of the present template and its pods."""
    uid = uid_of(deployment)
    sets = [r for r in observed.replica_sets if controller_of(r) == uid]
    # Kubernetes, too, takes the set of the same template, and the oldest of several. A revision
    # number lags, and an earlier spec that comes back takes its old set again.
    same = [r for r in sets if _same_template(r, deployment)]
    current = min(
        same, key=lambda r: (str(r["metadata"]["creationTimestamp"]), name_of(r)), default={}
    )
    uids = {uid_of(r) for r in sets}
    pods = tuple(p for p in observed.pods if controller_of(p) in uids)
    new = tuple(p for p in pods if current and controller_of(p) == uid_of(current))
    return Workload(deployment, current, new, pods)


def _same_template(replica_set: Object, deployment: Object) -> bool:
    of_set, of_deployment = (get_map(o, "spec", "template") for o in (replica_set, deployment))
    labels = {k: v for k, v in get_map(of_set, "metadata", "labels").items() if k != HASH_LABEL}
    return (
        labels == get_map(of_deployment, "metadata", "labels")
        and get_map(of_set, "metadata", "annotations")
        == get_map(of_deployment, "metadata", "annotations")
        and of_set.get("spec") == of_deployment.get("spec")
    )


def replicas_of(workload: Object) -> int:
    """The replicas that a Deployment or ReplicaSet is asked for; Kubernetes' default is 1."""
    replicas = get_map(workload, "spec").get("replicas")
    return 1 if replicas is None else int(replicas)


def count(workload: Object, name: str) -> int:
    """One of the counts in a Deployment's or ReplicaSet's status."""
    return int(get_map(workload, "status").get(name) or 0)


def generation_seen(deployment: Object) -> bool:
    """Whether its status speaks of its present spec."""
    return count(deployment, "observedGeneration") >= int(deployment["metadata"]["generation"])


def progress_of(workload: Workload) -> Object:
    """Kubernetes' word on how the pods of the present template come up, or an empty object.

    It keeps the word on an earlier template until it has looked at the present one; each names the
    ReplicaSet that it is about.
    """
    progressing = get_condition(workload.deployment, "Progressing")
    name = name_of(workload.current)
    return progressing if name and f'"{name}"' in str(progressing.get("message")) else {}


def completed_at(workload: Workload) -> datetime | None:
    """When the pods of the present template were all there first.

    Kubernetes keeps this verdict through scaling and failing pods.
    """
    progress = progress_of(workload)
    completed = (
        progress.get("status") == "True" and progress.get("reason") == "NewReplicaSetAvailable"
    )
    return parse_time(progress.get("lastUpdateTime")) if completed else None
