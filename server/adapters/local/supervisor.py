"""One service: its generations side by side, its address, and how it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog

from server.adapters.local.derived_status import Derived, Seen, derive
from server.adapters.local.proxy.service_address import Address
from server.adapters.local.rollouts.generation import Generation
from server.adapters.local.rollouts.model_server_run import Means
from server.adapters.local.state_dir import StateDir
from server.adapters.local.stored_service import Record, Wish
from server.deadline import Deadline
from server.domain.errors import ServiceError
from server.domain.rollout.status import State
from server.domain.service.inference_service import InferenceService
from server.domain.service.preconditions import Stored

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
        self._closing = asyncio.Event()
        self._deadline: Deadline | None = None
        self._stored_readiness = True
        self._over = asyncio.Event()

    async def run(self) -> bool:
        """Serve until `close`, or until a deletion is carried out to the last file.

        Answers whether the service is gone for good.
        """
        try:
            async with asyncio.TaskGroup() as self._tasks:
                holding = self._tasks.create_task(self._address.hold(self._arrange), name="address")
                try:
                    self._arrange()
                    await self._over.wait()
                finally:
                    # Whatever ends it, what is told from here on starts nothing more.
                    self._tasks = None
                holding.cancel()
        finally:
            deadline = self._deadline or Deadline.after(self._means.patience.drain)
            await self._address.close(deadline)
        return self.record.deleting and await self._forget()

    def take(self, record: Record) -> None:
        """Follow a newer record, which is stored."""
        self.record = record
        self._stored_readiness = True
        self._arrange()

    def try_again(self) -> None:
        """Try at once what is asked for and has failed."""
        wish = self.record.wish
        if generation := self._wanted.get(wish.generation):
            # What was ready has a model that is whole, whose source may be gone by now.
            generation.try_again(fetch_anew=wish != self.record.ready)

    def close(self, deadline: Deadline) -> None:
        """End everything, and keep what is stored.

        Requests in flight have until shortly before the deadline, so that slow servers have time
        to end; what runs at the deadline is killed.
        """
        loop = asyncio.get_running_loop()
        self._deadline = deadline
        self._closing.set()
        self._arrange()
        loop.call_at(deadline.at - self._means.patience.stop.total_seconds(), self._end_all)
        loop.call_at(deadline.at, self._kill_all)

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
        return (
            {} if self._closing.is_set() else {wish.generation: wish for wish in self.record.wishes}
        )

    def _begin_missing(self, tasks: asyncio.TaskGroup) -> None:
        for number, wish in self._wishes().items():
            if number not in self._wanted:
                folder = self._state.work(wish.uid, number)
                generation = Generation(wish, folder, self._means, self._arrange)
                self._wanted[number] = generation
                name = f"{wish.key} generation {number}"
                self._running[generation] = _begun(tasks, generation.run(), name)

    def _switch(self) -> None:
        """Send requests to the newest that is ready, and remember if that is the one asked for."""
        ready = [number for number in self._wishes() if self._wanted[number].upstream]
        self._serving = self._wanted[ready[-1]] if ready else None
        self._address.point(self._serving.upstream if self._serving else None)
        wish = self.record.wish
        if self._serving and self._serving.wish == wish != self.record.ready:
            self.record = self.record.with_ready()
            self._stored_readiness = False
        if not self._stored_readiness:
            self._store_readiness()

    def _end_surplus(self, tasks: asyncio.TaskGroup) -> None:
        for number in self._wanted.keys() - self._wishes().keys():
            generation = self._wanted.pop(number)
            _begun(tasks, self._end(generation), f"end of {generation.wish.key}")
        if not self._running and (self._closing.is_set() or self.record.deleting):
            self._over.set()

    async def _end(self, generation: Generation) -> None:
        """End it when it has answered the requests that it has."""
        task = self._running[generation]
        if generation.upstream:
            draining = asyncio.create_task(
                generation.upstream.drained(Deadline.after(self._means.patience.drain)),
                name="draining",
            )
            try:
                await asyncio.wait({draining, task}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                draining.cancel()
        if not task.cancelling():
            task.cancel()
        await asyncio.wait({task})
        if not self._closing.is_set():
            await generation.forget()
        del self._running[generation]
        self._arrange()

    def _end_all(self) -> None:
        """End every server, whatever it still has to answer."""
        for task in self._running.values():
            if not task.cancelling():
                task.cancel()

    def _kill_all(self) -> None:
        """Wait no longer for any server that was asked to end."""
        for task in self._running.values():
            # Cancelled while it waits for its server's end, it kills that.
            task.cancel()

    async def _forget(self) -> bool:
        """Remove the record; a disk that cannot be written is waited for, until `close`."""
        while True:
            try:
                self._state.remove(self.record.service.key)
                return True
            except ServiceError as e:
                log.warning("not removed", service=str(self.record.service.key), why=e.message)
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_SECONDS):
                    await self._closing.wait()
                    return False

    def _store_readiness(self) -> None:
        try:
            self._state.write(self.record)
            self._stored_readiness = True
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
            self._address.lost,
        )

    def _plan_recheck(self) -> None:
        if self._recheck:
            self._recheck.cancel()
            self._recheck = None
        now = datetime.now(UTC)
        moments = [self._derived().recheck_at]
        moments += [] if self._stored_readiness else [now + timedelta(seconds=AGAIN_SECONDS)]
        known = [moment for moment in moments if moment]
        if known and not self._over.is_set():
            delay = max((min(known) - now).total_seconds(), 0)
            self._recheck = asyncio.get_running_loop().call_later(delay, self._arrange)

    def _excuse(self) -> str:
        service = self.service()
        return f"{service.key} is {service.status.state}: {service.status.message}"


def _begun(
    tasks: asyncio.TaskGroup, work: Coroutine[None, None, None], name: str
) -> asyncio.Task[None]:
    """A task of this group; RuntimeError where the group takes no more, since something failed."""
    try:
        return tasks.create_task(work, name=name)
    except RuntimeError:
        # As from Python 3.13 on; before, a coroutine that never began is warned of.
        work.close()
        raise
