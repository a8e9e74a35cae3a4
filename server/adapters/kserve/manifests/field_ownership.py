"""Read `metadata.managedFields`: which field manager owns which field of an object.

Admission webhooks own no fields: that distinguishes a user's fields from those that they added.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from server.adapters.kserve.names import FIELD_MANAGER

Fields = Mapping[str, Any]
"""FieldsV1: `f:NAME` is a field, `k:{...}` a list's item by its key, `.` the node itself."""


class PackedFields(Mapping[str, Any]):
    """Hold FieldsV1 as a text, which equal ones share, and parse it when it is read."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = sys.intern(text)

    def __getitem__(self, name: str) -> Any:
        return _parsed(self._text)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_parsed(self._text))

    def __len__(self) -> int:
        return len(_parsed(self._text))


def packed(fields: Fields) -> Fields:
    """Return the fields packed; those that take long to parse stay as they are."""
    text = json.dumps(fields, separators=(",", ":"))
    return PackedFields(text) if len(text) <= LONGEST_PACKED else fields


# At most some 10 MB. The services of one pipeline share an entry.
@lru_cache(maxsize=128)
def _parsed(text: str) -> Fields:
    fields: Fields = json.loads(text)
    return fields


ItemKey = tuple[tuple[str, Any], ...]
"""Identifies an item of a list by the names and values of its key fields."""


class ItemNodes(dict[ItemKey, Fields]):
    """Hold the nodes of a list's items by their keys."""

    @cached_property
    def shapes(self) -> set[tuple[str, ...]]:
        """The names of the key fields: one or two for a list, such as (containerPort, protocol)."""
        return {tuple(field for field, _ in key) for key in self}


Entry = Mapping[str, Any]

PREDICTOR = ("f:spec", "f:predictor")
LONGEST_KEPT_KEY = 256
LONGEST_PACKED = 2**14
_ITSELF = {"."}


class Managers(NamedTuple):
    """Hold the managedFields entries of an object itself: ours, those of others, and all of them.

    Those of its subresources (status) are left out.
    """

    ours: tuple[Entry, ...]
    others: tuple[Entry, ...]
    all: tuple[Entry, ...]


def managers_of(obj: Mapping[str, Any]) -> Managers:
    """Split an object's managedFields into ours and those of others."""
    ours: list[Entry] = []
    others: list[Entry] = []
    for entry in obj.get("metadata", {}).get("managedFields") or ():
        if not entry.get("subresource"):
            (ours if is_ours(entry) else others).append(entry)
    return Managers(tuple(ours), tuple(others), (*ours, *others))


def is_ours(entry: Entry) -> bool:
    """Return whether an entry is that of our server-side applies."""
    return entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply"


def owned_fields(entries: Iterable[Entry], *path: str) -> Fields | None:
    """Merge the fields under `path` of these entries; None if none of them owns a field there."""
    found: Fields | None = None
    for entry in entries:
        node = _descend(entry, path)
        if node is not None:
            found = node if found is None else merged(found, node)
    return found


def manager_names_at(entries: Iterable[Entry], *path: str) -> list[str]:
    """Return the sorted names of the managers that own a field below `path`."""
    return sorted({str(e.get("manager", "")) for e in entries if _descend(e, path)})


def predictor_owners(obj: Mapping[str, Any]) -> list[str]:
    """Return the names of the other managers that own a field of spec.predictor."""
    return manager_names_at(managers_of(obj).others, *PREDICTOR)


def project(value: Any, fields: Fields | None) -> Any:
    """Return the part of `value` that is in `fields`; a node without children is taken whole."""
    if not fields or fields.keys() == _ITSELF:
        return value
    if isinstance(value, dict):
        return {
            name: project(item, node) if (node := fields[field]) else item
            for name, item in value.items()
            if (field := f"f:{name}") in fields
        }
    if isinstance(value, list) and (nodes := items_by_key(fields)):
        keyed = ((item_key(item, nodes), item) for item in value)
        return [project(item, nodes[key]) for key, item in keyed if key is not None]
    return value


def without_additions(value: Any, fields: Fields | None) -> Any:
    """Return `value` without the single values that admission webhooks added.

    A single value without an owner, beside fields that have one, was added by a webhook, which
    will add it again. A map or list without an owner may be what a user asked for: KServe's
    webhook moves whole predictors to another name.
    """
    if not fields or holds_whole(fields) or not isinstance(value, dict):
        return value
    return {
        name: without_additions(item, fields.get(f"f:{name}"))
        for name, item in value.items()
        if f"f:{name}" in fields or isinstance(item, dict | list)
    }


def holds_whole(fields: Fields) -> bool:
    """Return whether the node has one owner as a whole: a value, or an atomic map or list."""
    return not fields or fields.keys() == _ITSELF


def items_by_key(fields: Fields) -> ItemNodes:
    """Return the nodes of a list's items by their keys; empty where the list is atomic."""
    return ItemNodes(
        (_kept_key(name) if len(name) <= LONGEST_KEPT_KEY else _read_key(name), node)
        for name, node in fields.items()
        if name[:2] == "k:"
    )


def item_key(item: Any, nodes: ItemNodes) -> ItemKey | None:
    """Return the key among `nodes` that identifies the item, or None."""
    for shape in nodes.shapes:
        key = tuple([(field, item.get(field)) for field in shape])
        if key in nodes:
            return key
    return None


def merged(one: Fields, other: Fields) -> Fields:
    """Return the fields that are in either."""
    shared = {name: merged(one[name], other[name]) for name in one.keys() & other.keys()}
    return {**one, **other, **shared}


def _descend(entry: Entry, path: Iterable[str]) -> Fields | None:
    node: Any = entry.get("fieldsV1", {})
    for step in path:
        if step not in node:
            return None
        node = node[step]
    return node  # type: ignore[no-any-return]


def _read_key(name: str) -> ItemKey:
    """Parse the key in managedFields' `k:{"name":"main"}`."""
    return tuple(sorted(json.loads(name[2:]).items()))


# The same few keys stand in every object. Long ones, which others can write, are not kept.
_kept_key = lru_cache(maxsize=4096)(_read_key)
