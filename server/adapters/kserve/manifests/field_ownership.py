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

ItemKey = tuple[tuple[str, Any], ...]
"""What identifies an item of a list: its fields of these names have these values."""

Entry = Mapping[str, Any]

PREDICTOR = ("f:spec", "f:predictor")
LONGEST_KEPT_KEY = 256
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
    if not fields or holds_whole(fields):
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


def without_additions(value: Any, fields: Fields | None) -> Any:
    """What of `value` was asked, where admission webhooks may have rewritten whole parts of it.

    A single value that nobody owns among others that somebody does was put in by a webhook, which
    does so again. A map or list that nobody owns may be what somebody asked, under another name.
    """
    if not fields or holds_whole(fields) or not isinstance(value, dict):
        return value
    return {
        name: without_additions(item, fields.get(f"f:{name}"))
        for name, item in value.items()
        if f"f:{name}" in fields or isinstance(item, dict | list)
    }


def holds_whole(fields: Fields) -> bool:
    """Whether the node has one owner as a whole: a single value, or an atomic map or list."""
    return not fields or fields.keys() == _ITSELF


def items_by_key(fields: Fields) -> Mapping[ItemKey, Fields]:
    """The nodes of a list's items by their keys; empty where the list is atomic."""
    return {_parsed_key(name): node for name, node in fields.items() if name[:2] == "k:"}


def item_key(item: Any, nodes: Mapping[ItemKey, Fields]) -> ItemKey | None:
    """The key among `nodes` by which an item goes; None where it goes by none of them."""
    # One or two shapes for a list, such as (name) or (containerPort, protocol).
    for shape in {tuple(field for field, _ in key) for key in nodes}:
        key = tuple([(field, item.get(field)) for field in shape])
        if key in nodes:
            return key
    return None


def owners(obj: Mapping[str, Any], *path: str) -> list[str]:
    """The names of others who own a part of what is under `path`."""
    others = [e for e in entries(obj) if not ours(e)]
    return sorted(
        {str(e.get("manager", "")) for e in others if _descend(e.get("fieldsV1", {}), path)}
    )


def predictor_owners(obj: Mapping[str, Any]) -> list[str]:
    """The names of others who own a part of the predictor."""
    return owners(obj, *PREDICTOR)


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
    nodes = items_by_key(fields)
    if not nodes:
        return value
    keyed = ((item_key(item, nodes), item) for item in value)
    return [project(item, nodes[key]) for key, item in keyed if key is not None]


def _parsed_key(name: str) -> ItemKey:
    """What identifies a list's item, from managedFields' `k:{"name":"main"}`."""
    return _kept_key(name) if len(name) <= LONGEST_KEPT_KEY else _read_key(name)


def _read_key(name: str) -> ItemKey:
    return tuple(sorted(json.loads(name[2:]).items()))


# The same few stand in every object; others may write long ones, which are not kept.
_kept_key = lru_cache(maxsize=4096)(_read_key)
