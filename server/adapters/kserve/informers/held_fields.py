"""Keep of each object that is cached no more than its readers use."""

from __future__ import annotations

from typing import Any

from server.adapters.kserve.informers.collections import Kind
from server.adapters.kserve.manifests.field_ownership import packed


def without_unused(kind: Kind, found: dict[str, Any]) -> dict[str, Any]:
    """Return the object as it is cached; `found` is changed.

    Only the managedFields of the InferenceService itself are used, and seldom: they are packed,
    because as dicts they take half of the memory of a service.
    """
    metadata = found["metadata"]
    if kind is not Kind.SERVICES:
        metadata.pop("managedFields", None)
        return found
    for entry in metadata.get("managedFields") or ():
        fields = entry.get("fieldsV1")
        if isinstance(fields, dict):
            entry["fieldsV1"] = packed(fields)
    return found
