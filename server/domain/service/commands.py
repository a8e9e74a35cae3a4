"""What callers ask the cluster to do, and what they are answered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

from server.domain.rollout.rollout_id import Rollout
from server.domain.service.inference_service import (
    InferenceService,
    InferenceServiceSpec,
    ServiceKey,
)

STOP_ANNOTATION = "serving.kserve.io/stop"
MANAGED_BY_LABEL = ("app.kubernetes.io/managed-by", "modelservice")
OUR_PREFIX = "modelservice.dev/"
MODEL_ID_LABEL = f"{OUR_PREFIX}registered-model-id"
VERSION_ID_LABEL = f"{OUR_PREFIX}model-version-id"
ENVIRONMENT_ID_LABEL = f"{OUR_PREFIX}environment-id"
SERVICE_ID_LABEL = f"{OUR_PREFIX}service-id"


class Action(StrEnum):
    """What a Deploy did; the values are the contract's names."""

    CREATED = "CREATED"
    UPDATED = "UPDATED"
    UNCHANGED = "UNCHANGED"
    RESTARTED = "RESTARTED"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where in the registry a Deploy comes from, by ids, which become labels of the object.

    `service_id` is the same for everything that was ever deployed under one name for one project.
    `deployment_id` names the record of this deployment; empty in a dry run. It rides on the object
    beside the rollout's marker, so it changes only in writes that make a new rollout with other
    pods: a restart, a change of scaling alone and an unchanged Deploy leave the one that is there.
    """

    model_id: str
    version_id: str
    environment_id: str
    service_id: str
    deployment_id: str = ""

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels that the object carries for it."""
        return {
            MODEL_ID_LABEL: self.model_id,
            VERSION_ID_LABEL: self.version_id,
            ENVIRONMENT_ID_LABEL: self.environment_id,
            SERVICE_ID_LABEL: self.service_id,
        }


@dataclass(frozen=True, slots=True)
class Deploy:
    """Replace the whole spec of a service, or make it.

    `spec` None keeps spec, labels and annotations; only `restart` may ask for that. `timeout` is
    how long an answer of the cluster is waited for. `provenance` stands with a registered model,
    and then `asked` is the body_hash of what the caller sent, before it was resolved.
    """

    key: ServiceKey
    spec: InferenceServiceSpec | None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    etag: str = ""
    request_id: str = ""
    validate_only: bool = False
    restart: bool = False
    force: bool = False
    create_only: bool = False
    provenance: Provenance | None = None
    asked: str = ""
    timeout: timedelta = timedelta(seconds=30)

    @property
    def origin(self) -> Mapping[str, str]:
        """The labels that tell where in the registry it comes from; none where it does not."""
        return self.provenance.labels if self.provenance else {}

    @property
    def deployment_id(self) -> str:
        """The record of this deployment; empty where there is none."""
        return self.provenance.deployment_id if self.provenance else ""

    @property
    def body_hash(self) -> str:
        """The same for the same wish: what a request_id may not be reused across."""
        return self.asked or fingerprint(
            [
                asdict(self.spec) if self.spec else None,
                dict(self.labels),
                dict(self.annotations),
                self.restart,
                type_name(self.spec),
            ]
        )


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a service with everything that KServe made for it."""

    key: ServiceKey
    etag: str = ""
    force: bool = False
    validate_only: bool = False
    timeout: timedelta = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Applied:
    """What a Deploy came to.

    `rollout` is None for a dry run; for a replayed request_id it is the first write's.
    """

    service: InferenceService
    action: Action
    rollout: Rollout | None


def asks_stop(annotations: Mapping[str, Any]) -> bool:
    """Whether STOP_ANNOTATION asks that nothing runs; KServe ignores the case of its value."""
    return str(annotations.get(STOP_ANNOTATION, "")).lower() == "true"


def type_name(spec: InferenceServiceSpec | None) -> str:
    """The kind of predictor, which the fields alone do not tell."""
    return type(spec.predictor).__name__ if spec else ""


def fingerprint(content: Any) -> str:
    """A short hash that does not depend on the order of keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
