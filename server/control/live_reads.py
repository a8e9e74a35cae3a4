"""Reads of single services from the cluster itself, shared and capped."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from server.domain.service.inference_service import InferenceService, ServiceKey
from server.ports import Cluster

# Of all callers together: what they name may be forged, and each read costs the API server.
MOST_AT_ONCE = 10


@dataclass(eq=False)
class _Reading:
    begins: asyncio.Event
    answer: asyncio.Task[InferenceService | None]
    callers: int = 0


class LiveReads:
    """Reads a service once for all who ask before the read begins, and at most MOST_AT_ONCE
    services at the same time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._room = asyncio.Semaphore(MOST_AT_ONCE)
        self._readings: dict[ServiceKey, _Reading] = {}

    async def read(self, key: ServiceKey) -> InferenceService | None:
        """The service as the cluster has it, no older than this call; None where it is absent.
        Raises ClusterUnavailable."""
        reading = self._readings.get(key)
        # An answer on its way may be from before what this caller asks about.
        if reading is None or reading.begins.is_set():
            begins = asyncio.Event()
            task = asyncio.create_task(self._read(key, begins), name=f"live read of {key}")
            task.add_done_callback(_retrieved)
            reading = self._readings[key] = _Reading(begins, task)
        reading.callers += 1
        try:
            # One caller that leaves does not end the read of the others.
            return await asyncio.shield(reading.answer)
        finally:
            reading.callers -= 1
            if not reading.callers and not reading.begins.is_set():
                # Nobody waits for it any longer, and it only waits for room.
                reading.answer.cancel()
                del self._readings[key]

    async def _read(self, key: ServiceKey, begins: asyncio.Event) -> InferenceService | None:
        try:
            async with self._room:
                begins.set()
                return await self._cluster.read(key)
        finally:
            begins.set()
            newest = self._readings.get(key)
            if newest and newest.begins is begins:
                del self._readings[key]


def _retrieved(task: asyncio.Task[InferenceService | None]) -> None:
    """Take note of an error that nobody waits for any longer."""
    if not task.cancelled():
        task.exception()
