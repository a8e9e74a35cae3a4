"""Keep of each object that is cached no more than its readers use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from server.adapters.kserve.held_object import HeldObject, keep_parsed
from server.adapters.kserve.informers.collections import BINDINGS, RUNTIMES, Kind
from server.adapters.kserve.informers.held_revision import HeldRevision
from server.adapters.kserve.manifests.field_ownership import packed
from server.adapters.kserve.objects import Object

# Parsing takes half a millisecond at most.
LARGEST_PACKED = 2**16
# Within an object of SMALL bytes all texts may be long: each object of a service has them again.
SMALL = 2**13
LONG_TEXT = 2**10

_parse = msgspec.json.Decoder(dict[str, Any]).decode
# A few fields of them are read at once, and only those are cached.
_READ_AT_ONCE = (*BINDINGS, *RUNTIMES)


def hold(kind: Kind, text: memoryview) -> Object:
    """Return the object of this JSON as it is cached. Raises ValueError if it is no object."""
    # HeldObject reads a few fields only: any other one could break every later read.
    found = _parse(text)
    if not isinstance(found.get("metadata"), dict):
        raise ValueError("an object must have metadata")
    if kind is Kind.SERVICES and _is_packed(text):
        return HeldObject(text)
    return hold_parsed(kind, found)


def hold_parsed(kind: Kind, found: Mapping[str, Any], *, stays_parsed: bool = False) -> Object:
    """Return a parsed object as it is cached. Raises ValueError if it has no metadata, or some of
    another shape than Kubernetes'.

    `stays_parsed`: it will be read at once, as one that changed.

    A large one and one with long texts stay as dicts: they share their texts with the other objects
    of the service (`text_interning`).
    """
    try:
        return _hold_parsed(kind, found, stays_parsed)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("an object must have the metadata of Kubernetes") from error


def _hold_parsed(kind: Kind, found: Mapping[str, Any], stays_parsed: bool) -> Object:
    if kind is Kind.CONTROLLER_REVISIONS:
        return HeldRevision(found)
    found = without_unused(kind, found)
    if kind in _READ_AT_ONCE:
        return found
    text = msgspec.json.encode(found)
    if _is_packed(memoryview(text)):
        held = HeldObject(text)
        if stays_parsed:
            keep_parsed(held, found, len(text))
        return held
    return with_packed_owners(found) if kind is Kind.SERVICES else found


def _is_packed(text: memoryview) -> bool:
    if len(text) <= SMALL:
        return True
    # An escaped quote ends a text here too: such texts are JSON, which compresses well.
    return len(text) <= LARGEST_PACKED and all(
        len(part) < LONG_TEXT for part in text.tobytes().split(b'"')
    )


def without_unused(kind: Kind, found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an object without its managedFields, which are used of InferenceServices only."""
    if kind is Kind.SERVICES:
        return found
    metadata = {name: value for name, value in found["metadata"].items() if name != "managedFields"}
    return {**found, "metadata": metadata}


def with_packed_owners(service: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an InferenceService with its managedFields packed.

    They are used seldom, and as dicts they take half of the memory of a service.
    """
    entries = service["metadata"].get("managedFields") or ()
    held = [
        {**e, "fieldsV1": packed(e["fieldsV1"])} if isinstance(e.get("fieldsV1"), dict) else e
        for e in entries
    ]
    return {**service, "metadata": {**service["metadata"], "managedFields": held}}
