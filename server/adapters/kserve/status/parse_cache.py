"""Cache parsed objects of a service, so that an event parses only the objects that it changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, TypeVarTuple

from server.adapters.kserve.objects import Object

T = TypeVar("T")
Args = TypeVarTuple("Args")


class ParseCache:
    """Keep the latest result of each parser for one service.

    Objects are compared by identity: the informers replace an object and never change it in place.
    """

    def __init__(self) -> None:
        # The arguments are kept with the result: an id is only unique while its object lives.
        self._results: dict[Any, tuple[list[Any], Any, Any]] = {}
        self._items: dict[Any, dict[int, tuple[Object, Any]]] = {}

    def parse(self, parser: Callable[[*Args], T], *args: *Args) -> T:
        """Return `parser(*args)`. A tuple among the arguments is compared item by item."""
        ids = [[id(i) for i in arg] if isinstance(arg, tuple) else id(arg) for arg in args]
        cached = self._results.get(parser)
        if cached is None or cached[0] != ids:
            cached = self._results[parser] = (ids, args, parser(*args))
        result: T = cached[2]
        return result

    def parse_each(self, parser: Callable[[Object], T], objects: Sequence[Object]) -> tuple[T, ...]:
        """Return the result of each object; the results of other objects are dropped."""
        cached = self._items.get(parser, {})
        items = {id(o): cached.get(id(o)) or (o, parser(o)) for o in objects}
        self._items[parser] = items
        return tuple(result for _, result in items.values())
