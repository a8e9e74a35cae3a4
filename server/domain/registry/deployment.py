"""The record of one deployment from the registry: its request and its outcome."""

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
    """The state that was requested last, by the API's names."""

    DEPLOYED = "DEPLOYED"
    UNDEPLOYED = "UNDEPLOYED"


class DeploymentState(StrEnum):
    """The outcome, by the API's names.

    DEPLOYED: it was READY once. A record with an `end_time` has ended and never changes again:
    SUPERSEDED, UNDEPLOYED, or FAILED because the cluster refused the Deploy or never received it.
    FAILED without one is a failing rollout, which can still become DEPLOYED.
    """

    PENDING = "PENDING"
    DEPLOYED = "DEPLOYED"
    FAILED = "FAILED"
    SUPERSEDED = "SUPERSEDED"
    UNDEPLOYED = "UNDEPLOYED"


@dataclass(frozen=True, slots=True)
class ModelDeployment:
    """One Deploy of a version of a registered model to an environment, by their names at the time.

    `content` is the `content_of` its spec, `rollout` the newest rollout with it (None until the
    cluster has answered). `failure` is the present problem, or the last one before its end;
    `error_reason` and `error_message` are of a refused Deploy. Times never move back.
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
    """A filter of a project's deployments; empty fields and None match all.

    `created_after` and `created_before` are both exclusive.
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
    """Hash a spec without its scaling, strategy and deployment mode.

    Fields with their default values are left out, so that fields of a later release do not change
    earlier hashes.
    """
    unscaled = replace(
        spec,
        predictor=spec.serving,
        scaling=Scaling(),
        rollout_strategy=None,
        deployment_mode="",
    )
    return fingerprint([type(spec.serving).__name__, _set_fields(unscaled)])


def _set_fields(value: Any) -> Any:
    if is_dataclass(value):
        given = [f for f in fields(value) if getattr(value, f.name) != _default(f)]
        return {f.name: _set_fields(getattr(value, f.name)) for f in given}
    if isinstance(value, Mapping):
        return {name: _set_fields(part) for name, part in value.items()}
    return [_set_fields(part) for part in value] if isinstance(value, tuple) else value


def _default(of: Field[Any]) -> Any:
    return of.default if of.default_factory is MISSING else of.default_factory()
