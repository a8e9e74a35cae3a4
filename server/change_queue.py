"""A queue of changed keys. Its one reader looks up the state of each key itself."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class ChangeQueue(Generic[Key]):
    """Keys in the order of their first change, each once until it is pulled.

    It grows with the number of keys and never with the number of changes, so a slow reader skips
    states and misses no key.
    """

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys: OrderedDict[Key, None] = OrderedDict()
        self._wake = asyncio.Event()
        for key in keys:
            self.add(key)

    def add(self, key: Key) -> None:
        """Queue a key, and wake the reader."""
        self._keys[key] = None
        self._wake.set()

    def __contains__(self, key: Key) -> bool:
        """Report whether a key is queued."""
        return key in self._keys

    def discard(self, key: Key) -> None:
        """Drop a key, if it is queued."""
        self._keys.pop(key, None)

    def pull(self) -> Iterator[Key]:
        """Take what is queued now, oldest first. A key leaves the queue as it is yielded."""
        for _ in range(len(self._keys)):
            if self._keys:
                yield self._keys.popitem(last=False)[0]

    async def wait(self, seconds: float | None = None) -> None:
        """Wait for an `add` since the last wait, for so many seconds at most.

        Pull after it, since keys that stay queued do not end the next wait.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
                self._wake.clear()
