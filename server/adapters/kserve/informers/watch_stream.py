"""Read the answers of list and watch, without any I/O: lines, events, errors, pauses."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec

from server.adapters.kserve.objects import Object

LONGEST_PAUSE = 2.0
LONGEST_RETRY_AFTER = 30.0
STEADY_AFTER = 10.0
# Of the JSON of one object, searched for its end: some 20 ms.
MOST_GUESSED_BYTES = 2**23
LONGEST_BEFORE_ITEMS = 2**13
# An event is shorter: the API server accepts objects of at most 3 MiB.
LONGEST_LINE = 2**26


class Expired(Exception):
    """The resourceVersion is too old to resume from: list again."""


class Refused(Exception):
    """The API server refused, or the answer is not an API server's; `retry_after` in seconds."""

    def __init__(self, status: int, retry_after: float = 0.0) -> None:
        super().__init__(f"HTTP {status}" if status else "not an answer of an API server")
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A change. `type` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: Object

    @property
    def resource_version(self) -> str:
        """Return the resourceVersion to resume from after this event."""
        version: str = self.object["metadata"]["resourceVersion"]
        return version


class PageMetadata(msgspec.Struct):
    """The resourceVersion of a list; `next_page` is the token to read on, empty at the end."""

    resource_version: str = msgspec.field(name="resourceVersion")
    next_page: str = msgspec.field(name="continue", default="")


class Page(msgspec.Struct):
    """A page of a list: the JSON of each object, and the list's metadata."""

    metadata: PageMetadata
    items: list[msgspec.Raw] | None


class Lines:
    """Join the chunks of a stream to lines. An unfinished line is kept, up to a bound."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Add a chunk, and return the lines that it ends. Raises Refused for an endless line."""
        *ended, rest = chunk.split(b"\n")
        if ended:
            ended[0] = b"".join([*self._begun, ended[0]])
            self._begun, self._size = [], 0
        if rest:
            self._begun.append(rest)
            self._size += len(rest)
        if self._size > LONGEST_LINE:
            raise Refused(0)
        return [line for line in ended if line.strip()]


class ListReader:
    """Read the objects of a list as they arrive, while the API server encodes the next ones.

    `read` parses the JSON of an object, and raises ValueError or RecursionError for any other text.
    Since no beginning of an object is JSON, a place that only looks like the end of one is found
    out. After MOST_GUESSED_BYTES in one object the rest is read at the end of the list.
    """

    def __init__(self, read: Callable[[memoryview], Object]) -> None:
        self._read = read
        self._before_items = b""
        # What follows `_before_items` and is not read yet. Its first object ends no earlier than at
        # `_searched`, before `_next_object`.
        self._text = bytearray()
        self._next_object = b""
        self._searched = 0
        self._guessed_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[tuple[Object, int]]:
        """Add a chunk. Yield the objects that it ends, each with the bytes that were examined."""
        self._text += chunk
        if not self._next_object:
            self._find_first_object()
        while self._next_object and self._guessed_bytes < MOST_GUESSED_BYTES:
            end = self._text.find(self._next_object, self._searched) + 1
            if not end:
                self._searched = max(self._searched, len(self._text) - len(self._next_object) + 1)
                return
            self._guessed_bytes += end
            with memoryview(self._text) as text, text[:end] as guessed:
                whole = bytes(guessed) if _is_json(guessed) else b""
            if not whole:
                self._searched = end
                continue
            try:
                found = self._read(memoryview(whole))
            except (ValueError, RecursionError):
                # The end of the list has the error.
                self._guessed_bytes = MOST_GUESSED_BYTES
                return
            examined = self._guessed_bytes
            del self._text[: end + 1]
            self._searched = self._guessed_bytes = 0
            yield found, examined

    def end(self) -> Page:
        """Return the list, without the objects that were read. Raises Refused if it is no list."""
        # In place: a list has up to 64 MiB.
        self._text[:0] = self._before_items
        return read_page(self._text)

    def _find_first_object(self) -> None:
        first = _FIRST_OBJECT.search(self._text, 0, LONGEST_BEFORE_ITEMS)
        # Those of an object within the list are not the list's.
        if first and _is_json(self._text[: first.start(1)] + b"]}"):
            self._before_items = bytes(self._text[: first.start(1)])
            self._next_object = b"}," + first[1]
            del self._text[: first.start(1)]


# A custom resource begins with its type, any other object of a list with its metadata.
_FIRST_OBJECT = re.compile(
    rb'"items":\[(\{(?:"(?:apiVersion|kind)":"[^"\\]{,256}",){,2}"metadata":\{)'
)


class Backoff:
    """Compute the pauses between connections, so that no failure causes a storm of them."""

    def __init__(self) -> None:
        self._brief = 0

    def pause(self, lived: float, retry_after: float = 0.0) -> float:
        """Return the seconds to pause after a connection of `lived` seconds: jittered, at most 2 s.

        A server that asks for more time gets it, up to 30 s.
        """
        self._brief = 0 if lived >= STEADY_AFTER else min(self._brief + 1, 10)
        ceiling = min(LONGEST_PAUSE, 0.1 * 2**self._brief)
        asked = min(retry_after, LONGEST_RETRY_AFTER)
        return max(random.uniform(ceiling / 2, ceiling), asked)  # noqa: S311 (jitter)


def read_event(line: bytes) -> WatchEvent:
    """Parse a line of a watch. Raises Expired, or Refused, also for a line that is no event."""
    try:
        event = msgspec.json.decode(line)
        match event:
            case {"type": "ERROR", "object": dict(status)}:
                raise _refusal(status)
            case {"type": str(kind), "object": {"metadata": {"resourceVersion": str()}} as found}:
                return WatchEvent(kind, found)
    except (ValueError, RecursionError):
        pass
    raise Refused(0)


def admit_answer(status: int, headers: Mapping[str, str]) -> None:
    """Accept a 200. Raises Expired or Refused for every other status."""
    if status == HTTPStatus.GONE:
        raise Expired
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        raise Refused(status, parse_retry_after(headers.get("Retry-After")))
    # Right after its start an API server answers 503 and asks for 5 s, for a resource that is there
    # in one second. The usual pauses are long enough.
    if status != HTTPStatus.OK:
        raise Refused(status)


def parse_retry_after(text: str | int | None) -> float:
    """Return the seconds that an answer asks to wait: any number, for the caller to bound.

    0 if it asks for none, and for an HTTP date, which no API server sends.
    """
    return float(text) if text is not None and str(text).isdecimal() else 0.0


def read_page(content: bytes | bytearray) -> Page:
    """Read a page of a list. Raises Refused for any other content."""
    try:
        return _read_page(content)
    except (ValueError, RecursionError):
        raise Refused(0) from None


_read_page = msgspec.json.Decoder(Page).decode
# It makes no objects: a hundredth of the time of parsing.
_skip = msgspec.json.Decoder(msgspec.Raw).decode


def _is_json(text: memoryview | bytearray) -> bool:
    """Return whether this is one JSON value, with nothing after it."""
    try:
        _skip(text)
    except (ValueError, RecursionError):
        return False
    return True


def _refusal(status: Mapping[str, Any]) -> Exception:
    code = status.get("code") or 0
    if code == HTTPStatus.GONE or status.get("reason") in ("Expired", "Gone"):
        return Expired()
    asked = (status.get("details") or {}).get("retryAfterSeconds")
    return Refused(code, parse_retry_after(asked))
