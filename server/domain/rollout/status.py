"""The status of a service: its state, failure and components."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

# In a message, before a line of a log, which each process reads by itself. It ends the message.
LAST_LOG_LINE = ", its last log line: "


class State(StrEnum):
    """The states of a service, by the API's names."""

    PENDING = "PENDING"
    PROGRESSING = "PROGRESSING"
    READY = "READY"
    DEGRADED = "DEGRADED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    DELETING = "DELETING"


class FailureReason(StrEnum):
    """The reasons of failure, by the API's names."""

    IMAGE_PULL = "IMAGE_PULL"
    STORAGE_DOWNLOAD = "STORAGE_DOWNLOAD"
    STORAGE_SCHEME = "STORAGE_SCHEME"
    MODEL_LOAD = "MODEL_LOAD"
    CRASH_LOOP = "CRASH_LOOP"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NOT_ANSWERING = "NOT_ANSWERING"
    CONTAINER_CONFIG = "CONTAINER_CONFIG"
    VOLUME = "VOLUME"
    UNSCHEDULABLE = "UNSCHEDULABLE"
    QUOTA = "QUOTA"
    POD_REJECTED = "POD_REJECTED"
    NO_RUNTIME = "NO_RUNTIME"
    INVALID_SPEC = "INVALID_SPEC"
    PROGRESS_DEADLINE = "PROGRESS_DEADLINE"
    NODE_LOST = "NODE_LOST"
    INGRESS = "INGRESS"
    NO_CONTROLLER = "NO_CONTROLLER"
    UPDATES_DISABLED = "UPDATES_DISABLED"
    SCALED_TO_ZERO = "SCALED_TO_ZERO"
    EVICTED = "EVICTED"
    TRAFFIC_PINNED = "TRAFFIC_PINNED"
    RECONCILE_FAILED = "RECONCILE_FAILED"


class Component(StrEnum):
    """The components of a service."""

    PREDICTOR = "PREDICTOR"
    TRANSFORMER = "TRANSFORMER"
    EXPLAINER = "EXPLAINER"


@dataclass(frozen=True, slots=True)
class Failure:
    """A problem, its place and its remedy: made by `failures.failure_of`.

    `rollout_id` is empty if no rollout is to blame. `exit_code` is None if no container exited.
    `retrying`: the cluster retries by itself. `container_text`: the end of the message, if a
    container wrote it.
    """

    reason: FailureReason
    message: str
    remedy: str
    retrying: bool
    rollout_id: str = ""
    component: Component | None = None
    pod: str = ""
    container: str = ""
    exit_code: int | None = None
    restart_count: int = 0
    log_lines: tuple[str, ...] = ()
    first_seen_time: datetime | None = None
    container_text: str = ""

    def with_container_text(self, text: str) -> Failure:
        """Return the failure with `text` in place of the container's text in its message."""
        message = self.message.removesuffix(self.container_text) + text
        return replace(self, message=message, container_text=text)


@dataclass(frozen=True, slots=True)
class TrafficShare:
    """The percentage of traffic that goes to a revision."""

    revision: str
    percent: int


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """Replica counts of one component, and the split of its traffic.

    `latest_revision` names the newest ReplicaSet's revision, or the newest Knative Revision.
    """

    component: Component
    desired_replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    latest_revision: str = ""
    traffic: tuple[TrafficShare, ...] = ()


@dataclass(frozen=True, slots=True)
class Condition:
    """One of the cluster's own conditions, unchanged; the state does not follow from it alone.

    `container_text`: the end of the message, if a container wrote it.
    """

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None
    container_text: str = ""


@dataclass(frozen=True, slots=True)
class InferenceServiceStatus:
    """The state of a service, with its details.

    `serving`: a revision answers, perhaps an older one. `latest_ready_generation`: the newest
    generation that this process saw READY.
    """

    state: State
    message: str = ""
    serving: bool = False
    latest_ready_generation: int | None = None
    failure: Failure | None = None
    url: str = ""
    cluster_url: str = ""
    serving_runtime: str = ""
    deployment_mode: str = ""
    components: tuple[ComponentStatus, ...] = ()
    conditions: tuple[Condition, ...] = ()
    last_transition_time: datetime | None = None
