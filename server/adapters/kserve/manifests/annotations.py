"""What rides on an InferenceService beside the spec: the rollout's marker and our notes.

They stand in spec.predictor.annotations, which KServe hands down to the pods.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from server.adapters.kserve.names import (
    DEFAULTS_ANNOTATION,
    PROBE_ANNOTATION,
    REQUESTS_ANNOTATION,
    RESTART_ANNOTATION,
    ROLLOUT_ANNOTATION,
)
from server.domain.service.commands import Action
from server.domain.service.inference_service import Resources
from server.domain.service.preconditions import PastRequest


@dataclass(frozen=True, slots=True)
class FilledIn:
    """What we write beside what was asked, and leave out again where it is read."""

    resources: Resources = field(default_factory=Resources)
    probe: Mapping[str, Any] | None = None


def riders_of(
    marker: str, restart: str, filled_in: FilledIn, requests: tuple[PastRequest, ...]
) -> dict[str, str]:
    """The annotations to write; what is empty is left out."""
    notes = {
        ROLLOUT_ANNOTATION: marker,
        RESTART_ANNOTATION: restart,
        DEFAULTS_ANNOTATION: _quantities_text(filled_in.resources),
        PROBE_ANNOTATION: _compact(filled_in.probe) if filled_in.probe else "",
        REQUESTS_ANNOTATION: _requests_text(requests),
    }
    return {key: text for key, text in notes.items() if text}


def marker_of(obj: Mapping[str, Any]) -> str:
    """The marker of the rollout that the object asks for; empty where it is not from us."""
    return _rider(obj, ROLLOUT_ANNOTATION)


def with_marker(manifest: Mapping[str, Any], marker: str) -> dict[str, Any]:
    """The manifest with this marker instead of its own; without one where it is empty."""
    predictor = manifest["spec"]["predictor"]
    riders = {k: v for k, v in predictor["annotations"].items() if k != ROLLOUT_ANNOTATION}
    if marker:
        riders[ROLLOUT_ANNOTATION] = marker
    return {**manifest, "spec": {"predictor": {**predictor, "annotations": riders}}}


def restart_of(obj: Mapping[str, Any]) -> str:
    """The stamp of the last restart, which later writes carry over."""
    return _rider(obj, RESTART_ANNOTATION)


def noted_requests(obj: Mapping[str, Any]) -> tuple[PastRequest, ...]:
    """The remembered request_ids, oldest first; none where somebody has spoilt the note."""
    try:
        rows = json.loads(_rider(obj, REQUESTS_ANNOTATION) or "[]")
        return tuple(
            PastRequest(str(request_id), str(body), Action(action), int(generation))
            for request_id, body, action, generation in rows
        )
    except (ValueError, TypeError, RecursionError):
        return ()


def filled_in_of(obj: Mapping[str, Any]) -> FilledIn:
    """What we added to what the caller asked; nothing where somebody has spoilt the note."""
    return FilledIn(_noted_quantities(obj), noted_probe(obj))


def noted_probe(obj: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The readiness probe that we wrote; None where we wrote none."""
    try:
        probe = json.loads(_rider(obj, PROBE_ANNOTATION) or "null")
    except (ValueError, RecursionError):
        return None
    return probe if isinstance(probe, dict) else None


def _noted_quantities(obj: Mapping[str, Any]) -> Resources:
    try:
        note = json.loads(_rider(obj, DEFAULTS_ANNOTATION) or "{}")
        return Resources(dict(note.get("requests", {})), dict(note.get("limits", {})))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return Resources()


def _rider(obj: Mapping[str, Any], key: str) -> str:
    predictor = obj.get("spec", {}).get("predictor", {})
    return str(predictor.get("annotations", {}).get(key, ""))


def _quantities_text(resources: Resources) -> str:
    note = {"requests": dict(resources.requests), "limits": dict(resources.limits)}
    note = {name: quantities for name, quantities in note.items() if quantities}
    return _compact(note) if note else ""


def _requests_text(requests: tuple[PastRequest, ...]) -> str:
    rows = [[r.request_id, r.body_hash, r.action.value, r.generation] for r in requests]
    return _compact(rows) if rows else ""


def _compact(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
