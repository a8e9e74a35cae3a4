"""Cache parsed objects of a service, so that an event parses only the objects that it changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from operator import is_
from typing import Any, TypeVar, TypeVarTuple

import msgspec

from server.adapters.kserve.held_object import HeldObject
from server.adapters.kserve.objects import Object
from server.domain.service.inference_service import ServiceKey

# The services that were derived last keep the results of their parsers: so many of them, whose
# objects have so many bytes of JSON. The results take up to twenty times as much.
MOST_CACHES = 64
MOST_BYTES = 2**21

T = TypeVar("T")
Args = TypeVarTuple("Args")


class ParseCache:
    """Keep the latest result of each parser for one service.

    Objects are compared by identity: the informers replace an object and never change it in place.
    """

    def __init__(self) -> None:
        self._results: dict[Any, tuple[tuple[Any, ...], Any]] = {}
        self._items: dict[Any, dict[int, tuple[Object, Any]]] = {}

    def parse(self, parser: Callable[[*Args], T], *args: *Args) -> T:
        """Return `parser(*args)`. A tuple among the arguments is compared item by item."""
        cached = self._results.get(parser)
        given: tuple[Any, ...] = args
        if cached is None or not all(
            old is new or _have_same_items(old, new)
            for old, new in zip(cached[0], given, strict=True)
        ):
            cached = self._results[parser] = (args, parser(*args))
        result: T = cached[1]
        return result

    def parse_each(self, parser: Callable[[Object], T], objects: Sequence[Object]) -> tuple[T, ...]:
        """Return the result of each object; the results of other objects are dropped."""
        # The object is kept with its result: an id is only unique while its object lives.
        cached = self._items.get(parser, {})
        items = {id(o): cached.get(id(o)) or (o, parser(o)) for o in objects}
        self._items[parser] = items
        return tuple(result for _, result in items.values())


class ParseCaches:
    """Keep the parse caches of the services that were derived last, within MOST_CACHES and
    MOST_BYTES, at least one."""

    def __init__(self) -> None:
        # Each with the bytes of its objects, the one that was used last at the end.
        self._caches: OrderedDict[ServiceKey, tuple[ParseCache, int]] = OrderedDict()
        self._bytes = 0

    def of(self, key: ServiceKey, objects: Sequence[Object]) -> ParseCache:
        """Return the cache of a service that has these objects."""
        cache, counted = self._caches.pop(key, (ParseCache(), 0))
        size = sum(cache.parse_each(_size_of, objects))
        self._caches[key] = cache, size
        self._bytes += size - counted
        while len(self._caches) > 1 and (
            len(self._caches) > MOST_CACHES or self._bytes > MOST_BYTES
        ):
            self.drop(next(iter(self._caches)))
        return cache

    def kept(self, key: ServiceKey) -> ParseCache:
        """Return the cache of a service as it is; if it has none, an empty one that is not kept."""
        cache, _ = self._caches.get(key, (ParseCache(), 0))
        return cache

    def drop(self, key: ServiceKey) -> None:
        """Drop the cache of a service, if it has one."""
        _, counted = self._caches.pop(key, (None, 0))
        self._bytes -= counted


def _size_of(found: Object) -> int:
    """Return the bytes of an object's JSON."""
    if isinstance(found, HeldObject):
        return found.size
    return len(msgspec.json.encode(found, enc_hook=dict))


def _have_same_items(old: Any, new: Any) -> bool:
    both = isinstance(old, tuple) and isinstance(new, tuple)
    return both and len(old) == len(new) and all(map(is_, old, new))
