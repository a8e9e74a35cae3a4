"""Our annotations in spec.predictor.annotations: the rollout hash, and notes for later writes.

KServe copies them to the pods. The keys and their texts are read by later releases too. Where the
origin of a value matters, only an annotation that our own apply owns is believed: a copy of a
service has the same annotations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from server.adapters.kserve.manifests.field_ownership import (
    PREDICTOR,
    Managers,
    owned_fields,
    project,
)
from server.adapters.kserve.names import (
    DEFAULTS_ANNOTATION,
    DEPLOYED_BY_ANNOTATION,
    DEPLOYMENT_ANNOTATION,
    PROBE_ANNOTATION,
    REGISTERED_ANNOTATION,
    REQUESTS_ANNOTATION,
    RESTART_ANNOTATION,
    ROLLBACK_ANNOTATION,
    ROLLOUT_ANNOTATION,
)
from server.adapters.kserve.objects import Object, get_map
from server.domain.registry.deployment import content_of
from server.domain.service.commands import MOST_USER, OUR_PREFIX, Action
from server.domain.service.inference_service import (
    InferenceServiceSpec,
    Predictor,
    RegisteredModelPredictor,
    Resources,
    ServingPredictor,
)
from server.domain.service.preconditions import PastRequest

_PATH = ("spec", "predictor", "annotations")
# No request_id has it.
_STARTED = "+start-"


@dataclass(frozen=True, slots=True)
class AddedFields:
    """The fields that we add to the serving container beside the spec; readers do not see them."""

    resources: Resources = field(default_factory=Resources)
    probe: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class OurAnnotations:
    """Hold our annotations of an object; absent ones are empty.

    `added` is empty if its annotations cannot be parsed. `deployment_id` (of the deployment's
    record in the registry), `deployed_by` (a user), and the texts `requests`, `registered` and
    `rollback`, are empty unless our apply owns them.
    """

    rollout_hash: str
    restart: str
    added: AddedFields
    deployment_id: str
    deployed_by: str
    requests: str
    registered: str
    rollback: str


def our_annotations(obj: Object, managers: Managers) -> OurAnnotations:
    """Parse our annotations, except for those texts that few readers need."""
    texts = {key: str(text) for key, text in get_map(obj, *_PATH).items()}
    owned = owned_fields(managers.ours, *PREDICTOR, "f:annotations") or {}
    own = {key: text for key, text in texts.items() if f"f:{key}" in owned}
    return OurAnnotations(
        rollout_hash=texts.get(ROLLOUT_ANNOTATION, ""),
        restart=texts.get(RESTART_ANNOTATION, ""),
        added=_added_fields(texts),
        deployment_id=own.get(DEPLOYMENT_ANNOTATION, ""),
        deployed_by=own.get(DEPLOYED_BY_ANNOTATION, "")[:MOST_USER],
        requests=own.get(REQUESTS_ANNOTATION, ""),
        registered=own.get(REGISTERED_ANNOTATION, ""),
        rollback=own.get(ROLLBACK_ANNOTATION, ""),
    )


def start_stamp(restart: str, fresh_stamp: str) -> str:
    """Return the stamp of a start after a stop, which keeps that of the last restart."""
    return f"{restart_of(restart)}{_STARTED}{fresh_stamp}"


def restart_of(stamp: str) -> str:
    """Return the stamp of the last restart: starts since then are none."""
    return stamp.partition(_STARTED)[0]


def rollout_annotations(
    rollout_hash: str,
    restart: str,
    added: AddedFields,
    requests: tuple[PastRequest, ...],
    deployed_by: str,
    rollback: str,
) -> dict[str, str]:
    """Return the annotations that every rollout has; empty ones are left out."""
    kinds = {"requests": dict(added.resources.requests), "limits": dict(added.resources.limits)}
    quantities = {kind: values for kind, values in kinds.items() if values}
    rows = [[r.request_id, r.body_hash, r.action.value, r.generation] for r in requests]
    texts = {
        ROLLOUT_ANNOTATION: rollout_hash,
        RESTART_ANNOTATION: restart,
        DEFAULTS_ANNOTATION: _json(quantities) if quantities else "",
        PROBE_ANNOTATION: _json(added.probe) if added.probe else "",
        REQUESTS_ANNOTATION: _json(rows) if rows else "",
        DEPLOYED_BY_ANNOTATION: deployed_by,
        ROLLBACK_ANNOTATION: rollback,
    }
    return {key: text for key, text in texts.items() if text}


def registry_annotations(predictor: Predictor, deployment_id: str) -> dict[str, str]:
    """Return the annotations of a service that is deployed from the registry."""
    if not isinstance(predictor, RegisteredModelPredictor):
        return {}
    assert predictor.resolved, "the registry resolves a model before the cluster sees it"
    names = {
        "project": predictor.project,
        "model": predictor.model,
        "environment": predictor.environment,
        "version": predictor.version,
        "runs": content_of(InferenceServiceSpec(predictor.resolved)),
    }
    record = {DEPLOYMENT_ANNOTATION: deployment_id} if deployment_id else {}
    return {REGISTERED_ANNOTATION: _json(names), **record}


def with_rollout_hash(manifest: Mapping[str, Any], rollout_hash: str) -> dict[str, Any]:
    """Return the manifest with this rollout hash instead of its own; without one where empty."""
    predictor = manifest["spec"]["predictor"]
    annotations = {k: v for k, v in predictor["annotations"].items() if k != ROLLOUT_ANNOTATION}
    if rollout_hash:
        annotations[ROLLOUT_ANNOTATION] = rollout_hash
    return {**manifest, "spec": {"predictor": {**predictor, "annotations": annotations}}}


def rollout_hash_of(obj: Object) -> str:
    """Return the hash of the rollout that the object asks for, or an empty text."""
    return str(get_map(obj, *_PATH).get(ROLLOUT_ANNOTATION, ""))


def _added_fields(annotations: Mapping[str, str]) -> AddedFields:
    resources = _load(annotations.get(DEFAULTS_ANNOTATION))
    probe = _load(annotations.get(PROBE_ANNOTATION))
    try:
        added = Resources(dict(resources.get("requests", {})), dict(resources.get("limits", {})))
    except (ValueError, TypeError, AttributeError):
        added = Resources()
    return AddedFields(added, probe if isinstance(probe, dict) and probe else None)


def requests_of(annotations: OurAnnotations) -> tuple[PastRequest, ...]:
    """Return the last request_ids, oldest first; none if their annotation cannot be parsed."""
    try:
        return tuple(
            PastRequest(str(request_id), str(body), Action(action), int(generation))
            for request_id, body, action, generation in _load(annotations.requests)
        )
    except (ValueError, TypeError):
        return ()


def rollback_text(revision: int, generation: int) -> str:
    """Return the text that marks a generation as a rollback to a revision; empty for revision 0."""
    return _json([revision, generation]) if revision else ""


def rollback_of(annotations: OurAnnotations, generation: int) -> int:
    """Return the revision that a generation went back to; 0 if it is no rollback.

    A later edit by others keeps the annotation, so it names its generation.
    """
    try:
        revision, of_generation = map(int, _load(annotations.rollback))
    except (ValueError, TypeError):
        return 0
    return revision if of_generation == generation else 0


def registered_predictor(annotations: OurAnnotations, predictor: ServingPredictor) -> Predictor:
    """Return the predictor with the registry's names that it was deployed by.

    Without those names if there are none, or if the object now runs something else.
    """
    try:
        names = _load(annotations.registered)
        if names.pop("runs", "") == content_of(InferenceServiceSpec(predictor)):
            return RegisteredModelPredictor(**names, resolved=predictor)
    except (ValueError, TypeError, AttributeError):
        pass
    return predictor


def origin_of(obj: Object, managers: Managers) -> dict[str, str]:
    """Return the labels with the registry's ids."""
    fields = owned_fields(managers.ours, "f:metadata", "f:labels")
    labels = project(get_map(obj, "metadata", "labels"), fields) if fields else {}
    return {key: text for key, text in labels.items() if key.startswith(OUR_PREFIX)}


def _load(text: str | None) -> Any:
    """Parse an annotation, which others can overwrite; empty where it is no JSON."""
    try:
        return json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}


def _json(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
