"""Logging: one line for each event, in one format for the server and its libraries."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from structlog.typing import Processor

from server import log_stream
from server.domain.rollout.container_output import without_controls
from server.log_stream import LogStream, with_time
from server.settings import Log

# Only their warnings: the callers log requests and retries themselves.
_QUIET = ("aiohttp", "alembic", "asyncio", "grpc", "urllib3")


def configure(log: Log) -> None:
    """Configure all loggers to write to the standard error stream."""
    level = logging.getLevelNamesMapping()[log.level.upper()]
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        with_time,
        _without_exception_texts,
    ]
    renderer = _renderer(log)
    stream = LogStream(sys.stderr, lambda line: str(renderer(None, "", with_time(None, "", line))))
    log_stream.write_late_lines_to(stream if level <= logging.INFO else None)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Logger(stream),
        cache_logger_on_first_use=True,
    )
    _configure_libraries(stream, shared, renderer, level)


def _renderer(log: Log) -> Processor:
    chosen = log.format or ("console" if sys.stderr.isatty() else "json")
    if chosen == "console":
        render = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        return lambda logger, method, event: render(logger, method, _plain(event))
    return structlog.processors.JSONRenderer(serializer=encode_line)


def _plain(event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Remove control characters, which a terminal may obey; JSON escapes them itself."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = without_controls(value)
    return event


def _is_of_the_server(record: logging.LogRecord) -> bool:
    """Drop the errors that grpc.aio logs when a client leaves: clients could fill the log."""
    return not str(record.msg).startswith("ExecuteBatchError raised in core")


class _Logger:
    """Writes lines of structlog. Its WriteLogger would hold a lock meanwhile: see LogStream."""

    def __init__(self, stream: LogStream) -> None:
        self._stream = stream

    def info(self, line: str) -> None:
        self._stream.write(f"{line}\n")

    debug = warning = error = critical = info


class _Handler(logging.Handler):
    """Writes records of libraries. A StreamHandler would hold a lock meanwhile: see LogStream."""

    def __init__(self, stream: LogStream) -> None:
        super().__init__()
        self._stream = stream

    def handle(self, record: logging.LogRecord) -> bool:
        """Handle a record without the handler's lock."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record. Raises nothing in the library."""
        try:
            self._stream.write(f"{self.format(record)}\n")
        except Exception:
            self.handleError(record)


def _configure_libraries(
    stream: LogStream, shared: list[Processor], renderer: Processor, level: int
) -> None:
    handler = _Handler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_of_the_server)


# One encoder for all lines: json.dumps creates one for each.
_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode
_encode_plain = msgspec.json.Encoder().encode
_PLAIN = frozenset((str, int, float))


def encode_line(event: Mapping[str, Any], **_: Any) -> str:
    """Encode a line.

    msgspec takes a tenth of json's time for the texts and numbers of most lines. json also escapes
    all that is not printable ASCII, and takes values of any type.
    """
    if _PLAIN.issuperset(map(type, event.values())):
        with suppress(UnicodeEncodeError):  # a lone surrogate
            encoded = _encode_plain(event)
            if encoded.isascii() and b"\x7f" not in encoded:
                return encoded.decode()
    return _encode(event)


def _without_exception_texts(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Log the stack of an exception without its text, which may have values of a request."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    elif isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["exception"] = "\n".join(_frames(error))
    return event


def _frames(error: BaseException) -> Iterator[str]:
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier:
        yield from _frames(earlier)
        yield "and then"
    yield "".join(traceback.format_tb(error.__traceback__)) + type(error).__qualname__
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield "one of the group"
            yield from _frames(each)
