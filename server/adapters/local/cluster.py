"""The embedded cluster: real model servers, as supervised processes on this machine."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from server.adapters.local.rollouts.model_server_run import Means
from server.adapters.local.state_dir import StateDir
from server.adapters.local.stored_service import Record
from server.adapters.local.supervisor import Supervisor
from server.adapters.local.unsupported import refuse_unsupported
from server.change_queue import ChangeQueue
from server.deadline import NEVER, Deadline
from server.domain.errors import ClusterUnavailable, WriteOutcomeUnknown
from server.domain.rollout.rollout_id import Rollout
from server.domain.service.commands import Action, Applied, Delete, Deploy
from server.domain.service.deploy_plan import plan_deploy
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.preconditions import Stored, admit_delete, admit_deploy
from server.ports import Changed, FeedEvent, Gone, Synced


@asynccontextmanager
async def local_cluster(
    state: StateDir, means: Means, deadline: Callable[[], Deadline] | None = None
) -> AsyncIterator[LocalCluster]:
    """Serve what is stored, for the length of a block; nothing runs afterwards.

    `deadline` returns, as the block ends, until when everything may take to end; without it, that
    has the timeouts of `means`.
    Raises StateDirUnusable where a stored service cannot be read.
    """
    cluster = LocalCluster(state, means)
    running = asyncio.create_task(cluster.run(), name="local cluster")
    try:
        yield cluster
    finally:
        usual = means.patience.drain + means.patience.stop
        cluster.stop(deadline() if deadline else Deadline.after(usual))
        await running


class LocalCluster:
    """The services of a state directory; implements `server.ports.Cluster`.

    Every namespace exists. Writes block the event loop for as long as the disk takes, so that
    nothing can come between a check and its write, nor between the write and the memory of it.
    """

    def __init__(self, state: StateDir, means: Means) -> None:
        self._state = state
        self._means = means
        self._supervisors: dict[ServiceKey, Supervisor] = {}
        self._feeds: set[ChangeQueue[tuple[ServiceKey, str]]] = set()
        self._tasks: asyncio.TaskGroup | None = None
        self._stopping = asyncio.Event()
        self._deadline = NEVER
        self._broken: BaseException | None = None
        for record in state.records():
            means.ports.claim(record.port)
            self._supervise(record)
        self._leftovers = state.leftovers(self._working())

    async def run(self) -> None:
        """Serve until `stop`; then no process is left, and all that is stored stays."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for supervisor in self._supervisors.values():
                    self._tasks.create_task(self._live(supervisor))
                # Beside all else: whole models can take long to remove.
                self._tasks.create_task(asyncio.to_thread(remove, self._leftovers))
                await self._stopping.wait()
                for supervisor in self._supervisors.values():
                    supervisor.close(self._deadline)
        except BaseException as e:
            self._broken = e
            raise
        finally:
            for changes in self._feeds:
                changes.wake()

    def stop(self, deadline: Deadline) -> None:
        """Let `run` end, and cut at the deadline whatever is then under way."""
        self._deadline = deadline
        self._stopping.set()

    async def apply(self, deploy: Deploy) -> Applied:
        """See `server.ports.Cluster`."""
        self._require_running()
        if deploy.spec:
            refuse_unsupported(deploy.spec)
        supervisor = self._supervisors.get(deploy.key)
        stored = supervisor.stored() if supervisor else None
        replayed = admit_deploy(deploy, stored)
        if supervisor and replayed:
            self._state.settle()
            service = supervisor.service()
            return Applied(service, replayed.action, Rollout(service.uid, replayed.generation))
        action, wanted = plan_deploy(deploy, stored)
        if deploy.validate_only:
            return Applied(wanted.service, action, None)
        if action is not Action.UNCHANGED or not supervisor:
            supervisor = self._stored(wanted, supervisor)
        else:
            self._state.settle()
            supervisor.try_again()
        return Applied(supervisor.service(), action, wanted.service.rollout)

    async def delete(self, delete: Delete) -> InferenceService:
        """See `server.ports.Cluster`."""
        self._require_running()
        supervisor = self._supervisors.get(delete.key)
        service = admit_delete(delete, supervisor.record.service if supervisor else None)
        assert supervisor, "else it was not found"
        if service.delete_time:
            self._state.settle()
        elif not delete.validate_only:
            record = supervisor.record.deleted(datetime.now(UTC))
            self._take(supervisor, record, lambda: self._state.mark_deleted(delete.key))
        return supervisor.service()

    async def read(self, key: ServiceKey) -> InferenceService | None:
        """See `server.ports.Cluster`."""
        supervisor = self._supervisors.get(key)
        return supervisor.service() if supervisor else None

    async def feed(self) -> AsyncIterator[FeedEvent]:
        """See `server.ports.Cluster`. Any number may run."""
        services = ((key, s.record.service.uid) for key, s in self._supervisors.items())
        changes = ChangeQueue(services)
        self._feeds.add(changes)
        try:
            for key, uid in changes.pull():
                yield self._event(key, uid)
            yield Synced()
            while not self._broken:
                await changes.wait()
                for key, uid in changes.pull():
                    yield self._event(key, uid)
            raise RuntimeError("the local cluster has failed") from self._broken
        finally:
            self._feeds.discard(changes)

    def age(self) -> timedelta | None:
        """See `server.ports.Cluster`."""
        return timedelta(0)

    def refusal(self) -> None:
        """See `server.ports.Cluster`."""

    def on_reachable_change(self, changed: Callable[[], None]) -> None:
        """See `server.ports.Cluster`."""

    def reachable(self) -> bool:
        """See `server.ports.Cluster`."""
        return True

    def _event(self, key: ServiceKey, uid: str) -> FeedEvent:
        supervisor = self._supervisors.get(key)
        service = supervisor.service() if supervisor else None
        return Changed(service) if service and service.uid == uid else Gone(key, uid)

    def _working(self) -> dict[str, list[int]]:
        """The generations that need a working directory, by the uids of all services that stay."""
        records = [s.record for s in self._supervisors.values() if not s.record.deleting]
        return {r.service.uid: [wish.generation for wish in r.wishes] for r in records}

    def _require_running(self) -> None:
        if self._stopping.is_set() or self._broken:
            raise ClusterUnavailable("the local cluster is going down; nothing was written")

    def _stored(self, wanted: Stored, supervisor: Supervisor | None) -> Supervisor:
        """Whoever supervises it, once it is stored."""
        if supervisor is None:
            return self._supervise(self._created(wanted))
        record = supervisor.record.rewritten(wanted, datetime.now(UTC))
        self._take(supervisor, record, lambda: self._state.write(record))
        return supervisor

    def _take(self, supervisor: Supervisor, record: Record, store: Callable[[], None]) -> None:
        try:
            store()
        except WriteOutcomeUnknown:
            # It is in place: what serves must be what a restart would find.
            supervisor.take(record)
            raise
        supervisor.take(record)

    def _created(self, wanted: Stored) -> Record:
        ports = self._means.ports
        try:
            record = Record(wanted, ports.allot(), datetime.now(UTC))
        except OSError as e:
            raise ClusterUnavailable(
                f"no port can be had for the service, {e.strerror}: nothing was written; end what"
                " listens there, delete a service, or let MODELSERVICE_SERVING_PORTS name others"
            ) from e
        try:
            self._state.write(record)
        except ClusterUnavailable:
            ports.release(record.port)
            raise
        except WriteOutcomeUnknown:
            self._supervise(record)
            raise
        return record

    def _supervise(self, record: Record) -> Supervisor:
        key, uid = record.service.key, record.service.uid
        supervisor = Supervisor(record, self._state, self._means, lambda: self._changed(key, uid))
        self._supervisors[key] = supervisor
        if self._tasks:
            self._tasks.create_task(self._live(supervisor))
        self._changed(key, uid)
        return supervisor

    async def _live(self, supervisor: Supervisor) -> None:
        if await supervisor.run():
            service = supervisor.record.service
            del self._supervisors[service.key]
            self._means.ports.release(supervisor.record.port)
            self._changed(service.key, service.uid)

    def _changed(self, key: ServiceKey, uid: str) -> None:
        for changes in self._feeds:
            changes.add((key, uid))


def remove(folders: list[Path]) -> None:
    """Remove them with all that is in them. Blocks."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
