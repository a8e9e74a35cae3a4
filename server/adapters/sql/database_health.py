"""Watch the health of a database: whether it answers, with the right schema."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog
from sqlalchemy.exc import DBAPIError

from server.adapters.sql.database_errors import Conflict, Lost, Refused
from server.adapters.sql.database_url import UrlInvalid
from server.adapters.sql.engines import Database
from server.adapters.sql.schema import OtherSchema, check
from server.adapters.sql.transaction import transaction
from server.domain.listeners import Listeners
from server.domain.registry.registry_errors import RegistryRefused, RegistryUnavailable

log = structlog.get_logger(__name__)

CHECK_SECONDS = 1.0
RECHECK_SECONDS = 0.25
# A database can lock out a user after too many wrong passwords.
REFUSED_SECONDS = 5.0

AWAY = "the registry's database does not answer, nothing was stored; try again"
REFUSED = (
    "the registry's database refuses this server, nothing was stored; the server's log has the"
    " cause, and its operator must act"
)


class DatabaseHealth:
    """The health of a database by its last check. `problem`: the message to callers while it is
    unusable, else None. `unusable`: an error of the last check that prevents a start."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wake = asyncio.Event()
        self._checked = asyncio.Event()
        self._ended = False
        self._why = ""
        self.problem: str | None = AWAY
        self.reachability = Listeners()
        self.unusable: OtherSchema | UrlInvalid | None = None

    def require(self) -> None:
        """Raise RegistryUnavailable if the database is known to be away."""
        if self.problem is not None:
            raise self._error()

    def lost(self, error: Lost) -> RegistryUnavailable:
        """Record the failure of a call, and return the error for its caller."""
        self._report(REFUSED if isinstance(error, Refused) else AWAY, str(error))
        self._wake.set()
        return self._error()

    async def first_check(self, seconds: float) -> None:
        """Wait for the first check, at most so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._checked.wait()

    async def follow(self) -> None:
        """Check the database until `end`. A cancellation could break a connection of the driver."""
        while not self._ended:
            self._wake.clear()
            self.unusable = await self._check()
            self._checked.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()

    def _pause(self) -> float:
        if self.problem is None:
            return CHECK_SECONDS
        return REFUSED_SECONDS if self.problem == REFUSED else RECHECK_SECONDS

    def end(self) -> None:
        """End `follow` after its present check."""
        self._ended = True
        self._wake.set()

    async def _check(self) -> OtherSchema | UrlInvalid | None:
        database = self._database
        try:
            async with transaction(database.readers, database.cut) as statements:
                await statements.sync(check)
        except OtherSchema as e:
            self._report(f"{e}; nothing was stored", str(e))
            return e
        except Refused as e:
            self._report(REFUSED, str(e))
            return e if isinstance(e, UrlInvalid) else None
        except (Lost, DBAPIError) as e:
            self._report(AWAY, str(e) if isinstance(e, Lost) else type(e.orig).__name__)
        except RegistryUnavailable as e:
            self._report(e.message, e.message)
        except Conflict:
            # Another transaction holds a lock, so the database answers.
            if not self._why:
                self._set_problem(None)
        else:
            self._report(None)
        return None

    def _error(self) -> RegistryUnavailable:
        problem = self.problem or AWAY
        return (RegistryRefused if problem == REFUSED else RegistryUnavailable)(problem)

    def _report(self, problem: str | None, why: str = "") -> None:
        # The cause of an outage can change its wording from check to check.
        known = self._why and problem == self.problem and (problem != REFUSED or why == self._why)
        if problem and not known:
            if problem == REFUSED:
                log.error("the registry's database refuses this server", why=why)
            else:
                log.warning("the registry is away", why=why)
        if self._why and not problem:
            log.info("the registry is back")
        self._why = why
        self._set_problem(problem)

    def _set_problem(self, problem: str | None) -> None:
        was_healthy, self.problem = self.problem is None, problem
        if (problem is None) is not was_healthy:
            self.reachability.notify()
