"""How the parts of a predictor that others own become ours, so that ours replaces all of it.

A forced apply overwrites others' values and leaves what it does not name, since that is theirs:
of two kinds of predictor both would then stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.adapters.kserve.manifests.field_ownership import (
    PREDICTOR,
    Entry,
    Fields,
    anyones,
    entries,
    merged,
    ours,
    owned,
    project,
)
from server.adapters.kserve.names import API_VERSION, FIELD_MANAGER

_NEW_ENTRY: Entry = {
    "manager": FIELD_MANAGER,
    "operation": "Apply",
    "apiVersion": API_VERSION,
    "fieldsType": "FieldsV1",
    "fieldsV1": {},
}


def predictor_taken_over(obj: Mapping[str, Any]) -> list[dict[str, Any]]:
    """managedFields as they are once everything in spec.predictor is ours; no content changes.

    Parts that nobody owns, such as a kind of predictor that KServe's webhook rewrote, become ours
    too: the next apply can then remove whatever it does not name.
    """
    present: Fields = {f"f:{name}": {".": {}} for name in obj["spec"]["predictor"]}
    everything = merged(owned(obj, anyones, *PREDICTOR) or {}, present)
    mine = next((e for e in entries(obj) if ours(e)), _NEW_ENTRY)
    fields = merged(mine["fieldsV1"], {"f:spec": {"f:predictor": everything}})
    listed = obj["metadata"].get("managedFields") or ()
    others = [_without_predictor(e) for e in listed if not ours(e)]
    return [*(e for e in others if e["fieldsV1"]), {**mine, "fieldsV1": fields}]


def replacement(current: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A merge patch that comes to the same as taking over and applying the manifest.

    For trying it out: of the two real writes a dry run could show the first only.
    """
    metadata = dict(manifest["metadata"])
    for kind in ("labels", "annotations"):
        held = _ours_of(current, kind)
        metadata[kind] = {**dict.fromkeys(held), **metadata.get(kind, {})}
    predictor = _patch(current["spec"]["predictor"], manifest["spec"]["predictor"])
    return {"metadata": metadata, "spec": {"predictor": predictor}}


def tried(answer: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a replacement's dry run answered, with what the manifest names as ours."""
    metadata, predictor = manifest["metadata"], manifest["spec"]["predictor"]
    named: Fields = {
        "f:metadata": {
            f"f:{kind}": {f"f:{key}": {} for key in metadata.get(kind, {})}
            for kind in ("labels", "annotations")
        },
        "f:spec": {
            "f:predictor": {
                **{f"f:{name}": {} for name in predictor},
                "f:annotations": {f"f:{key}": {} for key in predictor["annotations"]},
            }
        },
    }
    entry = {**_NEW_ENTRY, "fieldsV1": named}
    return {**answer, "metadata": {**answer["metadata"], "managedFields": [entry]}}


def _ours_of(current: Mapping[str, Any], kind: str) -> Mapping[str, str]:
    fields = owned(current, ours, "f:metadata", f"f:{kind}")
    content = current["metadata"].get(kind) or {}
    return project(content, fields) if fields else {}


def _patch(held: Mapping[str, Any], wished: Mapping[str, Any]) -> dict[str, Any]:
    """From one object to another: null removes, maps are merged, all else replaces."""
    patch = dict.fromkeys(held.keys() - wished.keys())
    for name, value in wished.items():
        both = isinstance(value, Mapping) and isinstance(held.get(name), Mapping)
        patch[name] = _patch(held[name], value) if both else value
    return patch


def _without_predictor(entry: Entry) -> dict[str, Any]:
    fields = dict(entry.get("fieldsV1", {}))
    if "f:spec" in fields and not entry.get("subresource"):
        spec = {name: node for name, node in fields.pop("f:spec").items() if name != "f:predictor"}
        if spec.keys() - {"."}:
            fields["f:spec"] = spec
    return {**entry, "fieldsV1": fields}
