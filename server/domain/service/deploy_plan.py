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
    Scaling,
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


def plan_deploy(deploy: Deploy, stored: Stored | None) -> tuple[Action, Stored]:
    """Return the action of an admitted Deploy, and the service to store."""
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
    if not same_pods:
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
    spec = content.spec
    if spec is None:
        return content
    return content._replace(spec=replace(spec, scaling=Scaling(), rollout_strategy=None))


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
