"""The InferenceService: what was asked for, and how it is.

Everything here is frozen: a change is a new object, so that a reader can keep what it was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import InferenceServiceStatus


class ServiceKey(NamedTuple):
    """The name a service goes by: unique in a cluster at a time, reused after a delete."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class SecretKeyRef:
    """One key of a Secret in the service's namespace. The value itself never passes through."""

    secret: str
    key: str


@dataclass(frozen=True, slots=True)
class ContainerPredictor:
    """A container image of the caller's own that answers on `port` (0: KServe's default, 8080)."""

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
    """A stored model, served by a runtime: the named one, or one that KServe selects by format."""

    format: ModelFormat
    storage_uri: str = ""
    runtime: str = ""
    protocol_version: str = ""
    args: tuple[str, ...] = ()


ServingPredictor = ContainerPredictor | ModelPredictor


@dataclass(frozen=True, slots=True)
class RegisteredModelPredictor:
    """A version of a registered model, in a serving environment, all by name.

    `version` empty: the model's default, else its newest READY one. `resolved` is what that comes
    to; a cluster is only ever asked for a predictor that has both.
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

    A change of these alone leaves the pods that are there, except in Knative mode, where it makes a
    Revision.
    """

    min_replicas: int | None = None
    max_replicas: int | None = None
    target: int | None = None
    metric: str = ""


@dataclass(frozen=True, slots=True)
class Toleration:
    """A Kubernetes toleration, its words as Kubernetes spells them."""

    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingOptions:
    """How a predictor is run. Empty strings, maps and None mean: not asked."""

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


@dataclass(frozen=True, slots=True)
class InferenceServiceSpec(ServingOptions):
    """What a caller asks for: what to run, and how."""

    predictor: Predictor

    @property
    def serving(self) -> ServingPredictor:
        """What really runs: for a registered model, what it was resolved to."""
        if not isinstance(self.predictor, RegisteredModelPredictor):
            return self.predictor
        assert self.predictor.resolved, "a cluster is asked for what is resolved only"
        return self.predictor.resolved


# The range that the JSON mapping of a protobuf Duration has; timedelta holds it.
LONGEST_DURATION_SECONDS = 315_576_000_000


@dataclass(frozen=True, slots=True, weakref_slot=True)
class InferenceService:
    """One service as the cluster has it.

    `spec` is None only where an unmanaged object has nothing that fits the contract.
    `labels` and `annotations` are the user's own; `selectable_labels` are all of the object's,
    which label selectors see. `etag` changes with uid, spec, labels and annotations, never with
    status. `generation` is that of the newest rollout; a mark of deletion makes none.
    `deployment_id` names the record of the deployment from the registry that it comes from; empty
    where it does not. `spec_writer` names who wrote the spec last; empty where the cluster does not
    say.
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
    spec_writer: str = ""

    @property
    def rollout(self) -> Rollout:
        """The rollout that the cluster is asked for now."""
        return Rollout(self.uid, self.generation)
