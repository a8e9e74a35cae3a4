"""The InferenceService: its spec and its status.

Everything here is frozen: a change is a new object, so that readers can keep references.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import InferenceServiceStatus


class ServiceKey(NamedTuple):
    """A service's namespace and name: unique in a cluster, and free again after a delete."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class SecretKeyRef:
    """One key of a Secret in the service's namespace. Its value is never read."""

    secret: str
    key: str


@dataclass(frozen=True, slots=True)
class ContainerPredictor:
    """A container image that serves on `port` (0: KServe's default, 8080)."""

    image: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    port: int = 0


@dataclass(frozen=True, slots=True)
class ModelFormat:
    """A model format as serving runtimes name it, such as `sklearn`; version may be empty."""

    name: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class ModelPredictor:
    """Model files, served by the named runtime, or by one that KServe selects for the format."""

    format: ModelFormat
    storage_uri: str = ""
    runtime: str = ""
    protocol_version: str = ""
    args: tuple[str, ...] = ()


ServingPredictor = ContainerPredictor | ModelPredictor


@dataclass(frozen=True, slots=True)
class RegisteredModelPredictor:
    """A version of a registered model, in a serving environment, all by name.

    `version` empty: the model's default, else its newest READY version. `resolved` is the predictor
    of that version; clusters only get predictors that have both.
    """

    project: str
    model: str
    environment: str
    version: str = ""
    resolved: ServingPredictor | None = None


Predictor = ServingPredictor | RegisteredModelPredictor


@dataclass(frozen=True, slots=True)
class Resources:
    """Quantities by resource name, in the form of `server.domain.kubernetes.quantities`."""

    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scaling:
    """Bounds and target of the autoscaler; None: KServe's default.

    A change of these alone keeps the present pods, except in Knative mode, where it creates a
    Revision.
    """

    min_replicas: int | None = None
    max_replicas: int | None = None
    target: int | None = None
    metric: str = ""


ROLLING = "ROLLING"
RECREATE = "RECREATE"


@dataclass(frozen=True, slots=True)
class RolloutStrategy:
    """How new pods replace the old ones. A change of it alone keeps the present pods.

    `type` is ROLLING or RECREATE. For ROLLING `max_surge` and `max_unavailable` have a number or a
    percentage of the replicas; empty: Kubernetes' default, 25%.
    """

    type: str
    max_surge: str = ""
    max_unavailable: str = ""


@dataclass(frozen=True, slots=True)
class Toleration:
    """A Kubernetes toleration, in Kubernetes' own words."""

    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """The settings of a predictor. Empty strings, empty maps and None mean: not set."""

    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, SecretKeyRef] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    scaling: Scaling = field(default_factory=Scaling)
    service_account: str = ""
    image_pull_policy: str = ""
    deployment_mode: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    request_timeout: timedelta | None = None
    rollout_strategy: RolloutStrategy | None = None
    ready_timeout: timedelta | None = None

    @property
    def recreates(self) -> bool:
        """Report whether the old pods are stopped before new ones start."""
        return self.rollout_strategy is not None and self.rollout_strategy.type == RECREATE


@dataclass(frozen=True, slots=True)
class InferenceServiceSpec(ServingOptions):
    """The spec of a service: a predictor and its settings."""

    predictor: Predictor

    @property
    def serving(self) -> ServingPredictor:
        """Return the predictor that runs: for a registered model the resolved one."""
        if not isinstance(self.predictor, RegisteredModelPredictor):
            return self.predictor
        assert self.predictor.resolved, "clusters get resolved predictors only"
        return self.predictor.resolved

    @property
    def of_pods(self) -> InferenceServiceSpec:
        """Return the spec without the fields whose change keeps the present pods."""
        return replace(self, scaling=Scaling(), rollout_strategy=None)


# The range of a protobuf Duration in JSON; timedelta holds it.
LONGEST_DURATION_SECONDS = 315_576_000_000


@dataclass(frozen=True, slots=True, weakref_slot=True)
class InferenceService:
    """A service in the cluster.

    `spec` is None only if an unmanaged object has nothing that fits the API. `labels` and
    `annotations` are the user's; `selectable_labels` are all labels of the object, which label
    selectors match. `etag` changes with uid, spec, labels and annotations, never with status.
    `generation` is that of the newest rollout; a deletion adds none. `deployment_id` names the
    deployment record in the registry, if there is one, and `deployed_by` the user of the Deploy
    that made the present pods, if it is known. `spec_writer` names the last writer of the
    spec, if the cluster reports one.
    """

    key: ServiceKey
    uid: str
    generation: int
    spec: InferenceServiceSpec | None
    status: InferenceServiceStatus
    etag: str
    create_time: datetime
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    selectable_labels: Mapping[str, str] = field(default_factory=dict)
    delete_time: datetime | None = None
    unmanaged: bool = False
    deployment_id: str = ""
    deployed_by: str = ""
    spec_writer: str = ""

    @property
    def rollout(self) -> Rollout:
        """Return the newest rollout."""
        return Rollout(self.uid, self.generation)
