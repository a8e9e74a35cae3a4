"""Parse the components of an InferenceService, and the Deployments that run them.

Components come from the spec, since the status keeps naming removed ones. Deployments are found by
KServe's names for them, since a canary's Deployment has the same labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from server.adapters.kserve.objects import (
    Object,
    annotations_of,
    controller_of,
    created_at,
    get_condition,
    get_map,
    name_of,
    parse_time,
    uid_of,
)
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.pods.pod import Pod, parse_pod
from server.domain.rollout.status import Component

HASH_LABEL = "pod-template-hash"
FORMER_SUFFIX = "-default"


@dataclass(frozen=True, slots=True)
class ComponentSpec:
    """Hold one component of the spec.

    `deployments`: the names of its Deployments, the one with the scale first. `ready_condition`:
    the type of KServe's condition for it. `min_scale`: the fewest replicas, 0 allowed.
    `min_replicas`: the same in Standard mode, where KServe keeps at least one.
    """

    kind: Component
    spec: Object
    deployments: tuple[str, ...]
    ready_condition: str
    min_scale: int
    min_replicas: int


@dataclass(frozen=True, slots=True)
class ParsedDeployment:
    """Hold a Deployment with the ReplicaSet of its present pod template.

    `current` is empty until Kubernetes has created that ReplicaSet. `up_to_date`: the status is
    about the present spec. `progress`: the condition Progressing, if it is about `current`.
    `completed_at`: when all pods of the present template were first available; Kubernetes keeps it
    through scaling and failing pods.
    """

    obj: Object
    uid: str
    template: Object
    replica_sets: Mapping[str, Object]
    current: Object
    current_uid: str
    replicas: int
    total: int
    updated: int
    ready: int
    available: int
    up_to_date: bool
    available_condition: Object
    progress: Object
    completed_at: datetime | None

    @property
    def counts_template(self) -> bool:
        """Return whether `updated` counts pods of the present template.

        A scaling or an annotation raises the generation, and leaves the template as it was.
        """
        return self.up_to_date or bool(self.progress)

    @property
    def revision(self) -> str:
        """Return the revision number of the present template."""
        return str(annotations_of(self.current).get("deployment.kubernetes.io/revision", ""))

    @property
    def started_at(self) -> datetime | None:
        """Return when Kubernetes was first asked for pods of the present template."""
        return created_at(self.current) if self.current else None


@dataclass(frozen=True, slots=True)
class Workload:
    """Hold a Deployment with its pods. `new_pods` are made from its present template."""

    deployment: ParsedDeployment
    pods: tuple[Pod, ...]
    new_pods: tuple[Pod, ...]

    def count_ready(self, now: datetime) -> tuple[int, int]:
        """Count the ready pods: those that count as stable, and those that exited recently.

        A probe may find the port open before the model is loaded, and again after each exit.
        """
        exited = [bool(p.stable_at(now)) for p in self.pods if p.is_ready]
        return exited.count(False), exited.count(True)


def component_specs(service: Object) -> Iterator[ComponentSpec]:
    """Yield the components of the spec, the predictor first."""
    name, spec = name_of(service), get_map(service, "spec")
    predictor = get_map(spec, "predictor")
    infix = f"-{predictor['name']}" if predictor.get("name") else ""
    workers = (f"{name}-predictor-worker",) if "workerSpec" in predictor else ()
    yield _component_spec(Component.PREDICTOR, predictor, f"{name}{infix}-predictor", *workers)
    for kind in (Component.TRANSFORMER, Component.EXPLAINER):
        if kind.lower() in spec:
            yield _component_spec(kind, get_map(spec, kind.lower()), f"{name}-{kind.lower()}")


def _component_spec(kind: Component, spec: Object, *deployments: str) -> ComponentSpec:
    least = spec.get("minReplicas")
    min_scale = 1 if least is None else int(least)
    ready_condition = f"{kind.capitalize()}Ready"
    return ComponentSpec(kind, spec, deployments, ready_condition, min_scale, max(1, min_scale))


def find_child(objects: Iterable[Object], name: str) -> Object:
    """Return the object that KServe created under this name, or an empty one.

    KServe 0.15 keeps the name that an earlier release gave to the children of an old service.
    """
    by_name = {name_of(o): o for o in objects}
    return by_name.get(name) or by_name.get(f"{name}{FORMER_SUFFIX}") or {}


def parsed_deployments(observed: ObservedObjects) -> tuple[ParsedDeployment, ...]:
    """Return all Deployments of the service."""
    return observed.cache.parse(_parse_deployments, observed.deployments, observed.replica_sets)


def workload_of(deployment: ParsedDeployment, observed: ObservedObjects) -> Workload:
    """Return a Deployment with its pods."""
    parsed = observed.cache.parse_each(parse_pod, observed.pods)
    pods = tuple(p for p in parsed if p.controller in deployment.replica_sets)
    new = tuple(p for p in pods if p.controller == deployment.current_uid)
    return Workload(deployment, pods, new)


def stable_at(workloads: Sequence[Workload], now: datetime) -> datetime | None:
    """Return when the new pods will count as stable; None if none exited recently."""
    pods = [p for w in workloads for p in w.new_pods if p.is_live]
    return max((at for p in pods for at in p.stable_at(now)), default=None)


def unavailable_since(workloads: Sequence[Workload], now: datetime) -> datetime:
    """Return since when no pod is ready, as far as the cluster reports it."""
    times = [
        parse_time(p.conditions.get("Ready", {}).get("lastTransitionTime")) or p.created_at
        for w in workloads
        for p in w.pods
    ]
    for condition in (w.deployment.available_condition for w in workloads):
        since = parse_time(condition.get("lastTransitionTime"))
        if condition.get("status") == "False" and since:
            times.append(since)
    return min(now, max(times, default=now))


def _parse_deployments(
    deployments: tuple[Object, ...], replica_sets: tuple[Object, ...]
) -> tuple[ParsedDeployment, ...]:
    owners = [(controller_of(r), r) for r in replica_sets]
    return tuple(
        _parse_deployment(d, {uid_of(r): r for owner, r in owners if owner == uid_of(d)})
        for d in deployments
    )


def _parse_deployment(deployment: Object, replica_sets: Mapping[str, Object]) -> ParsedDeployment:
    spec, status = get_map(deployment, "spec"), get_map(deployment, "status")
    template = get_map(spec, "template")
    # Kubernetes, too, takes the ReplicaSet of the same template, the oldest of several. A revision
    # number lags, and an earlier spec that comes back gets its old ReplicaSet again.
    same = [r for r in replica_sets.values() if _has_template(r, template)]
    current = min(
        same, key=lambda r: (str(r["metadata"]["creationTimestamp"]), name_of(r)), default={}
    )
    progress = get_condition(deployment, "Progressing")
    # The condition stays on an earlier template until Kubernetes has looked at the present one; it
    # names the ReplicaSet that it is about.
    if not current or f'"{name_of(current)}"' not in str(progress.get("message")):
        progress = {}
    completed = (progress.get("status"), progress.get("reason")) == (
        "True",
        "NewReplicaSetAvailable",
    )
    replicas, generation = spec.get("replicas"), int(deployment["metadata"]["generation"])
    return ParsedDeployment(
        obj=deployment,
        uid=uid_of(deployment),
        template=template,
        replica_sets=replica_sets,
        current=current,
        current_uid=uid_of(current) if current else "",
        replicas=1 if replicas is None else int(replicas),
        total=int(status.get("replicas") or 0),
        updated=int(status.get("updatedReplicas") or 0),
        ready=int(status.get("readyReplicas") or 0),
        available=int(status.get("availableReplicas") or 0),
        up_to_date=int(status.get("observedGeneration") or 0) >= generation,
        available_condition=get_condition(deployment, "Available"),
        progress=progress,
        completed_at=parse_time(progress.get("lastUpdateTime")) if completed else None,
    )


def _has_template(replica_set: Object, template: Object) -> bool:
    own = get_map(replica_set, "spec", "template")
    labels = {k: v for k, v in get_map(own, "metadata", "labels").items() if k != HASH_LABEL}
    return (
        labels == get_map(template, "metadata", "labels")
        and get_map(own, "metadata", "annotations") == get_map(template, "metadata", "annotations")
        and own.get("spec") == template.get("spec")
    )
