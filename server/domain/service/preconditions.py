"""Check the preconditions of a command against the stored service: one rule for every cluster.

The stored service may be a stale copy, so an adapter with a cache reads it again before it reports
a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from server.domain.errors import (
    AlreadyExists,
    EtagMismatch,
    FieldInvalid,
    FieldViolation,
    NotManaged,
    RequestIdReused,
    RolloutGone,
    RolloutSuperseded,
    ServiceDeleting,
    ServiceNotFound,
)
from server.domain.revisions.revision import Revision
from server.domain.service.commands import (
    STOP_ANNOTATION,
    Action,
    Delete,
    Deploy,
    is_stop_requested,
)
from server.domain.service.inference_service import InferenceService, InferenceServiceSpec
from server.domain.service.validation import check_platform_keys

REMEMBERED_REQUESTS = 8


@dataclass(frozen=True, slots=True)
class PastRequest:
    """A past write with a request_id: its body hash, and the generation that it made."""

    request_id: str
    body_hash: str
    action: Action
    generation: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored service, with its remembered requests, oldest first, and its revisions, newest
    first.

    A service of a release without revisions has none, and one of a cluster that keeps them beside
    the service.
    """

    service: InferenceService
    requests: tuple[PastRequest, ...] = ()
    revisions: tuple[Revision, ...] = ()


def admit_deploy(deploy: Deploy, stored: Stored | None) -> PastRequest | None:
    """Admit a Deploy (None), or return the first write of its request_id.

    Raises the refusal. A replay is checked before the etag, since the first write itself made the
    caller's etag stale.
    """
    if stored is None:
        _admit_creation(deploy)
        check_platform_keys(deploy, {}, {})
        return None
    if stored.service.delete_time is not None:
        raise ServiceDeleting(deploy.key)
    replayed = _replayed(deploy, stored.requests)
    if replayed is None:
        if deploy.refusal:
            raise deploy.refusal
        _admit_update(deploy, stored.service)
        check_platform_keys(deploy, stored.service.labels, stored.service.annotations)
    return replayed


def admit_delete(delete: Delete, service: InferenceService | None) -> InferenceService:
    """Admit a Delete, or raise the refusal."""
    if service is None:
        raise ServiceNotFound(delete.key)
    if delete.etag and delete.etag != service.etag:
        raise EtagMismatch(delete.key)
    if service.unmanaged and not delete.force:
        raise NotManaged(delete.key)
    return service


def desired_spec(deploy: Deploy, stored: Stored | None) -> InferenceServiceSpec:
    """Return the spec to write: the given one, or the stored one for a plain restart.

    The stored deployment mode stays if the given spec has none: it cannot change, and KServe reads
    a missing one as the cluster's default.
    """
    present = stored.service.spec if stored else None
    spec = deploy.spec or present
    if spec is None:
        raise FieldInvalid([_no_spec(deploy)])
    if stored and present and not spec.deployment_mode and not stored.service.unmanaged:
        return replace(spec, deployment_mode=present.deployment_mode)
    return spec


def desired_annotations(deploy: Deploy, present: Mapping[str, str]) -> dict[str, str]:
    """Return the annotations to write, of a service that has the `present` ones.

    A Deploy with a spec replaces all but STOP_ANNOTATION, so that it starts no service by accident.
    """
    if deploy.spec is not None:
        kept = {key: text for key, text in present.items() if key == STOP_ANNOTATION}
        return kept | dict(deploy.annotations)
    if deploy.stop is None or keeps_stopped(deploy, present):
        return dict(present)
    return {**present, STOP_ANNOTATION: "true" if deploy.stop else "false"}


def keeps_stopped(deploy: Deploy, present: Mapping[str, str]) -> bool:
    """Report whether a Stop or Start finds the annotations as it wants them."""
    return deploy.stop is not None and deploy.stop == is_stop_requested(present)


def with_request(
    past: Sequence[PastRequest], deploy: Deploy, action: Action, generation: int
) -> tuple[PastRequest, ...]:
    """Return the last few requests, including this write if it has a request_id."""
    if not deploy.request_id:
        return tuple(past)
    new = PastRequest(deploy.request_id, deploy.body_hash, action, generation)
    return (*past, new)[-REMEMBERED_REQUESTS:]


def _admit_creation(deploy: Deploy) -> None:
    if deploy.absence_refused:
        raise deploy.absence_refused
    if deploy.etag or deploy.spec is None:
        raise ServiceNotFound(deploy.key)


def _admit_update(deploy: Deploy, service: InferenceService) -> None:
    if deploy.create_only:
        raise AlreadyExists(f"{deploy.key} exists already", uid=service.uid)
    _require_newest(deploy, service)
    if deploy.etag and deploy.etag != service.etag:
        raise EtagMismatch(deploy.key)
    if service.unmanaged and not deploy.force:
        raise NotManaged(deploy.key)


def _require_newest(deploy: Deploy, service: InferenceService) -> None:
    if deploy.only_rollout in (None, service.rollout):
        return
    if deploy.only_rollout.uid != service.uid:
        raise RolloutGone(f"{deploy.key} was deleted and created again since that rollout")
    writer = service.spec_writer
    raise RolloutSuperseded(
        f"the rollout_id is not that of the newest rollout of {deploy.key}; read it again",
        **({"field_manager": writer} if writer else {}),
    )


def _no_spec(deploy: Deploy) -> FieldViolation:
    if deploy.stop is None:
        return FieldViolation("spec", "must be the whole spec")
    why = "must be of a service whose spec this API can express"
    return FieldViolation("name", f"{why}: set the annotation {STOP_ANNOTATION} by kubectl")


def _replayed(deploy: Deploy, past: Sequence[PastRequest]) -> PastRequest | None:
    if not deploy.request_id or deploy.validate_only:
        return None
    first = next((p for p in past if p.request_id == deploy.request_id), None)
    if first and first.body_hash != deploy.body_hash:
        raise RequestIdReused(
            f"request_id {deploy.request_id!r} was used for another Deploy of {deploy.key};"
            " use a new one"
        )
    return first
