"""What a database's errors mean."""

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


class InTheWay(Exception):
    """Another transaction is; nothing was stored, and it can be done again."""


class Lost(Exception):
    """There is no talking to the database; `str` says why, for the log. What was not committed is
    not stored."""


class Refused(Lost):
    """The database refuses to talk until somebody changes it or this server's settings. `str` says
    why, for operators; callers are not shown it."""


_PLACE = "no place is left where the registry's database is, nothing was stored; make room there"
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
    " stored; make one, grant its use, or name another in options"
)
_DISK = "the registry's database cannot be read or written; look at its disk"

# By SQLSTATE: a whole one, else its class.
# 0A000: a migration since has made the plan of a statement that is prepared invalid.
_IN_THE_WAY_STATES = ("40001", "40P01", "55P03", "0A000")
_LOST_STATES = ("08", "57", "25006", "25P03", "53300")
# What a new connection may meet and does not next time; 08P01 is what poolers refuse with.
_PASSING_CLASSES = ("08", "40", "53", "57", "58", "XX")
_PROTOCOL_VIOLATION = "08P01"
_SAID_STATES = {
    "53": _PLACE,
    "58": _DISK,
    "3F000": _NO_SEARCH_PATH,
    "42501": _RIGHTS,
    "42P01": _SCHEMA,
    "42703": _SCHEMA,
}

_SAID_CHARACTERS = 300

_IN_THE_WAY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_LOST_CODES = (
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
)
_SAID_CODES = {sqlite3.SQLITE_FULL: _PLACE, sqlite3.SQLITE_IOERR: _DISK}


def refusal(state: str, said: str) -> Lost:
    """What it means that the database gave this answer to a new connection."""
    if state[:2] in _PASSING_CLASSES and state != _PROTOCOL_VIOLATION:
        return Lost(f"SQLSTATE {state}")
    return Refused(f"SQLSTATE {state}, {_one_line(said)}")


def tls_refusal(error: ssl.SSLError) -> Lost:
    """What it means that no TLS connection came about."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(f"its certificate is not accepted: {_one_line(error.verify_message)}")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or not error.reason:
        return Lost("the connection ended within the TLS handshake")
    return Refused(f"no TLS connection comes about: {_one_line(error.reason)}")


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SAID_CHARACTERS else f"{line[:_SAID_CHARACTERS]}..."


@contextmanager
def translated() -> Iterator[None]:
    """Raise by meaning what a database says: InTheWay, Lost or RegistryUnavailable. What means none
    of these is a mistake of ours and stays as it is."""
    try:
        yield
    except DBAPIError as e:
        raise _meaning(e) from e
    except OSError as e:
        raise Lost(_reason(e)) from e


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "its host's name is not known"
    # Errors that are of no system call have numbers of their own, or none.
    if error.errno is None or error.errno not in errno.errorcode:
        return "it does not answer"
    return os.strerror(error.errno)


def _meaning(error: DBAPIError) -> Exception:
    original = error.orig
    # SQLAlchemy has an error for a plan that is out of date, which leaves the state out.
    states = (
        getattr(each, "sqlstate", None) for each in (original, getattr(original, "__cause__", None))
    )
    if state := next(filter(None, states), None):
        return _by_state(state) or error
    if code := getattr(original, "sqlite_errorcode", None):
        return _by_code(code & 0xFF, str(original)) or error
    # A driver's own word: the connection was closed, or never came about.
    return Lost("the connection ended") if error.connection_invalidated else error


def _by_state(state: str) -> Exception | None:
    if state in _IN_THE_WAY_STATES:
        return InTheWay()
    if state in _LOST_STATES or state[:2] in _LOST_STATES:
        return Lost(f"SQLSTATE {state}")
    said = _SAID_STATES.get(state) or _SAID_STATES.get(state[:2])
    return RegistryUnavailable(said) if said else None


def _by_code(code: int, text: str) -> Exception | None:
    if code in _IN_THE_WAY_CODES:
        return InTheWay()
    if code in _LOST_CODES:
        return Lost(text)
    if text.startswith(("no such table", "no such column")):
        return RegistryUnavailable(_SCHEMA)
    return RegistryUnavailable(_SAID_CODES[code]) if code in _SAID_CODES else None
