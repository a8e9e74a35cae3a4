"""Hold an object of the API server as compressed JSON, and parse it when it is read."""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

# KServe labels its objects, and the labels of their templates reach ReplicaSets and pods.
SERVICE_LABEL = "serving.kserve.io/inferenceservice"
# The objects that were read last stay parsed: at most so many, of at most so many bytes of JSON. As
# dicts they take three times their JSON, and those of many empty lists twenty times.
MOST_OPEN = 256
MOST_OPEN_BYTES = 2**18
# The fastest level. A higher one saves a twentieth more and takes twice the time.
_LEVEL = 1


class _Metadata(msgspec.Struct, rename="camel"):
    uid: str = ""
    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None
    generation: int | None = None
    labels: dict[str, str] | None = None


class _Subject(msgspec.Struct):
    uid: str = ""


class _Head(msgspec.Struct, rename="camel"):
    metadata: _Metadata
    involved_object: _Subject | None = None


_read_head = msgspec.json.Decoder(_Head).decode
_parse = msgspec.json.Decoder(dict[str, Any]).decode


class HeldObject(Mapping[str, Any]):
    """Hold all fields of an object.

    As dicts and texts an object takes three times its JSON, compressed a fifth. The fields by which
    caches compare objects are attributes; to read any other one parses the object. `service` is
    the value of the label SERVICE_LABEL, `subject` the uid of the object that an event is about,
    `size` the bytes of its JSON.
    """

    __slots__ = (
        "_packed",
        "created",
        "generation",
        "name",
        "namespace",
        "service",
        "size",
        "subject",
        "uid",
        "version",
    )

    def __init__(self, text: bytes | memoryview) -> None:
        """Raises ValueError if the text is not the JSON of an object with metadata.

        Fields that are no attributes are not checked: they must be valid JSON.
        """
        head = _read_head(text)
        metadata = head.metadata
        self._packed = zlib.compress(text, _LEVEL)
        self.size = len(text)
        self.uid = metadata.uid
        self.name = metadata.name
        self.namespace = share_text(metadata.namespace)
        self.version = metadata.resource_version
        self.created = share_text(metadata.creation_timestamp or "")
        self.generation = metadata.generation or 0
        self.service = share_text((metadata.labels or {}).get(SERVICE_LABEL, ""))
        self.subject = head.involved_object.uid if head.involved_object else ""

    def __getitem__(self, name: str) -> Any:
        return _open_objects.parsed(self)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_open_objects.parsed(self))

    def __len__(self) -> int:
        return len(_open_objects.parsed(self))

    def __bool__(self) -> bool:
        # It has metadata. By its length it would be parsed.
        return True

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field. The method of Mapping takes twice the time."""
        return _open_objects.parsed(self).get(name, default)

    # An object is replaced and never changed, so that its identity is that of its content.
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        if isinstance(other, HeldObject):
            return self is other
        return Mapping.__eq__(self, other)

    def parse(self) -> dict[str, Any]:
        """Return a copy of the object as dicts."""
        return _parse(self.text())

    def text(self) -> bytes:
        """Return the object as JSON."""
        return zlib.decompress(self._packed)


class _OpenObjects:
    """Keep the objects that were read last parsed, within MOST_OPEN and MOST_OPEN_BYTES."""

    def __init__(self) -> None:
        # Each with the bytes of its JSON, the one that was read last at the end.
        self._objects: OrderedDict[HeldObject, tuple[Mapping[str, Any], int]] = OrderedDict()
        self._bytes = 0

    def parsed(self, held: HeldObject) -> Mapping[str, Any]:
        """Return the object as dicts, which must not be changed."""
        found = self._objects.get(held)
        if found:
            self._objects.move_to_end(held)
            return found[0]
        text = held.text()
        parsed = _parse(text)
        self.add(held, parsed, len(text))
        return parsed

    def add(self, held: HeldObject, parsed: Mapping[str, Any], size: int) -> None:
        """Keep an object of `size` bytes of JSON parsed."""
        self._objects[held] = parsed, size
        self._bytes += size
        while len(self._objects) > MOST_OPEN or self._bytes > MOST_OPEN_BYTES:
            _, (_, dropped) = self._objects.popitem(last=False)
            self._bytes -= dropped

    def clear(self) -> None:
        """Drop all of them."""
        self._objects.clear()
        self._bytes = 0


_open_objects = _OpenObjects()


def keep_parsed(held: HeldObject, parsed: Mapping[str, Any], size: int) -> None:
    """Keep a new object, of `size` bytes of JSON, parsed as one that was just read."""
    _open_objects.add(held, parsed, size)


def forget_parsed() -> None:
    """Drop the parsed objects, with those that were deleted."""
    _open_objects.clear()


# Services of one team have the same namespace, labels and variables.
_LONGEST_SHARED = 64
_shared = lru_cache(maxsize=8192)(str)


def share_text(text: str) -> str:
    """Return a text that was given lately and equals this one, so that it is held once."""
    return _shared(text) if len(text) <= _LONGEST_SHARED else text
