"""What an InferenceService that was deployed from the registry carries: the names of what it runs,
the record of its deployment, and labels with the ids.

The first two ride beside the rollout's marker. Only what we wrote is believed, since a copy of a
service has it all too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from server.adapters.kserve.manifests.field_ownership import PREDICTOR, ours, owned, project
from server.adapters.kserve.names import DEPLOYMENT_ANNOTATION, REGISTERED_ANNOTATION
from server.domain.registry.deployment import content_of
from server.domain.service.commands import OUR_PREFIX
from server.domain.service.inference_service import (
    InferenceServiceSpec,
    Predictor,
    RegisteredModelPredictor,
    ServingPredictor,
)


def registry_riders_of(predictor: Predictor, deployment_id: str) -> dict[str, str]:
    """The annotations to write; none where it is not of the registry."""
    if not isinstance(predictor, RegisteredModelPredictor):
        return {}
    noted = {DEPLOYMENT_ANNOTATION: deployment_id} if deployment_id else {}
    return {REGISTERED_ANNOTATION: _names_text(predictor), **noted}


def registered_as(obj: Mapping[str, Any], predictor: ServingPredictor) -> Predictor:
    """The predictor that was read from the object, under the names that it was deployed by; bare
    where there are none, or somebody has changed since what it runs."""
    try:
        names = json.loads(_rider(obj, REGISTERED_ANNOTATION) or "{}")
        if names.pop("runs", "") == _runs(predictor):
            return RegisteredModelPredictor(**names, resolved=predictor)
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    return predictor


def deployment_id_of(obj: Mapping[str, Any]) -> str:
    """The record of the deployment that it comes from; empty where there is none."""
    return _rider(obj, DEPLOYMENT_ANNOTATION)


def origin_of(obj: Mapping[str, Any]) -> dict[str, str]:
    """The labels that tell where in the registry it comes from."""
    labels = obj["metadata"].get("labels") or {}
    fields = owned(obj, ours, "f:metadata", "f:labels")
    held = project(labels, fields) if fields else {}
    return {key: text for key, text in held.items() if key.startswith(OUR_PREFIX)}


def _names_text(predictor: RegisteredModelPredictor) -> str:
    assert predictor.resolved, "a cluster is asked for what is resolved only"
    names = {
        "project": predictor.project,
        "model": predictor.model,
        "environment": predictor.environment,
        "version": predictor.version,
        "runs": _runs(predictor.resolved),
    }
    return json.dumps(names, sort_keys=True, separators=(",", ":"))


def _runs(predictor: ServingPredictor) -> str:
    return content_of(InferenceServiceSpec(predictor))


def _rider(obj: Mapping[str, Any], key: str) -> str:
    text = obj.get("spec", {}).get("predictor", {}).get("annotations", {}).get(key, "")
    ridden = (*PREDICTOR, "f:annotations", f"f:{key}")
    return str(text) if text and owned(obj, ours, *ridden) is not None else ""
