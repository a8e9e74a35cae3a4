"""The objects that the API server stores for applied manifests."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from server.adapters.kserve.manifests.manifest import DesiredObject, body_of, complete
from server.adapters.kserve.manifests.resource_defaults import (
    KSERVE_DEFAULTS,
    container_additions,
)
from server.adapters.kserve.names import FIELD_MANAGER
from server.domain.service.inference_service import ContainerPredictor, Resources

UID = "8b686dd3-998b-4abb-a666-2dd874ed3939"
_ATOMIC = {"containers", "tolerations", "nodeSelector", "args", "command", "secretKeyRef"}


def manifest_of(desired: DesiredObject) -> dict[str, Any]:
    """The object to apply."""
    return complete(body_of(desired), desired)


def applied(desired: DesiredObject, defaults: Resources = KSERVE_DEFAULTS) -> dict[str, Any]:
    """The stored object after our apply."""
    manifest = rendered(desired, defaults)
    return stored(manifest, manager=FIELD_MANAGER, operation="Apply")


def rendered(desired: DesiredObject, defaults: Resources = KSERVE_DEFAULTS) -> dict[str, Any]:
    """The manifest, for a container with KServe's defaults, as a plan adds them."""
    if isinstance(desired.spec.serving, ContainerPredictor):
        resources = container_additions(desired.spec.resources, defaults)
        desired = replace(desired, added=replace(desired.added, resources=resources))
    return manifest_of(desired)


def stored(
    manifest: Mapping[str, Any], manager: str = "kubectl-create", operation: str = "Update"
) -> dict[str, Any]:
    """A new object, owned by its writer, with the additions of KServe's webhook."""
    obj: dict[str, Any] = copy.deepcopy({k: manifest[k] for k in ("metadata", "spec")})
    metadata = obj["metadata"]
    asked = {k: metadata[k] for k in ("labels", "annotations") if k in metadata}
    metadata |= {
        "uid": UID,
        "generation": 1,
        "resourceVersion": "7",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [owned_by(manager, operation, {"metadata": asked, "spec": obj["spec"]})],
    }
    annotations = metadata.setdefault("annotations", {})
    annotations.setdefault("serving.kserve.io/deploymentMode", "Standard")
    if model := obj["spec"]["predictor"].get("model"):
        annotations.setdefault("modelFormat", model["modelFormat"]["name"])
        model["name"] = ""
    return obj


def edited(obj: Mapping[str, Any], manager: str, change: Mapping[str, Any]) -> dict[str, Any]:
    """The object after another manager's merge patch of fields that are not in lists."""
    result = copy.deepcopy(dict(obj))
    _merge(result, change)
    entries = [
        {**e, "fieldsV1": _without(e["fieldsV1"], fields_of(change))}
        for e in obj["metadata"]["managedFields"]
    ]
    result["metadata"]["managedFields"] = [*entries, owned_by(manager, "Update", change)]
    result["metadata"]["resourceVersion"] += "1"
    return result


def owned_by(manager: str, operation: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"manager": manager, "operation": operation, "fieldsV1": fields_of(fields)}


def fields_of(value: Any, name: str = "") -> dict[str, Any]:
    """The FieldsV1 of a manifest, as the schema of InferenceServices has it."""
    if name in _ATOMIC:
        return {}
    if isinstance(value, Mapping):
        return {f"f:{key}": fields_of(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return {
            f"k:{json.dumps({'name': item['name']})}": {".": {}} | fields_of(item) for item in value
        }
    return {}


def _merge(target: dict[str, Any], change: Mapping[str, Any]) -> None:
    for name, value in change.items():
        if isinstance(value, Mapping) and isinstance(target.get(name), dict):
            _merge(target[name], value)
        else:
            target[name] = copy.deepcopy(value)


def _without(fields: Mapping[str, Any], taken: Mapping[str, Any]) -> dict[str, Any]:
    left = {}
    for name, node in fields.items():
        if name not in taken:
            left[name] = node
        elif taken[name] and (rest := _without(node, taken[name])):
            left[name] = rest
    return left
