"""What an admitted Deploy comes to: an action, and what is then stored.

For clusters that store services as the domain has them. Nothing of a cluster is known here, so the
status is that of a service that was just written.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime

from server.domain.admission import Stored, remembered, wished_spec
from server.domain.commands import (
    MANAGED_BY_LABEL,
    STOP_ANNOTATION,
    Action,
    Deploy,
    fingerprint,
    type_name,
)
from server.domain.inference_service import (
    InferenceService,
    InferenceServiceSpec,
    Scaling,
    ServiceKey,
)
from server.domain.status import InferenceServiceStatus, State


def planned(deploy: Deploy, stored: Stored | None) -> tuple[Action, Stored]:
    """What an admitted Deploy does, and what is stored afterwards."""
    spec = wished_spec(deploy, stored)
    if stored is None:
        made = created(deploy.key, spec, deploy.labels, deploy.annotations)
        return Action.CREATED, _carrying(Stored(made), deploy, Action.CREATED)
    old = stored.service
    labels, annotations = _wished_metadata(deploy, old)
    same_pods = (
        (labels, annotations) == (old.labels, old.annotations)
        and _without_scaling(spec) == _without_scaling(old.spec)
        and not old.unmanaged
    )
    action = _action(same_pods and spec == old.spec, deploy.restart)
    if action is Action.UNCHANGED:
        return action, stored
    new = replace(stored, service=_updated(old, spec, labels, annotations))
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


def _wished_metadata(
    deploy: Deploy, old: InferenceService
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    if deploy.spec is None:
        return old.labels, old.annotations
    kept = {k: v for k, v in old.annotations.items() if k == STOP_ANNOTATION}
    return dict(deploy.labels), kept | dict(deploy.annotations)


def _without_scaling(spec: InferenceServiceSpec | None) -> InferenceServiceSpec | None:
    return replace(spec, scaling=Scaling()) if spec else None


def created(
    key: ServiceKey,
    spec: InferenceServiceSpec | None,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
) -> InferenceService:
    """A service's first generation, under a uid of its own."""
    new = InferenceService(
        key=key,
        uid=str(uuid.uuid4()),
        generation=1,
        spec=spec,
        status=waiting(None),
        etag="",
        create_time=datetime.now(UTC),
    )
    return _with_content(new, spec, labels, annotations)


def _updated(
    old: InferenceService,
    spec: InferenceServiceSpec,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
) -> InferenceService:
    new = replace(
        old,
        generation=old.generation + 1,
        unmanaged=False,
        status=waiting(old.status),
    )
    return _with_content(new, spec, labels, annotations)


def _with_content(
    service: InferenceService,
    spec: InferenceServiceSpec | None,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
) -> InferenceService:
    shape = asdict(spec) if spec else None
    return replace(
        service,
        spec=spec,
        labels=dict(labels),
        annotations=dict(annotations),
        selectable_labels=dict(labels) | dict([MANAGED_BY_LABEL]),
        etag=fingerprint(
            [service.uid, type_name(spec), shape, dict(labels), dict(annotations)],
        ),
    )
