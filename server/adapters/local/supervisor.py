"""Runs the generations of one service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog

from server.adapters.local.derived_status import Derived, Observed, derive
from server.adapters.local.proxy.service_address import ServiceAddress
from server.adapters.local.rollouts.generation import Generation
from server.adapters.local.rollouts.model_server_run import ModelServerConfig
from server.adapters.local.state_dir import StateDir
from server.adapters.local.stored_service import GenerationSpec, Record
from server.deadline import Deadline
from server.domain.errors import ServiceError
from server.domain.revisions.revision import needs_storing
from server.domain.rollout.status import State
from server.domain.service.deploy_plan import current_revisions
from server.domain.service.inference_service import InferenceService
from server.domain.service.preconditions import Stored

RETRY_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Supervisor:
    """Reconciles the generations of a service with its record, from `run` until `close`.

    A new generation starts beside the old one and gets the traffic once it is ready. The old one
    ends after its requests in flight. If the rollout recreates the model server, the new one starts
    only then.
    `report` is called with the service at each change.
    """

    def __init__(
        self,
        record: Record,
        state: StateDir,
        config: ModelServerConfig,
        report: Callable[[InferenceService], object],
    ) -> None:
        self.record = record
        self._state = state
        self._config = config
        self._report = report
        self._address = ServiceAddress(record.port, self._unavailable_message)
        self._tasks: asyncio.TaskGroup | None = None
        self._generations: dict[int, Generation] = {}
        self._running: dict[Generation, asyncio.Task[None]] = {}
        self._serving: Generation | None = None
        self._state_since = (State.PENDING, record.written_at)
        self._recheck: asyncio.TimerHandle | None = None
        self._closing = asyncio.Event()
        self._deadline: Deadline | None = None
        self._progress_stored = True
        self._finished = asyncio.Event()

    async def run(self) -> bool:
        """Serve until `close`, or until the service is deleted. Return whether it is deleted."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                serving = self._tasks.create_task(
                    self._address.serve(self._reconcile), name="address"
                )
                try:
                    self._reconcile()
                    await self._finished.wait()
                finally:
                    # From here on a change starts no generation.
                    self._tasks = None
                serving.cancel()
        finally:
            deadline = self._deadline or Deadline.after(self._config.timeouts.drain)
            await self._address.close(deadline)
        return self.record.deleting and await self._delete_record()

    def update(self, record: Record) -> None:
        """Follow a newer record, which is stored."""
        self.record = record
        self._progress_stored = True
        self._reconcile()

    def retry_now(self) -> None:
        """Retry the desired generation at once if it failed."""
        desired = self.record.desired
        if generation := self._generations.get(desired.generation):
            # One that was ready has its whole model, whose source may be gone by now.
            generation.retry_now(fetch_anew=desired != self.record.ready)

    def close(self, deadline: Deadline) -> None:
        """End everything, and keep what is stored.

        Requests in flight have until shortly before the deadline, so that slow servers have time
        to end; what runs at the deadline is killed.
        """
        loop = asyncio.get_running_loop()
        self._deadline = deadline
        self._closing.set()
        self._reconcile()
        loop.call_at(deadline.at - self._config.timeouts.stop.total_seconds(), self._end_all)
        loop.call_at(deadline.at, self._kill_all)

    def stored(self) -> Stored:
        """Return the stored service, with its status as it is now."""
        return replace(self.record.stored, service=self.service())

    def service(self) -> InferenceService:
        """Return the service as it is now."""
        return self._derived().service

    def _reconcile(self) -> None:
        """Bring the generations and the traffic in line with the record, then report."""
        if self._tasks:
            self._start_missing(self._tasks)
            # Requests go elsewhere before their old server is ended.
            self._switch_traffic()
            self._note_ready()
            self._end_obsolete(self._tasks)
        derived = self._derived()
        if self._tasks:
            self._store_progress(derived.service)
        self._schedule_recheck(derived.recheck_at)
        self._report(derived.service)

    def _desired(self) -> dict[int, GenerationSpec]:
        """Return the specs that should run by generation, the older first."""
        specs = [] if self._closing.is_set() else self.record.generations
        return {spec.generation: spec for spec in specs}

    def _start_missing(self, tasks: asyncio.TaskGroup) -> None:
        desired = self._desired()
        ending = any(one.spec.generation not in desired for one in self._running)
        for number, spec in desired.items():
            waits = spec.spec.recreates and ending
            if number not in self._generations and not waits:
                folder = self._state.work(spec.uid, number)
                generation = Generation(spec, folder, self._config, self._reconcile)
                self._generations[number] = generation
                name = f"{spec.key} generation {number}"
                self._running[generation] = _create_task(tasks, generation.run(), name)

    def _switch_traffic(self) -> None:
        """Send requests to the newest ready generation."""
        desired_ones = (self._generations.get(number) for number in self._desired())
        ready = [generation for generation in desired_ones if generation and generation.upstream]
        self._serving = ready[-1] if ready else None
        self._address.route_to(self._serving.upstream if self._serving else None)

    def _note_ready(self) -> None:
        desired = self.record.desired
        if self._serving and self._serving.spec == desired != self.record.ready:
            self.record = self.record.with_ready()
            self._progress_stored = False

    def _store_progress(self, service: InferenceService) -> None:
        """Store that the desired generation was ready, and the outcome of its revision.

        A write that fails is tried again at the recheck.
        """
        if not self._closing.is_set():
            self._note_outcome(service)
        if not self._progress_stored:
            try:
                self._state.write(self.record)
                self.record = self.record.without_contents()
                self._progress_stored = True
            except ServiceError as e:
                # After a restart the older one may serve until this one is ready again.
                log.warning("not stored", service=str(service.key), why=e.message)

    def _note_outcome(self, service: InferenceService) -> None:
        stored = replace(self.record.stored, service=service)
        revisions = current_revisions(stored)
        before = stored.revisions[0] if stored.revisions else replace(revisions[0], outcome=None)
        if needs_storing(before, revisions[0]):
            stored = replace(self.record.stored, revisions=revisions)
            self.record = replace(self.record, stored=stored)
            self._progress_stored = False

    def _end_obsolete(self, tasks: asyncio.TaskGroup) -> None:
        for number in self._generations.keys() - self._desired().keys():
            generation = self._generations.pop(number)
            _create_task(tasks, self._end(generation), f"end of {generation.spec.key}")
        if not self._running and (self._closing.is_set() or self.record.deleting):
            self._finished.set()

    async def _end(self, generation: Generation) -> None:
        """End a generation after its requests in flight, and remove its files."""
        task = self._running[generation]
        if generation.upstream:
            deadline = Deadline.after(self._config.timeouts.drain)
            draining = asyncio.create_task(generation.upstream.drained(deadline), name="draining")
            try:
                await asyncio.wait({draining, task}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                draining.cancel()
        if not task.cancelling():
            task.cancel()
        await asyncio.wait({task})
        if not self._closing.is_set():
            await generation.delete_files()
        del self._running[generation]
        self._reconcile()

    def _end_all(self) -> None:
        """End every server, with its requests in flight."""
        for task in self._running.values():
            if not task.cancelling():
                task.cancel()

    def _kill_all(self) -> None:
        """Kill every server that has not ended."""
        for task in self._running.values():
            # Cancelled while it waits for the end of its server, it kills the server.
            task.cancel()

    async def _delete_record(self) -> bool:
        """Delete the record, and try again while the disk fails, until `close`."""
        service = self.record.service
        while True:
            try:
                self._state.remove(service)
                return True
            except ServiceError as e:
                log.warning("not removed", service=str(service.key), why=e.message)
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS):
                    await self._closing.wait()
                    return False

    def _derived(self) -> Derived:
        now = datetime.now(UTC)
        current = self._generations.get(self.record.service.generation)
        observed = Observed(
            current.status if current else None,
            self._serving.status if self._serving else None,
            len(self._running),
            self._address.failure,
        )
        derived = derive(self.record, observed, now)
        status = derived.service.status
        if status.state is not self._state_since[0]:
            self._state_since = (status.state, now)
        status = replace(status, last_transition_time=self._state_since[1])
        return replace(derived, service=replace(derived.service, status=status))

    def _schedule_recheck(self, due: datetime | None) -> None:
        if self._recheck:
            self._recheck.cancel()
            self._recheck = None
        now = datetime.now(UTC)
        moments = [due]
        if not self._progress_stored:
            moments.append(now + timedelta(seconds=RETRY_SECONDS))
        known = [moment for moment in moments if moment]
        if known and not self._finished.is_set():
            delay = max((min(known) - now).total_seconds(), 0)
            self._recheck = asyncio.get_running_loop().call_later(delay, self._reconcile)

    def _unavailable_message(self) -> str:
        service = self.service()
        return f"{service.key} is {service.status.state}: {service.status.message}"


def _create_task(
    tasks: asyncio.TaskGroup, work: Coroutine[None, None, None], name: str
) -> asyncio.Task[None]:
    """Create a task. Raises RuntimeError if the group is ending after a failure."""
    try:
        return tasks.create_task(work, name=name)
    except RuntimeError:
        # As Python 3.13 does: an older one warns of a coroutine that never began.
        work.close()
        raise
