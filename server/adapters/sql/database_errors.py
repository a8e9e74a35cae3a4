"""Translate the errors of a database."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from server.domain.registry.registry_errors import RegistryUnavailable


class Conflict(Exception):
    """Another transaction conflicts; nothing was stored, and a retry is safe."""


class Lost(Exception):
    """The connection to the database failed; `str` has the cause, for the log. Uncommitted
    statements are not stored."""


class Refused(Lost):
    """The database refuses connections until it or this server's settings change. `str` has the
    cause, for operators and not for callers."""


_DISK_FULL = (
    "the disk of the registry's database is full, nothing was stored; free some space there"
)
_SCHEMA = (
    "the registry's database has another schema than this server works with, nothing was stored;"
    " run python -m server migrate of the version that serves"
)
_RIGHTS = (
    "the registry's database refuses its user, nothing was stored; grant it the rights to its"
    " own tables"
)
_NO_SEARCH_PATH = (
    "the registry's database has no schema of the search_path that its user may use, nothing was"
    " stored; create one, grant its use, or name another in options"
)
_DISK = "the registry's database cannot be read or written; look at its disk"

# By SQLSTATE: by the whole code, else by its class.
# 0A000: a migration has invalidated the plan of a prepared statement.
_CONFLICT_STATES = ("40001", "40P01", "55P03", "0A000")
_LOST_STATES = ("08", "57", "25006", "25P03", "53300")
# Passing failures of a new connection; poolers refuse with 08P01.
_PASSING_CLASSES = ("08", "40", "53", "57", "58", "XX")
_PROTOCOL_VIOLATION = "08P01"
_MESSAGE_STATES = {
    "53": _DISK_FULL,
    "58": _DISK,
    "3F000": _NO_SEARCH_PATH,
    "42501": _RIGHTS,
    "42P01": _SCHEMA,
    "42703": _SCHEMA,
}

_MOST_CHARACTERS = 300

_CONFLICT_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_LOST_CODES = (
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
)
_MESSAGE_CODES = {sqlite3.SQLITE_FULL: _DISK_FULL, sqlite3.SQLITE_IOERR: _DISK}


def refusal(state: str, message: str) -> Lost:
    """Translate the database's refusal of a new connection."""
    if state[:2] in _PASSING_CLASSES and state != _PROTOCOL_VIOLATION:
        return Lost(f"SQLSTATE {state}")
    return Refused(f"SQLSTATE {state}, {_one_line(message)}")


def tls_refusal(error: ssl.SSLError) -> Lost:
    """Translate the failure of a TLS handshake."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(f"its certificate is not accepted: {_one_line(error.verify_message)}")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or not error.reason:
        return Lost("the connection ended within the TLS handshake")
    return Refused(f"the TLS handshake failed: {_one_line(error.reason)}")


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]}..."


@contextmanager
def translated() -> Iterator[None]:
    """Translate the database's errors to Conflict, Lost or RegistryUnavailable. Any other error is
    a bug and is raised unchanged."""
    try:
        yield
    except DBAPIError as e:
        raise _translation(e) from e
    except OSError as e:
        raise Lost(_reason(e)) from e


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "its host's name is not known"
    # Errors that do not come from a system call have numbers of their own, or none.
    if error.errno is None or error.errno not in errno.errorcode:
        return "it does not answer"
    return os.strerror(error.errno)


def _translation(error: DBAPIError) -> Exception:
    original = error.orig
    # SQLAlchemy's own error for an invalid plan has no SQLSTATE; its cause has.
    states = (
        getattr(each, "sqlstate", None) for each in (original, getattr(original, "__cause__", None))
    )
    if state := next(filter(None, states), None):
        return _by_state(state) or error
    if code := getattr(original, "sqlite_errorcode", None):
        return _by_code(code & 0xFF, str(original)) or error
    # The driver's own error: the connection was closed, or never opened.
    return Lost("the connection ended") if error.connection_invalidated else error


def _by_state(state: str) -> Exception | None:
    if state in _CONFLICT_STATES:
        return Conflict()
    if state in _LOST_STATES or state[:2] in _LOST_STATES:
        return Lost(f"SQLSTATE {state}")
    message = _MESSAGE_STATES.get(state) or _MESSAGE_STATES.get(state[:2])
    return RegistryUnavailable(message) if message else None


def _by_code(code: int, text: str) -> Exception | None:
    if code in _CONFLICT_CODES:
        return Conflict()
    if code in _LOST_CODES:
        return Lost(text)
    if text.startswith(("no such table", "no such column")):
        return RegistryUnavailable(_SCHEMA)
    return RegistryUnavailable(_MESSAGE_CODES[code]) if code in _MESSAGE_CODES else None
