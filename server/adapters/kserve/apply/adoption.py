"""Adopt a predictor: our apply becomes the owner of all of its fields, then replaces them.

A forced apply overwrites others' values and leaves the fields that it does not name, since others
own them: two kinds of predictor would then stand side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.adapters.kserve.manifests.field_ownership import (
    PREDICTOR,
    Entry,
    Fields,
    is_ours,
    managers_of,
    merged,
    owned_fields,
    project,
)
from server.adapters.kserve.names import API_VERSION, FIELD_MANAGER
from server.adapters.kserve.objects import Object

_NEW_ENTRY: Entry = {
    "manager": FIELD_MANAGER,
    "operation": "Apply",
    "apiVersion": API_VERSION,
    "fieldsType": "FieldsV1",
    "fieldsV1": {},
}


def ownership_patch(obj: Object) -> dict[str, Any]:
    """Return a merge patch that makes everything in spec.predictor ours; no content changes.

    Fields without an owner become ours too, such as a predictor that KServe's webhook moved to
    another name: the next apply can then remove them.
    """
    metadata = obj["metadata"]
    return {
        "metadata": {
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "managedFields": adopted_managed_fields(obj),
        }
    }


def adopted_managed_fields(obj: Object) -> list[dict[str, Any]]:
    """Return the managedFields in which everything in spec.predictor is ours."""
    managers = managers_of(obj)
    present: Fields = {f"f:{name}": {".": {}} for name in obj["spec"]["predictor"]}
    everything = merged(owned_fields(managers.all, *PREDICTOR) or {}, present)
    ours = managers.ours[0] if managers.ours else _NEW_ENTRY
    fields = merged(ours["fieldsV1"], {"f:spec": {"f:predictor": everything}})
    entries = obj["metadata"].get("managedFields") or ()
    others = [_without_predictor(e) for e in entries if not is_ours(e)]
    return [*(e for e in others if e["fieldsV1"]), {**ours, "fieldsV1": fields}]


def adoption_patch(current: Object, manifest: Object) -> dict[str, Any]:
    """Return a merge patch with the same result as the adoption and the apply of the manifest.

    It serves dry runs: of two writes in a row, a dry run can show the first only.
    """
    ours = managers_of(current).ours
    metadata = dict(manifest["metadata"])
    for kind in ("labels", "annotations"):
        fields = owned_fields(ours, "f:metadata", f"f:{kind}")
        held = project(current["metadata"].get(kind) or {}, fields) if fields else {}
        metadata[kind] = {**dict.fromkeys(held), **metadata.get(kind, {})}
    predictor = _merge_patch(current["spec"]["predictor"], manifest["spec"]["predictor"])
    return {"metadata": metadata, "spec": {"predictor": predictor}}


def as_owned(answer: Object, manifest: Object) -> dict[str, Any]:
    """Return the answer to a dry run of `adoption_patch`, with us as the manifest's owner."""
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


def _merge_patch(held: Mapping[str, Any], desired: Mapping[str, Any]) -> dict[str, Any]:
    """Return the merge patch from one map to another: null removes a field."""
    patch = dict.fromkeys(held.keys() - desired.keys())
    for name, value in desired.items():
        both = isinstance(value, Mapping) and isinstance(held.get(name), Mapping)
        patch[name] = _merge_patch(held[name], value) if both else value
    return patch


def _without_predictor(entry: Entry) -> dict[str, Any]:
    fields = dict(entry.get("fieldsV1", {}))
    if "f:spec" in fields and not entry.get("subresource"):
        spec = {name: node for name, node in fields.pop("f:spec").items() if name != "f:predictor"}
        if spec.keys() - {"."}:
            fields["f:spec"] = spec
    return {**entry, "fieldsV1": fields}
