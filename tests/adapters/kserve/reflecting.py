"""A reflector at work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.informers.collections import Resource
from server.adapters.kserve.informers.reflector import Reflector


@asynccontextmanager
async def running_reflector(
    api: ApiServer, resource: Resource, copy: Any
) -> AsyncIterator[Reflector]:
    """The reflector that fills the copy, until the end of the block."""
    reflector = Reflector(api, resource, copy)
    running = asyncio.create_task(reflector.run())
    try:
        yield reflector
    finally:
        running.cancel()
        await asyncio.wait([running])
