"""Files of operators that are read again when they change."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import structlog

from server.bounded_file import FileUnusable, read_file

EVERY_SECONDS = 1.0
# Content that cannot be used is tried again: a certificate may have become valid.
TRIED_AGAIN_SECONDS = 60.0

log = structlog.get_logger(__name__)

Content = TypeVar("Content")


class Followed(ABC, Generic[Content]):
    """What one or more files have. `load` it, then `follow` it.

    Content that cannot be used is reported once, and what is in use stays. Files are read in a
    thread.
    """

    def __init__(self) -> None:
        # The content at the last reading; a text where it could not be read.
        self._seen: Content | str | None = None
        self._judged: Content | str | None = None
        self._judged_at = 0.0
        self._problem = ""

    async def load(self) -> None:
        """Read the files. Raises FileUnusable, which names the setting."""
        await asyncio.to_thread(self._load)

    async def follow(self) -> None:
        """Use the content anew as the files change, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            # If no thread can be started, it is tried again the next time.
            with suppress(RuntimeError):
                await asyncio.to_thread(self.check)

    def check(self) -> None:
        """Read the files once. Content is used, or reported, when it is read for the second time.

        A volume of a Secret is replaced between the reading of two files, and other tools write a
        file in several steps: such content is gone the next time.
        """
        content: Content | str
        try:
            content = self._read()
        except FileUnusable as e:
            content = str(e)
        if content == self._seen and (content != self._judged or self._is_to_be_tried_again()):
            self._judge(content)
        self._seen = content

    @abstractmethod
    def _read(self) -> Content:
        """Read the files. Raises FileUnusable."""

    @abstractmethod
    def _use(self, content: Content) -> None:
        """Put content into use. Raises FileUnusable."""

    @abstractmethod
    def _report(self, problem: str) -> None:
        """Log why newer content cannot be used."""

    def _load(self) -> None:
        content = self._read()
        self._use(content)
        self._seen = self._judged = content

    def _is_to_be_tried_again(self) -> bool:
        return bool(self._problem) and time.monotonic() - self._judged_at > TRIED_AGAIN_SECONDS

    def _judge(self, content: Content | str) -> None:
        problem = content if isinstance(content, str) else ""
        if not isinstance(content, str):
            try:
                self._use(content)
            except FileUnusable as e:
                problem = str(e)
        if problem and (content, problem) != (self._judged, self._problem):
            self._report(problem)
        self._judged, self._problem, self._judged_at = content, problem, time.monotonic()


class Events(NamedTuple):
    """The log's events: the content is in use, a newer one is, or a newer one cannot be used."""

    loaded: str
    replaced: str
    broken: str


class FollowedFile(Followed[bytes]):
    """The file of a setting."""

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
        super().__init__()
        self._setting = setting
        self._path = path
        self._most = most
        self._events = events
        self._put_into_use = use

    def _read(self) -> bytes:
        try:
            return read_file(self._path, self._most)
        except FileUnusable as e:
            raise FileUnusable(f"{self._setting}: {e}") from None

    def _use(self, content: bytes) -> None:
        try:
            fields = self._put_into_use(content)
        except ValueError as e:
            raise FileUnusable(f"{self._setting}: {self._path}: {e}") from None
        is_first = self._judged is None
        log.info(self._events.loaded if is_first else self._events.replaced, **fields)

    def _report(self, problem: str) -> None:
        log.error(self._events.broken, problem=problem)
