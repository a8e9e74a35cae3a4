"""Places in listings: whole numbers below 2**63 that grow with the time of creation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_PLACES = 1 << 10  # of one microsecond; this lasts until the year 2255
_LAST = (1 << 63) - 1
# Transactions that go on at once add in any order of their times.
_REMEMBERED_MOMENTS = 1000


class Positions:
    """Gives places to what one process adds.

    What several processes add in one microsecond may have one place: a page that begins there may
    repeat an item of the page before, and none is ever left out.
    """

    def __init__(self) -> None:
        self._taken: dict[int, int] = {}

    def of(self, create_time: datetime) -> int:
        """The next place of this time."""
        moment = _first(create_time)
        # Taken out first, so that the one that was least lately added to is the first.
        place = self._taken.pop(moment, -1) + 1
        if len(self._taken) >= _REMEMBERED_MOMENTS:
            del self._taken[next(iter(self._taken))]
        self._taken[moment] = place
        return moment + min(place, _PLACES - 1)


def first_after(time: datetime) -> int:
    """The lowest place of what was created after a time."""
    return min(_first(time) + _PLACES, _LAST)


def last_before(time: datetime) -> int:
    """The highest place of what was created before a time; -1 where there is none."""
    return _first(time) - 1


def _first(time: datetime) -> int:
    return min(max((time - _EPOCH) // _MICROSECOND, 0) * _PLACES, _LAST)
