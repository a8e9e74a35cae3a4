"""Whether a database is there with the right schema."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog
from sqlalchemy.exc import DBAPIError

from server.adapters.sql.asking import transaction
from server.adapters.sql.databases import Database, UrlInvalid
from server.adapters.sql.schema import OtherSchema, check
from server.adapters.sql.troubles import InTheWay, Lost
from server.domain.registry_errors import RegistryUnavailable

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
LOOK_AGAIN_SECONDS = 0.25

AWAY = "the registry's database does not answer, nothing was stored; try again"


class Presence:
    """What is known of a database from one look to the next. `trouble`: what callers are told while
    it cannot be worked with, None while it can."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked = asyncio.Event()
        self._ended = False
        self.trouble: str | None = None

    def require(self) -> None:
        """Raise RegistryUnavailable where the database is known to be away."""
        if self.trouble is not None:
            raise RegistryUnavailable(self.trouble)

    def lost(self, why: str) -> None:
        """It was asked and is away; `why` is for the log."""
        self._tell(AWAY, why)
        self._asked.set()

    async def follow(self) -> None:
        """Look again and again, until `end`. Cancelled instead, a driver could take it for the end
        of its connection."""
        while not self._ended:
            self._asked.clear()
            await self.look()
            seconds = LOOK_SECONDS if self.trouble is None else LOOK_AGAIN_SECONDS
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._asked.wait()

    def end(self) -> None:
        """Let `follow` end, once it has looked."""
        self._ended = True
        self._asked.set()

    async def look(self) -> OtherSchema | UrlInvalid | None:
        """Ask it now; what keeps a server from starting on it, if anything does."""
        database = self._database
        try:
            async with transaction(database.readers, database.cut) as statements:
                await statements.sync(check)
        except OtherSchema as e:
            self._tell(f"{e}; nothing was stored", str(e))
            return e
        except UrlInvalid as e:
            self._tell(AWAY, f"MODELSERVICE_DATABASE_URL: {e}")
            return e
        except (Lost, DBAPIError) as e:
            self._tell(AWAY, str(e) if isinstance(e, Lost) else type(e.orig).__name__)
        except RegistryUnavailable as e:
            self._tell(e.message, e.message)
        except InTheWay:
            # Somebody works on it, so it is there.
            pass
        else:
            self._tell(None)
        return None

    def _tell(self, trouble: str | None, why: str = "") -> None:
        if trouble and not self.trouble:
            log.warning("the registry is away", why=why)
        if self.trouble and not trouble:
            log.info("the registry is back")
        self.trouble = trouble
