"""The record of one deployment from the registry: what was wanted, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from server.domain.inference_service import ServiceKey
from server.domain.rollout import Rollout
from server.domain.status import Failure


class DesiredState(StrEnum):
    """What was asked for last; the values are the contract's names."""

    DEPLOYED = "DEPLOYED"
    UNDEPLOYED = "UNDEPLOYED"


class DeploymentState(StrEnum):
    """What became of it; the values are the contract's names.

    DEPLOYED: it was READY once. A record with an `end_time` is at its end and never changes again:
    SUPERSEDED, UNDEPLOYED, or FAILED because the cluster refused the Deploy or never got it. FAILED
    without one is a rollout that fails: the cluster may still bring it to DEPLOYED.
    """

    PENDING = "PENDING"
    DEPLOYED = "DEPLOYED"
    FAILED = "FAILED"
    SUPERSEDED = "SUPERSEDED"
    UNDEPLOYED = "UNDEPLOYED"


@dataclass(frozen=True, slots=True)
class ModelDeployment:
    """One Deploy of a version of a registered model to an environment, by their names at the time.

    `content` is a fingerprint of the spec but for its scaling, `rollout` the newest one known to
    carry it (None until the cluster has answered). `failure` is what is wrong now, or was when it
    ended; `error_reason` and `error_message` are of the refused Deploy. Times never move back.
    """

    id: str
    project: str
    model: str
    version: str
    environment: str
    model_id: str
    version_id: str
    environment_id: str
    service: ServiceKey
    content: str
    create_time: datetime
    update_time: datetime
    rollout: Rollout | None = None
    desired_state: DesiredState = DesiredState.DEPLOYED
    state: DeploymentState = DeploymentState.PENDING
    url: str = ""
    failure: Failure | None = None
    error_reason: str = ""
    error_message: str = ""
    caller: str = ""
    ready_time: datetime | None = None
    end_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeploymentFilter:
    """Which deployments of a project; what is empty or None does not narrow.

    `created_after` is exclusive as `created_before` is.
    """

    project: str
    model: str = ""
    version: str = ""
    environment: str = ""
    namespace: str = ""
    service: str = ""
    states: frozenset[DeploymentState] = frozenset()
    created_after: datetime | None = None
    created_before: datetime | None = None
