"""What a feed has to tell, for clusters that hold their services in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

from server.domain.service.inference_service import InferenceService, ServiceKey
from server.ports import Changed, FeedEvent, Gone


class Telling:
    """The keys that changed, each told as it is when it is pulled; `look` says how that is."""

    def __init__(self, look: Callable[[ServiceKey], InferenceService | None]) -> None:
        self._look = look
        self._told: dict[ServiceKey, str] = {}
        self._marked: dict[ServiceKey, None] = {}
        self._wake = asyncio.Event()

    def mark(self, key: ServiceKey) -> None:
        """Note a change."""
        self._marked[key] = None
        self._wake.set()

    def wake(self) -> None:
        """Let the feed look although nothing changed."""
        self._wake.set()

    async def woken(self) -> None:
        """Wait for a mark, or `wake`."""
        await self._wake.wait()
        self._wake.clear()

    def first(self, keys: Iterable[ServiceKey]) -> Iterator[FeedEvent]:
        """What is there; whatever changes meanwhile is told after it."""
        for key in keys:
            if event := self._news(key):
                yield event

    def next(self) -> FeedEvent | None:
        """What there is to tell; None where there is nothing by now."""
        while self._marked:
            key = next(iter(self._marked))
            del self._marked[key]
            if event := self._news(key):
                return event
        return None

    def _news(self, key: ServiceKey) -> FeedEvent | None:
        """What is to be told of a service by now; None if it came and went unseen."""
        service = self._look(key)
        known = self._told.pop(key, None)
        if known and (service is None or service.uid != known):
            # Its successor is told in a turn of its own, as it then is.
            self.mark(key)
            return Gone(key, known)
        if service is None:
            return None
        self._told[key] = service.uid
        return Changed(service)
