"""Cache parsed objects of a service, so that an event parses only the objects that it changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any, TypeVar, TypeVarTuple

from server.adapters.kserve.objects import Object

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


def _have_same_items(old: Any, new: Any) -> bool:
    both = isinstance(old, tuple) and isinstance(new, tuple)
    return both and len(old) == len(new) and all(map(is_, old, new))
