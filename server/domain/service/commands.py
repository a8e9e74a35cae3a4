"""The commands of callers, Deploy and Delete, and their results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from server.deadline import Deadline
from server.domain.errors import ServiceError
from server.domain.rollout.rollout_id import Rollout
from server.domain.service.inference_service import (
    InferenceService,
    InferenceServiceSpec,
    ServiceKey,
)
from server.domain.service.write_warnings import WriteWarning

# Of the name of a caller that is kept with a service.
MOST_USER = 256
STOP_ANNOTATION = "serving.kserve.io/stop"
MANAGED_BY_LABEL = ("app.kubernetes.io/managed-by", "modelservice")
OUR_PREFIX = "modelservice.dev/"
MODEL_ID_LABEL = f"{OUR_PREFIX}registered-model-id"
VERSION_ID_LABEL = f"{OUR_PREFIX}model-version-id"
ENVIRONMENT_ID_LABEL = f"{OUR_PREFIX}environment-id"
_LATER_FIELDS = ("rollout_strategy", "ready_timeout")
SERVICE_ID_LABEL = f"{OUR_PREFIX}service-id"


class Action(StrEnum):
    """The effects of a Deploy, by the API's names."""

    CREATED = "CREATED"
    UPDATED = "UPDATED"
    UNCHANGED = "UNCHANGED"
    RESTARTED = "RESTARTED"


@dataclass(frozen=True, slots=True)
class Provenance:
    """The registry resources that a Deploy comes from, by ids, which become labels of the object.

    `service_id` is the same for everything that was deployed under one name for one project.
    `deployment_id` names the record of this deployment; empty in a dry run. It is an annotation of
    the pods beside the rollout hash, so it changes only in writes that replace the pods: a restart,
    a change of scaling or strategy alone and an unchanged Deploy keep the present one.
    """

    model_id: str
    version_id: str
    environment_id: str
    service_id: str
    deployment_id: str = ""

    @property
    def labels(self) -> Mapping[str, str]:
        """Return the labels of the object."""
        return {
            MODEL_ID_LABEL: self.model_id,
            VERSION_ID_LABEL: self.version_id,
            ENVIRONMENT_ID_LABEL: self.environment_id,
            SERVICE_ID_LABEL: self.service_id,
        }


def _soon() -> Deadline:
    return Deadline.after(30)


@dataclass(frozen=True, slots=True)
class Deploy:
    """Replace the whole spec of a service, or create the service.

    `spec` None keeps spec, labels and annotations; `restart`, `stop` or `refusal` allow that.
    `stop` stops the service, or starts it where False. With `only_rollout` nothing is written
    unless that is the newest rollout. The cluster has to answer before `deadline`. `provenance` is
    set for a registered model. `sent_hash` is the body_hash of the request before its model or
    revision was resolved. `absence_refused` is raised where there is no service, and its caller may
    not create one. `refusal` is raised unless this is a retry with the request_id of an earlier
    write. `user` is the caller's name, of at most MOST_USER characters; empty where callers have no
    identity. `rollback_of` is the number of the revision whose content this is; 0: it is no
    rollback. A registered version may be ARCHIVED with `archived_allowed`.
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
    stop: bool | None = None
    only_rollout: Rollout | None = None
    provenance: Provenance | None = None
    sent_hash: str = ""
    rollback_of: int = 0
    archived_allowed: bool = False
    deadline: Deadline = field(default_factory=_soon, compare=False)
    absence_refused: ServiceError | None = field(default=None, compare=False)
    refusal: ServiceError | None = field(default=None, compare=False)
    user: str = field(default="", compare=False)

    @property
    def origin(self) -> Mapping[str, str]:
        """Return the labels of its provenance; empty without one."""
        return self.provenance.labels if self.provenance else {}

    @property
    def deployment_id(self) -> str:
        """Return the id of the deployment record; empty without one."""
        return self.provenance.deployment_id if self.provenance else ""

    @property
    def body_hash(self) -> str:
        """Hash the request; a request_id must not be reused with another hash."""
        return self.sent_hash or fingerprint(
            [
                _hashed_fields(self.spec) if self.spec else None,
                dict(self.labels),
                dict(self.annotations),
                self.restart,
                predictor_type(self.spec),
                *([] if self.stop is None else [self.stop]),
            ]
        )


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a service and everything that KServe created for it. `user`: as in a Deploy."""

    key: ServiceKey
    etag: str = ""
    force: bool = False
    validate_only: bool = False
    deadline: Deadline = field(default_factory=_soon, compare=False)
    user: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of a Deploy.

    `rollout` is None for a dry run; for a replayed request_id it is that of the first write.
    `warnings`: of the cluster and about the stored spec.
    """

    service: InferenceService
    action: Action
    rollout: Rollout | None
    warnings: tuple[WriteWarning, ...] = ()


def _hashed_fields(spec: InferenceServiceSpec) -> dict[str, Any]:
    """Return the fields of a spec. Later fields are left out while they are unset, so that hashes
    which an earlier release stored stay valid."""
    given = asdict(spec)
    return {k: v for k, v in given.items() if not (k in _LATER_FIELDS and v is None)}


def is_stop_requested(annotations: Mapping[str, Any]) -> bool:
    """Report whether STOP_ANNOTATION is "true"; KServe ignores the case of its value."""
    return str(annotations.get(STOP_ANNOTATION, "")).lower() == "true"


def predictor_type(spec: InferenceServiceSpec | None) -> str:
    """Name the type of the predictor, which its fields alone do not show."""
    return type(spec.predictor).__name__ if spec else ""


def fingerprint(content: Any) -> str:
    """Hash content, independent of the order of keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
