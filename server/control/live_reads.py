"""Reads of single services from the cluster itself, shared and limited."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from server.domain.service.inference_service import InferenceService, ServiceKey
from server.ports import Cluster

# Of all callers together: they may name anything, and each read costs the API server.
MOST_AT_ONCE = 10


@dataclass(eq=False)
class _Read:
    started: asyncio.Event
    result: asyncio.Task[InferenceService | None]
    callers: int = 0


class LiveReads:
    """Reads a service once for all callers that ask before the read starts, and at most
    MOST_AT_ONCE services at the same time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._slots = asyncio.Semaphore(MOST_AT_ONCE)
        self._reads: dict[ServiceKey, _Read] = {}

    async def read(self, key: ServiceKey) -> InferenceService | None:
        """Return the cluster's state of the service, no older than this call; None if it is absent.
        Raises ClusterUnavailable."""
        read = self._reads.get(key)
        # The result of a read that has started may be older than this call.
        if read is None or read.started.is_set():
            started = asyncio.Event()
            task = asyncio.create_task(self._read(key, started), name=f"live read of {key}")
            task.add_done_callback(_retrieve_error)
            read = self._reads[key] = _Read(started, task)
        read.callers += 1
        try:
            # One caller that leaves does not end the read of the others.
            return await asyncio.shield(read.result)
        finally:
            read.callers -= 1
            if not read.callers and not read.started.is_set():
                # Every caller has left while it waited for a slot.
                read.result.cancel()
                del self._reads[key]

    async def _read(self, key: ServiceKey, started: asyncio.Event) -> InferenceService | None:
        try:
            async with self._slots:
                started.set()
                return await self._cluster.read(key)
        finally:
            started.set()
            newest = self._reads.get(key)
            if newest and newest.started is started:
                del self._reads[key]


def _retrieve_error(task: asyncio.Task[InferenceService | None]) -> None:
    """Retrieve the error of a read whose callers have left, which asyncio would log."""
    if not task.cancelled():
        task.exception()
