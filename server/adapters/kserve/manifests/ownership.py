"""Who owns which field of an object: `metadata.managedFields`, read.

Fields that admission webhooks set are owned by nobody, which tells what was asked from what was
added.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from server.adapters.kserve.names import FIELD_MANAGER

Fields = Mapping[str, Any]
"""FieldsV1: `f:NAME` a field, `k:{...}` a list's item by its key, `.` the node itself."""

Entry = Mapping[str, Any]

PREDICTOR = ("f:spec", "f:predictor")
_ITSELF = {"."}


def ours(entry: Entry) -> bool:
    """Our own server-side applies."""
    return entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply"


def anyones(entry: Entry) -> bool:
    """Everybody's, whatever the way of writing."""
    return True


def owned(obj: Mapping[str, Any], whose: Callable[[Entry], bool], *path: str) -> Fields | None:
    """The fields under `path` that the managers named by `whose` own; None if there are none.

    Fields of subresources (status) are never among them.
    """
    found: Fields | None = None
    for entry in entries(obj):
        node = _descend(entry.get("fieldsV1", {}), path) if whose(entry) else None
        if node is not None:
            found = node if found is None else merged(found, node)
    return found


def project(value: Any, fields: Fields | None) -> Any:
    """What of `value` is in `fields`; a node without children there is taken whole."""
    if not fields or fields.keys() == _ITSELF:
        return value
    if isinstance(value, dict):
        return {
            name: project(item, fields[field])
            for name, item in value.items()
            if (field := f"f:{name}") in fields
        }
    if isinstance(value, list):
        return _items(value, fields)
    return value


def predictor_owners(obj: Mapping[str, Any]) -> list[str]:
    """The names of others who own a part of the predictor."""
    others = [e for e in entries(obj) if not ours(e)]
    return sorted(
        {str(e.get("manager", "")) for e in others if _descend(e.get("fieldsV1", {}), PREDICTOR)}
    )


def entries(obj: Mapping[str, Any]) -> list[Entry]:
    """Who owns what of the object itself; what subresources (status) own is left out."""
    listed = obj.get("metadata", {}).get("managedFields") or ()
    return [e for e in listed if not e.get("subresource")]


def merged(one: Fields, other: Fields) -> Fields:
    """What is in either."""
    shared = {name: merged(one[name], other[name]) for name in one.keys() & other.keys()}
    return {**one, **other, **shared}


def _descend(fields: Fields, path: Iterable[str]) -> Fields | None:
    node: Any = fields
    for step in path:
        if step not in node:
            return None
        node = node[step]
    return node  # type: ignore[no-any-return]


def _items(value: list[Any], fields: Fields) -> list[Any]:
    owned_items = {_item_key(name): node for name, node in fields.items() if name[:2] == "k:"}
    if not owned_items:
        return value
    # One or two shapes for a list, such as (name) or (containerPort, protocol).
    shapes = {tuple(field for field, _ in key) for key in owned_items}
    kept = []
    for item in value:
        for shape in shapes:
            key = tuple([(field, item.get(field)) for field in shape])
            if key in owned_items:
                kept.append(project(item, owned_items[key]))
                break
    return kept


@lru_cache(maxsize=4096)
def _item_key(name: str) -> tuple[tuple[str, Any], ...]:
    """What identifies a list's item, from managedFields' `k:{"name":"main"}`."""
    return tuple(sorted(json.loads(name[2:]).items()))
