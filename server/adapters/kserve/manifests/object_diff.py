"""Compare a manifest with the object that it would be applied to, as server-side apply merges them.

If the object asks for the manifest's pods already, an apply only changes ownership, and the
object's rollout hash can stay, although it was made from an earlier content.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.adapters.kserve.manifests.extra_fields import extra_fields
from server.adapters.kserve.manifests.field_ownership import (
    PREDICTOR,
    Fields,
    Managers,
    holds_whole,
    item_key,
    items_by_key,
    owned_fields,
    project,
)
from server.adapters.kserve.manifests.manifest import without_scaling
from server.adapters.kserve.names import REQUESTS_ANNOTATION, ROLLOUT_ANNOTATION
from server.adapters.kserve.objects import Object, get_map

# They describe a rollout, not the desired content.
_NOT_COMPARED = {ROLLOUT_ANNOTATION, REQUESTS_ANNOTATION}


def asks_for_same_pods(manifest: Object, current: Object, managers: Managers) -> bool:
    """Return whether applying the manifest would change no field that reaches the pods.

    The object's fields count whichever manager wrote them.
    """
    desired, held = _reaching_pods(manifest), _reaching_pods(current)
    for kind in ("labels", "annotations"):
        if not held["metadata"][kind].items() >= desired["metadata"][kind].items():
            return False
    fields = owned_fields(managers.all, *PREDICTOR)
    if not _has(held["spec"]["predictor"], desired["spec"]["predictor"], fields):
        return False
    ours = owned_fields(managers.ours)
    return not ours or not any(extra_fields(project(held, ours), desired, ""))


def removes_fields(manifest: Object, current: Object, managers: Managers) -> bool:
    """Return whether applying the manifest would remove a field of the predictor.

    That is a field of ours that the manifest lacks, or a field in a list or map that it replaces.
    """
    desired = _reaching_pods(manifest)["spec"]["predictor"]
    held = _reaching_pods(current)["spec"]["predictor"]
    left = _after_apply(held, desired, owned_fields(managers.all, *PREDICTOR))
    if any(extra_fields(held, left, "")):
        return True
    ours = owned_fields(managers.ours, *PREDICTOR)
    return bool(ours) and any(extra_fields(project(held, ours), desired, ""))


def _reaching_pods(obj: Object) -> dict[str, Any]:
    predictor = get_map(obj, "spec", "predictor")
    annotations = predictor.get("annotations") or {}
    compared = {key: text for key, text in annotations.items() if key not in _NOT_COMPARED}
    metadata = obj["metadata"]
    return {
        "metadata": {kind: metadata.get(kind) or {} for kind in ("labels", "annotations")},
        "spec": {"predictor": {**without_scaling(predictor), "annotations": compared}},
    }


def _has(held: Any, desired: Any, fields: Fields | None) -> bool:
    """Return whether applying `desired` would leave `held` as it is; `fields` are everybody's."""
    if fields is None or holds_whole(fields):
        return bool(held == desired)
    if isinstance(desired, Mapping):
        return isinstance(held, Mapping) and all(
            name in held and _has(held[name], value, fields.get(f"f:{name}"))
            for name, value in desired.items()
        )
    if isinstance(desired, list) and isinstance(held, list):
        return _has_items(held, desired, fields)
    return bool(held == desired)


def _has_items(held: list[Any], desired: list[Any], fields: Fields) -> bool:
    """Compare two lists; an apply brings its own items into its own order."""
    nodes = items_by_key(fields)
    if not nodes:
        return held == desired
    rest = iter([(item_key(item, nodes), item) for item in held])
    for item in desired:
        key = item_key(item, nodes)
        found = next((there for k, there in rest if k == key), None)
        if key is None or found is None or not _has(found, item, nodes[key]):
            return False
    return True


def _after_apply(held: Any, desired: Any, fields: Fields | None) -> Any:
    """Return `held` after an apply that removes nothing; `fields` are everybody's."""
    if not fields or holds_whole(fields):
        return desired
    if isinstance(held, Mapping) and isinstance(desired, Mapping):
        both = held.keys() & desired.keys()
        changed = {n: _after_apply(held[n], desired[n], fields.get(f"f:{n}")) for n in both}
        return {**held, **desired, **changed}
    nodes = items_by_key(fields)
    if not (nodes and isinstance(held, list) and isinstance(desired, list)):
        return desired
    by_key = {item_key(item, nodes): item for item in desired}
    keyed = [(item_key(item, nodes), item) for item in held]
    return [
        _after_apply(item, by_key[key], nodes[key]) if key and key in by_key else item
        for key, item in keyed
    ]
