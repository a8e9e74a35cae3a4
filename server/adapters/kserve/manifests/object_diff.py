"""Whether an object already is what a manifest asks for, no matter who wrote it.

Then an apply moves nothing but ownership, and the object's marker may stay, although it was made
for what stood before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.adapters.kserve.manifests.extra_fields import beyond
from server.adapters.kserve.manifests.field_ownership import (
    PREDICTOR,
    Fields,
    anyones,
    holds_whole,
    item_key,
    items_by_key,
    ours,
    owned,
    project,
)
from server.adapters.kserve.names import REQUESTS_ANNOTATION, ROLLOUT_ANNOTATION, SCALING_FIELDS
from server.adapters.kserve.objects import get_map

# They are about a rollout, not about what is asked.
_UNCOMPARED_RIDERS = {ROLLOUT_ANNOTATION, REQUESTS_ANNOTATION}


def stands(manifest: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Whether everything in the manifest that reaches the pods is in the object as it is there, and
    nothing of ours in the object is missing in the manifest."""
    wished, held = _reaching_pods(manifest), _reaching_pods(current)
    fields = owned(current, anyones, *PREDICTOR)
    mine = owned(current, ours)
    return (
        all(_has_entries(held["metadata"][kind], wished["metadata"][kind]) for kind in _METADATA)
        and _has(get_map(held, "spec", "predictor"), get_map(wished, "spec", "predictor"), fields)
        and not any(beyond(project(held, mine) if mine else {}, wished, ""))
    )


def loses(manifest: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Whether applying the manifest would take anything of the predictor away: what is ours and
    missing in the manifest, or what stands in a list or map that the manifest writes whole."""
    wished, held = (
        get_map(_reaching_pods(obj), "spec", "predictor") for obj in (manifest, current)
    )
    mine = owned(current, ours, *PREDICTOR)
    left = _after_apply(held, wished, owned(current, anyones, *PREDICTOR))
    return any(beyond(held, left, "")) or any(
        beyond(project(held, mine) if mine else {}, wished, "")
    )


_METADATA = ("labels", "annotations")


def _reaching_pods(obj: Mapping[str, Any]) -> dict[str, Any]:
    predictor = get_map(obj, "spec", "predictor")
    riders = get_map(predictor, "annotations")
    compared = {key: text for key, text in riders.items() if key not in _UNCOMPARED_RIDERS}
    rest = {name: value for name, value in predictor.items() if name not in SCALING_FIELDS}
    return {
        "metadata": {kind: get_map(obj, "metadata", kind) for kind in _METADATA},
        "spec": {"predictor": {**rest, "annotations": compared}},
    }


def _has_entries(held: Mapping[str, Any], wished: Mapping[str, Any]) -> bool:
    return held.items() >= wished.items()


def _has(held: Any, wished: Any, fields: Fields | None) -> bool:
    """Whether applying `wished` would leave `held` as it is. `fields` are everybody's."""
    if fields is None or holds_whole(fields):
        return bool(held == wished)
    if isinstance(wished, Mapping):
        return isinstance(held, Mapping) and all(
            name in held and _has(held[name], value, fields.get(f"f:{name}"))
            for name, value in wished.items()
        )
    if isinstance(wished, list) and isinstance(held, list):
        return _has_items(held, wished, fields)
    return bool(held == wished)


def _has_items(held: list[Any], wished: list[Any], fields: Fields) -> bool:
    """Items have their key's node in `fields`; an apply brings its own into its own order."""
    nodes = items_by_key(fields)
    if not nodes:
        return held == wished
    rest = iter([(item_key(item, nodes), item) for item in held])
    for item in wished:
        key = item_key(item, nodes)
        found = next((there for k, there in rest if k == key), None)
        if key is None or found is None or not _has(found, item, nodes[key]):
            return False
    return True


def _after_apply(held: Any, wished: Any, fields: Fields | None) -> Any:
    """What an apply makes of `held`, but for what it removes. `fields` are everybody's."""
    if not fields or holds_whole(fields):
        return wished
    if isinstance(held, Mapping) and isinstance(wished, Mapping):
        both = held.keys() & wished.keys()
        changed = {n: _after_apply(held[n], wished[n], fields.get(f"f:{n}")) for n in both}
        return {**held, **wished, **changed}
    nodes = items_by_key(fields)
    if not (nodes and isinstance(held, list) and isinstance(wished, list)):
        return wished
    named = {item_key(item, nodes): item for item in wished}
    keyed = [(item_key(item, nodes), item) for item in held]
    return [
        _after_apply(item, named[key], nodes[key]) if key and key in named else item
        for key, item in keyed
    ]
