"""Plan an admitted Deploy: its action, and the service to store.

For clusters that store services in the form of the domain. The status is that of a service that was
just written.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import NamedTuple

from server.domain.revisions.kept_content import as_kept
from server.domain.revisions.revision import (
    MOST_REVISIONS,
    Revision,
    content_of_service,
    revision_of,
    same_rollout_content,
    superseded,
    to_keep,
    with_status,
)
from server.domain.rollout.status import InferenceServiceStatus, State
from server.domain.service.commands import (
    MANAGED_BY_LABEL,
    OUR_PREFIX,
    Action,
    Deploy,
    fingerprint,
    predictor_type,
)
from server.domain.service.inference_service import (
    InferenceService,
    InferenceServiceSpec,
    ServiceKey,
)
from server.domain.service.preconditions import (
    Stored,
    desired_annotations,
    desired_spec,
    with_request,
)


class Content(NamedTuple):
    """The content that a Deploy sets; `origin` are the labels of its provenance."""

    spec: InferenceServiceSpec | None
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    origin: Mapping[str, str]


def plan_deploy(
    deploy: Deploy, stored: Stored | None, most_revisions: int = MOST_REVISIONS
) -> tuple[Action, Stored]:
    """Return the action of an admitted Deploy, and the service to store with its revisions."""
    action, planned = _plan_service(deploy, stored)
    if action is Action.UNCHANGED:
        return action, planned
    return action, _with_revision(planned, stored, deploy, most_revisions)


def current_revisions(stored: Stored) -> tuple[Revision, ...]:
    """Return the revisions of a service, newest first, as its status shows them now.

    The newest one has the present content. It is made here if none is stored.
    """
    service = stored.service
    if not stored.revisions:
        known = service.create_time if service.generation == 1 else None
        return (revision_of(service, known),)
    newest, *older = stored.revisions
    newest = replace(newest, content=content_of_service(service))
    return (with_status(newest, service.rollout, service.status), *older)


def _with_revision(planned: Stored, before: Stored | None, deploy: Deploy, most: int) -> Stored:
    """Add a revision for a new content or a restart; else the newest one has the new content."""
    service = planned.service
    new = replace(revision_of(service, datetime.now(UTC)), rollback_of=deploy.rollback_of)
    if before is None:
        return replace(planned, revisions=(new,))
    newest, *older = current_revisions(before)
    if not deploy.restart and same_rollout_content(new.content, newest.content):
        revisions = [replace(newest, content=new.content), *older]
    else:
        revisions = to_keep([as_kept(new), as_kept(superseded(newest)), *older], most)
    return replace(planned, revisions=tuple(revisions))


def _plan_service(deploy: Deploy, stored: Stored | None) -> tuple[Action, Stored]:
    desired = _desired_content(deploy, stored)
    if stored is None:
        made = created(deploy.key, desired)
        made = replace(made, deployment_id=deploy.deployment_id, deployed_by=deploy.user)
        return Action.CREATED, _with_request(Stored(made), deploy, Action.CREATED)
    old = stored.service
    present = _content_of(old)
    same_pods = _reaching_pods(desired) == _reaching_pods(present) and not old.unmanaged
    action = _action(same_pods and desired == present, deploy.restart)
    if action is Action.UNCHANGED:
        return action, stored
    new = replace(stored, service=_updated(old, desired))
    if deploy.spec is not None and not same_pods:
        new = replace(new, service=replace(new.service, deployment_id=deploy.deployment_id))
    # Only a write that replaces pods can carry request_ids.
    rolls = deploy.restart or not same_pods
    if not rolls:
        return action, new
    new = replace(new, service=replace(new.service, deployed_by=deploy.user))
    return action, _with_request(new, deploy, action)


def initial_status(before: InferenceServiceStatus | None) -> InferenceServiceStatus:
    """Return the status right after a write: PENDING, or PROGRESSING if an older rollout serves."""
    if before is None or not before.serving:
        state = InferenceServiceStatus(State.PENDING, "waiting for the rollout to begin")
    else:
        state = InferenceServiceStatus(State.PROGRESSING, "an older rollout serves", serving=True)
    ready = before.latest_ready_generation if before else None
    return replace(state, latest_ready_generation=ready, last_transition_time=datetime.now(UTC))


def _action(unchanged: bool, restart: bool) -> Action:
    if not unchanged:
        return Action.UPDATED
    return Action.RESTARTED if restart else Action.UNCHANGED


def _with_request(stored: Stored, deploy: Deploy, action: Action) -> Stored:
    generation = stored.service.generation
    return replace(stored, requests=with_request(stored.requests, deploy, action, generation))


def _desired_content(deploy: Deploy, stored: Stored | None) -> Content:
    spec = desired_spec(deploy, stored)
    present = _content_of(stored.service) if stored else None
    annotations = desired_annotations(deploy, present.annotations if present else {})
    if deploy.spec is None and present:
        return present._replace(spec=spec, annotations=annotations)
    return Content(spec, dict(deploy.labels), annotations, deploy.origin)


def _content_of(service: InferenceService) -> Content:
    origin = {k: v for k, v in service.selectable_labels.items() if k.startswith(OUR_PREFIX)}
    return Content(service.spec, service.labels, service.annotations, origin)


def _reaching_pods(content: Content) -> Content:
    return content._replace(spec=content.spec and content.spec.of_pods)


def created(key: ServiceKey, content: Content) -> InferenceService:
    """Create the first generation of a service, with a new uid."""
    new = InferenceService(
        key=key,
        uid=str(uuid.uuid4()),
        generation=1,
        spec=content.spec,
        status=initial_status(None),
        etag="",
        create_time=datetime.now(UTC),
    )
    return _with_content(new, content)


def _updated(old: InferenceService, content: Content) -> InferenceService:
    new = replace(
        old,
        generation=old.generation + 1,
        unmanaged=False,
        status=initial_status(old.status),
    )
    return _with_content(new, content)


def _with_content(service: InferenceService, content: Content) -> InferenceService:
    spec, labels, annotations, origin = content
    shape = asdict(spec) if spec else None
    return replace(
        service,
        spec=spec,
        labels=dict(labels),
        annotations=dict(annotations),
        selectable_labels={**labels, **dict([MANAGED_BY_LABEL]), **origin},
        etag=fingerprint(
            [
                service.uid,
                predictor_type(spec),
                shape,
                dict(labels),
                dict(annotations),
                dict(origin),
            ],
        ),
    )
