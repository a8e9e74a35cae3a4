"""A file of operators that is read again when it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import structlog

from server.bounded_file import FileUnusable, read_file

EVERY_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Events(NamedTuple):
    """The log's events: the content is in use, a newer one is, or a newer one cannot be used."""

    loaded: str
    replaced: str
    broken: str


class FollowedFile:
    """A file of a setting. `load` it, then `follow` it.

    Content that cannot be used is logged once, and what is in use stays. It is read in a thread.
    """

    def __init__(
        self,
        setting: str,
        path: Path,
        most: int,
        events: Events,
        use: Callable[[bytes], Mapping[str, object]],
    ) -> None:
        """`use` puts content of at most `most` bytes into use, and returns fields for the log. It
        raises ValueError, which says what must be there.
        """
        self._setting = setting
        self._path = path
        self._most = most
        self._events = events
        self._use = use
        # The content at the last reading; a text where it could not be read.
        self._seen: bytes | str = b""
        self._judged: bytes | str = b""

    async def load(self) -> None:
        """Read the file. Raises FileUnusable, which names the setting."""
        await asyncio.to_thread(self._load)

    async def follow(self) -> None:
        """Use the content anew as the file changes, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            # If no thread can be started, it is tried again the next time.
            with suppress(RuntimeError):
                await asyncio.to_thread(self.check)

    def check(self) -> None:
        """Read the file once. Content is used, or reported, when it is read for the second time:
        others write a file in several steps."""
        try:
            content: bytes | str = self._read()
        except FileUnusable as e:
            content = str(e)
        if content == self._seen and content != self._judged:
            self._judge(content)
            self._judged = content
        self._seen = content

    def _load(self) -> None:
        content = self._read()
        self._put_into_use(content, self._events.loaded)
        self._seen = self._judged = content

    def _judge(self, content: bytes | str) -> None:
        try:
            if isinstance(content, str):
                raise FileUnusable(content)
            self._put_into_use(content, self._events.replaced)
        except FileUnusable as e:
            log.error(self._events.broken, problem=str(e))

    def _read(self) -> bytes:
        try:
            return read_file(self._path, self._most)
        except FileUnusable as e:
            raise FileUnusable(f"{self._setting}: {e}") from None

    def _put_into_use(self, content: bytes, event: str) -> None:
        try:
            fields = self._use(content)
        except ValueError as e:
            raise FileUnusable(f"{self._setting}: {self._path}: {e}") from None
        log.info(event, **fields)
