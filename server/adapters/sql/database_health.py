"""Whether a database is there with the right schema."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog
from sqlalchemy.exc import DBAPIError

from server.adapters.sql.database_errors import InTheWay, Lost, Refused
from server.adapters.sql.database_url import UrlInvalid
from server.adapters.sql.engines import Database
from server.adapters.sql.schema import OtherSchema, check
from server.adapters.sql.transaction import transaction
from server.domain.listeners import Listeners
from server.domain.registry.registry_errors import RegistryRefused, RegistryUnavailable

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
LOOK_AGAIN_SECONDS = 0.25
# A database may lock out a user whose password is wrong too often.
REFUSED_SECONDS = 5.0

AWAY = "the registry's database does not answer, nothing was stored; try again"
REFUSED = (
    "the registry's database refuses this server, nothing was stored; the server's log says why,"
    " and its operator has to act"
)


class Presence:
    """What is known of a database from one look to the next. `trouble`: what callers are told while
    it cannot be worked with, None while it can. `unusable`: what the last look found that keeps a
    server from starting on it, if anything."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked = asyncio.Event()
        self._looked = asyncio.Event()
        self._ended = False
        self._why = ""
        self.trouble: str | None = AWAY
        self.reachability = Listeners()
        self.unusable: OtherSchema | UrlInvalid | None = None

    def require(self) -> None:
        """Raise RegistryUnavailable where the database is known to be away."""
        if self.trouble is not None:
            raise self._told()

    def lost(self, error: Lost) -> RegistryUnavailable:
        """Take note of what a call met; the error to answer that call with."""
        self._tell(REFUSED if isinstance(error, Refused) else AWAY, str(error))
        self._asked.set()
        return self._told()

    async def looked(self, seconds: float) -> None:
        """Wait for the first look, not for longer than this."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._looked.wait()

    async def follow(self) -> None:
        """Look again and again, until `end`. Cancelled instead, a driver could take it for the end
        of its connection."""
        while not self._ended:
            self._asked.clear()
            self.unusable = await self._look()
            self._looked.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._asked.wait()

    def _pause(self) -> float:
        if self.trouble is None:
            return LOOK_SECONDS
        return REFUSED_SECONDS if self.trouble == REFUSED else LOOK_AGAIN_SECONDS

    def end(self) -> None:
        """Let `follow` end, once it has looked."""
        self._ended = True
        self._asked.set()

    async def _look(self) -> OtherSchema | UrlInvalid | None:
        database = self._database
        try:
            async with transaction(database.readers, database.cut) as statements:
                await statements.sync(check)
        except OtherSchema as e:
            self._tell(f"{e}; nothing was stored", str(e))
            return e
        except Refused as e:
            self._tell(REFUSED, str(e))
            return e if isinstance(e, UrlInvalid) else None
        except (Lost, DBAPIError) as e:
            self._tell(AWAY, str(e) if isinstance(e, Lost) else type(e.orig).__name__)
        except RegistryUnavailable as e:
            self._tell(e.message, e.message)
        except InTheWay:
            # Somebody works on it, so it is there.
            if not self._why:
                self._turn(None)
        else:
            self._tell(None)
        return None

    def _told(self) -> RegistryUnavailable:
        trouble = self.trouble or AWAY
        return (RegistryRefused if trouble == REFUSED else RegistryUnavailable)(trouble)

    def _tell(self, trouble: str | None, why: str = "") -> None:
        # What passes may change its words from one look to the next.
        known = self._why and trouble == self.trouble and (trouble != REFUSED or why == self._why)
        if trouble and not known:
            if trouble == REFUSED:
                log.error("the registry's database refuses this server", why=why)
            else:
                log.warning("the registry is away", why=why)
        if self._why and not trouble:
            log.info("the registry is back")
        self._why = why
        self._turn(trouble)

    def _turn(self, trouble: str | None) -> None:
        was_there, self.trouble = self.trouble is None, trouble
        if (trouble is None) is not was_there:
            self.reachability.notify()
