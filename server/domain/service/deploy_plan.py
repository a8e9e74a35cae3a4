"""What an admitted Deploy comes to: an action, and what is then stored.

For clusters that store services as the domain has them. Nothing of a cluster is known here, so the
status is that of a service that was just written.
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
    STOP_ANNOTATION,
    Action,
    Deploy,
    fingerprint,
    type_name,
)
from server.domain.service.inference_service import (
    InferenceService,
    InferenceServiceSpec,
    Scaling,
    ServiceKey,
)
from server.domain.service.preconditions import Stored, remembered, wished_spec


class Content(NamedTuple):
    """All that can be asked of a service; `origin` are the labels that tell where in the registry
    it comes from."""

    spec: InferenceServiceSpec | None
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    origin: Mapping[str, str]


def planned(deploy: Deploy, stored: Stored | None) -> tuple[Action, Stored]:
    """What an admitted Deploy does, and what is stored afterwards."""
    wished = _wished(deploy, stored)
    if stored is None:
        made = replace(created(deploy.key, wished), deployment_id=deploy.deployment_id)
        return Action.CREATED, _carrying(Stored(made), deploy, Action.CREATED)
    old = stored.service
    held = _held(old)
    same_pods = _without_scaling(wished) == _without_scaling(held) and not old.unmanaged
    action = _action(same_pods and wished == held, deploy.restart)
    if action is Action.UNCHANGED:
        return action, stored
    new = replace(stored, service=_updated(old, wished))
    if not same_pods:
        new = replace(new, service=replace(new.service, deployment_id=deploy.deployment_id))
    # A change of scaling alone rolls no pod, and only what rolls the pods can carry request_ids.
    rolls = deploy.restart or not same_pods
    return action, _carrying(new, deploy, action) if rolls else new


def waiting(before: InferenceServiceStatus | None) -> InferenceServiceStatus:
    """Right after a write: PENDING, or PROGRESSING while an older rollout serves."""
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


def _carrying(stored: Stored, deploy: Deploy, action: Action) -> Stored:
    generation = stored.service.generation
    return replace(stored, requests=remembered(stored.requests, deploy, action, generation))


def _wished(deploy: Deploy, stored: Stored | None) -> Content:
    spec = wished_spec(deploy, stored)
    held = _held(stored.service) if stored else None
    if deploy.spec is None and held:
        return held._replace(spec=spec)
    kept = {k: v for k, v in (held.annotations if held else {}).items() if k == STOP_ANNOTATION}
    annotations = kept | dict(deploy.annotations)
    return Content(spec, dict(deploy.labels), annotations, deploy.origin)


def _held(service: InferenceService) -> Content:
    origin = {k: v for k, v in service.selectable_labels.items() if k.startswith(OUR_PREFIX)}
    return Content(service.spec, service.labels, service.annotations, origin)


def _without_scaling(content: Content) -> Content:
    spec = content.spec
    return content._replace(spec=replace(spec, scaling=Scaling()) if spec else None)


def created(key: ServiceKey, content: Content) -> InferenceService:
    """A service's first generation, under a uid of its own."""
    new = InferenceService(
        key=key,
        uid=str(uuid.uuid4()),
        generation=1,
        spec=content.spec,
        status=waiting(None),
        etag="",
        create_time=datetime.now(UTC),
    )
    return _with_content(new, content)


def _updated(old: InferenceService, content: Content) -> InferenceService:
    new = replace(
        old,
        generation=old.generation + 1,
        unmanaged=False,
        status=waiting(old.status),
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
            [service.uid, type_name(spec), shape, dict(labels), dict(annotations), dict(origin)],
        ),
    )
