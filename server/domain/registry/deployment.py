"""The record of one deployment from the registry: what was wanted, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import Failure
from server.domain.service.commands import fingerprint
from server.domain.service.inference_service import InferenceServiceSpec, Scaling, ServiceKey


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

    `content` is the `content_of` its spec, `rollout` the newest one known to carry it (None until
    the cluster has answered). `failure` is what is wrong now, or was when it ended; `error_reason`
    and `error_message` are of the refused Deploy. Times never move back.
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


def content_of(spec: InferenceServiceSpec) -> str:
    """A fingerprint of what a spec runs, whatever its scaling, and its mode, which stays.

    Fields that are as they are unless asked for are left out: those that a later release adds
    change no fingerprint of before.
    """
    unscaled = replace(spec, predictor=spec.serving, scaling=Scaling(), deployment_mode="")
    return fingerprint([type(spec.serving).__name__, _asked(unscaled)])


def _asked(value: Any) -> Any:
    if is_dataclass(value):
        asked = [f for f in fields(value) if getattr(value, f.name) != _default(f)]
        return {f.name: _asked(getattr(value, f.name)) for f in asked}
    if isinstance(value, Mapping):
        return {name: _asked(part) for name, part in value.items()}
    return [_asked(part) for part in value] if isinstance(value, tuple) else value


def _default(of: Field[Any]) -> Any:
    return of.default if of.default_factory is MISSING else of.default_factory()
