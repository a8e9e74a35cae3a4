"""A proxy before PostgreSQL that loses what it is told to, such as a COMMIT's answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

_SOCKET = ".s.PGSQL.5432"
_COMMIT = b"COMMIT;"


class Loses(Enum):
    """What gets lost."""

    NOTHING = auto()
    COMMITS = auto()
    ANSWERS_OF_COMMITS = auto()
    EVERYTHING = auto()


class CuttingProxy:
    """Passes everything on, but for what `loses` says. Of a COMMIT the connection is cut with it;
    where everything is lost, connections stay open and nothing comes."""

    def __init__(self, folder: Path, server_url: str) -> None:
        parts = urlsplit(server_url)
        [behind] = parse_qs(parts.query)["host"]
        self.url = urlunsplit(parts._replace(query=urlencode({"host": folder})))
        self.loses = Loses.NOTHING
        self._socket = folder / _SOCKET
        self._behind = Path(behind) / _SOCKET
        self._swallowing = False
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[CuttingProxy]:
        """For the length of a block."""
        server = await asyncio.start_unix_server(self._pass, self._socket)
        try:
            yield self
        finally:
            server.close()
            self.cut()

    def cut(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            answers, behind = await asyncio.open_unix_connection(self._behind)
            ours = {writer, behind}
            self._writers |= ours
            answering = asyncio.create_task(self._answer(answers, writer))
            try:
                await self._ask(reader, behind)
                if self._swallowing:
                    # It is carried out once there is an answer, which nobody gets.
                    await answering
            finally:
                answering.cancel()
                for each in ours:
                    each.transport.abort()
                self._writers -= ours

    async def _ask(self, reader: asyncio.StreamReader, behind: asyncio.StreamWriter) -> None:
        while said := await reader.read(65536):
            if self.loses is Loses.EVERYTHING:
                continue
            committing = _COMMIT in said
            if committing and self.loses is Loses.COMMITS:
                return
            self._swallowing = committing and self.loses is Loses.ANSWERS_OF_COMMITS
            behind.write(said)
            if self._swallowing:
                return

    async def _answer(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while answer := await answers.read(65536):
            if self._swallowing:
                return
            if self.loses is not Loses.EVERYTHING:
                writer.write(answer)
        writer.transport.abort()
