"""One service: its generations side by side, its address, and how it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from server.adapters.local.addresses.addressing import Address
from server.adapters.local.deriving import Derived, Seen, derive
from server.adapters.local.generations.generation import Generation
from server.adapters.local.generations.running import Means
from server.adapters.local.records import Record, Wish
from server.adapters.local.storing import StateDir
from server.domain.admission import Stored
from server.domain.errors import ServiceError
from server.domain.inference_service import InferenceService
from server.domain.status import State

AGAIN_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Supervisor:
    """Keeps what runs for a service at what its record asks, while `run` runs.

    A new generation starts beside the old one, takes the requests over once it is ready, and only
    then, when those in flight are answered, is the old one ended. `changed` is told of every
    change of the service.
    """

    def __init__(
        self, record: Record, state: StateDir, means: Means, changed: Callable[[], None]
    ) -> None:
        self.record = record
        self._state = state
        self._means = means
        self._changed = changed
        self._address = Address(record.port, self._excuse)
        self._tasks: asyncio.TaskGroup | None = None
        self._wanted: dict[int, Generation] = {}
        self._running: dict[Generation, asyncio.Task[None]] = {}
        self._serving: Generation | None = None
        self._state_since = (State.PENDING, record.written_at)
        self._recheck: asyncio.TimerHandle | None = None
        self._closing = False
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Serve until `close`, or until a deletion is carried out to the last file."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                holding = self._tasks.create_task(self._address.hold(self._arrange), name="address")
                self._arrange()
                await self._over.wait()
                holding.cancel()
        finally:
            await self._address.close(self._means.patience.drain)
        if self.record.deleting:
            await self._forget()

    def take(self, record: Record) -> None:
        """Follow a newer record, which is stored."""
        self.record = record
        self._arrange()

    def try_again(self) -> None:
        """Try at once what is asked for and has failed."""
        wish = self.record.wish
        if generation := self._wanted.get(wish.generation):
            # What was ready has a model that is whole, whose source may be gone by now.
            generation.try_again(fetch_anew=wish != self.record.ready)

    def close(self) -> None:
        """End everything, and keep what is stored."""
        self._closing = True
        self._arrange()

    def stored(self) -> Stored:
        """What is stored, with the service as it is now."""
        return replace(self.record.stored, service=self.service())

    def service(self) -> InferenceService:
        """The service as it is now."""
        return self._derived().service

    def _arrange(self) -> None:
        """Bring what runs in line with what is asked and with what became ready, and tell."""
        if self._tasks:
            self._begin_missing(self._tasks)
            # Requests go elsewhere before what they went to is ended.
            self._switch()
            self._end_surplus(self._tasks)
        self._plan_recheck()
        self._changed()

    def _wishes(self) -> dict[int, Wish]:
        """What is to run, by generation, the older first."""
        return {} if self._closing else {wish.generation: wish for wish in self.record.wishes}

    def _begin_missing(self, tasks: asyncio.TaskGroup) -> None:
        for number, wish in self._wishes().items():
            if number not in self._wanted:
                folder = self._state.work(wish.uid, number)
                generation = Generation(wish, folder, self._means, self._arrange)
                self._wanted[number] = generation
                name = f"{wish.key} generation {number}"
                self._running[generation] = tasks.create_task(generation.run(), name=name)

    def _switch(self) -> None:
        """Send requests to the newest that is ready, and remember if that is the one asked for."""
        ready = [number for number in self._wishes() if self._wanted[number].upstream]
        self._serving = self._wanted[ready[-1]] if ready else None
        self._address.point(self._serving.upstream if self._serving else None)
        wish = self.record.wish
        if self._serving and self._serving.wish == wish != self.record.ready:
            self.record = self.record.with_ready()
            self._store_readiness()

    def _end_surplus(self, tasks: asyncio.TaskGroup) -> None:
        for number in self._wanted.keys() - self._wishes().keys():
            generation = self._wanted.pop(number)
            tasks.create_task(self._end(generation), name=f"end of {generation.wish.key}")
        if not self._running and (self._closing or self.record.deleting):
            self._over.set()

    async def _end(self, generation: Generation) -> None:
        """End it when it has answered the requests that it has."""
        if generation.upstream:
            await generation.upstream.drained(self._means.patience.drain)
        task = self._running[generation]
        task.cancel()
        await asyncio.wait({task})
        if not self._closing:
            await generation.forget()
        del self._running[generation]
        self._arrange()

    async def _forget(self) -> None:
        """Remove the record; a disk that cannot be written is waited for."""
        while True:
            try:
                return self._state.remove(self.record.service.key)
            except ServiceError as e:
                log.warning("not removed", service=str(self.record.service.key), why=e.message)
                await asyncio.sleep(AGAIN_SECONDS)

    def _store_readiness(self) -> None:
        try:
            self._state.write(self.record)
        except ServiceError as e:
            # After a restart the older one may serve until this one is ready again.
            log.warning("not stored", service=str(self.record.service.key), why=e.message)

    def _derived(self) -> Derived:
        now = datetime.now(UTC)
        derived = derive(self.record, self._seen(), now)
        status = derived.service.status
        if status.state is not self._state_since[0]:
            self._state_since = (status.state, now)
        status = replace(status, last_transition_time=self._state_since[1])
        return replace(derived, service=replace(derived.service, status=status))

    def _seen(self) -> Seen:
        current = self._wanted.get(self.record.service.generation)
        return Seen(
            current.sight if current else None,
            self._serving.sight if self._serving else None,
            len(self._running),
            self._address.lost_since,
        )

    def _plan_recheck(self) -> None:
        if self._recheck:
            self._recheck.cancel()
            self._recheck = None
        moment = self._derived().recheck_at
        if moment and not self._over.is_set():
            delay = max((moment - datetime.now(UTC)).total_seconds(), 0)
            self._recheck = asyncio.get_running_loop().call_later(delay, self._arrange)

    def _excuse(self) -> str:
        service = self.service()
        return f"{service.key} is {service.status.state}: {service.status.message}"
