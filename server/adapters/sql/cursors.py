"""Cursors of lists: whole numbers below 2**63 that grow with the time of creation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_CURSORS = 1 << 10  # of one microsecond; this lasts until the year 2255
_LAST = (1 << 63) - 1
# Concurrent transactions add in any order of their times.
_REMEMBERED_TIMES = 1000


class Positions:
    """Assigns cursors to the items that one process adds.

    Items that several processes add in one microsecond can share a cursor: a page that begins there
    can repeat an item of the page before, but never omits one.
    """

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def of(self, create_time: datetime) -> int:
        """Return the next cursor of this time."""
        moment = _first(create_time)
        # Removed first, so that the dict stays ordered by last use.
        ordinal = self._last.pop(moment, -1) + 1
        if len(self._last) >= _REMEMBERED_TIMES:
            del self._last[next(iter(self._last))]
        self._last[moment] = ordinal
        return moment + min(ordinal, _CURSORS - 1)


def first_after(time: datetime) -> int:
    """Return the lowest cursor of items created after a time."""
    return min(_first(time) + _CURSORS, _LAST)


def last_before(time: datetime) -> int:
    """Return the highest cursor of items created before a time; -1 if there is none."""
    return _first(time) - 1


def _first(time: datetime) -> int:
    return min(max((time - _EPOCH) // _MICROSECOND, 0) * _CURSORS, _LAST)
