"""The local cluster: InferenceServices as supervised processes of this machine."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from server.adapters.local.rollouts.model_server_run import ModelServerConfig
from server.adapters.local.state_dir import StateDir
from server.adapters.local.stored_service import Record
from server.adapters.local.supervisor import Supervisor
from server.adapters.local.unsupported import refuse_unsupported, unenforced
from server.deadline import NEVER, Deadline
from server.domain.errors import ClusterUnavailable, WriteOutcomeUnknown
from server.domain.revisions.revision import MOST_REVISIONS, ServiceHistory
from server.domain.rollout.rollout_id import Rollout
from server.domain.service.commands import Action, Applied, Delete, Deploy
from server.domain.service.deploy_plan import current_revisions, plan_deploy
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.preconditions import Stored, admit_delete, admit_deploy
from server.ports import ServiceSink


@asynccontextmanager
async def local_cluster(
    state: StateDir,
    config: ModelServerConfig,
    deadline: Callable[[], Deadline] | None = None,
    most_revisions: int = MOST_REVISIONS,
) -> AsyncIterator[LocalCluster]:
    """Serve the stored services for the length of a block; nothing runs afterwards.

    `deadline` is asked at the end of the block for the end of the stop; without it, the timeouts of
    `config` apply. Raises StateDirUnusable if a stored service cannot be read.
    """
    cluster = LocalCluster(state, config, most_revisions)
    running = asyncio.create_task(cluster.run(), name="local cluster")
    try:
        yield cluster
    finally:
        usual = config.timeouts.drain + config.timeouts.stop
        cluster.stop(deadline() if deadline else Deadline.after(usual))
        await running


class LocalCluster:
    """The services of a state directory; implements `server.ports.Cluster`.

    Every namespace exists. A write blocks the event loop while the disk works, so that nothing
    comes between a check, its write and the change in memory.
    """

    def __init__(self, state: StateDir, config: ModelServerConfig, most_revisions: int) -> None:
        self._state = state
        self._config = config
        self._most_revisions = most_revisions
        self._supervisors: dict[ServiceKey, Supervisor] = {}
        self._sinks: list[ServiceSink] = []
        self._tasks: asyncio.TaskGroup | None = None
        self._stopping = asyncio.Event()
        self._deadline = NEVER
        self._failure: BaseException | None = None
        self._failed = asyncio.Event()
        for record in state.records():
            config.ports.reserve(record.port)
            self._supervise(record)
        self._unused_folders = state.unused_folders(self._used_generations())

    async def run(self) -> None:
        """Serve until `stop`. Then every process is ended, and what is stored is kept."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for supervisor in self._supervisors.values():
                    self._tasks.create_task(self._run_supervisor(supervisor))
                # In a thread, since whole models can take long to remove.
                self._tasks.create_task(asyncio.to_thread(remove, self._unused_folders))
                await self._stopping.wait()
                for supervisor in self._supervisors.values():
                    supervisor.close(self._deadline)
        except BaseException as e:
            self._failure = e
            self._failed.set()
            raise

    def stop(self, deadline: Deadline) -> None:
        """End `run`; what still runs at the deadline is killed."""
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
            self._state.sync_pending()
            service = self._report(supervisor.service())
            rollout = Rollout(service.uid, replayed.generation)
            return _applied(service, replayed.action, rollout)
        action, wanted = plan_deploy(deploy, stored, self._most_revisions)
        if deploy.validate_only:
            return _applied(wanted.service, action, None)
        if action is not Action.UNCHANGED or not supervisor:
            supervisor = self._store(wanted, supervisor)
        else:
            self._state.sync_pending()
            supervisor.retry_now()
        return _applied(self._report(supervisor.service()), action, wanted.service.rollout)

    async def delete(self, delete: Delete) -> InferenceService:
        """See `server.ports.Cluster`."""
        self._require_running()
        supervisor = self._supervisors.get(delete.key)
        service = admit_delete(delete, supervisor.record.service if supervisor else None)
        assert supervisor, "else it was not found"
        if service.delete_time:
            self._state.sync_pending()
        elif not delete.validate_only:
            record = supervisor.record.with_deletion(datetime.now(UTC))
            self._write(supervisor, record, lambda: self._state.mark_deleted(delete.key))
        return self._report(supervisor.service())

    async def read(self, key: ServiceKey) -> InferenceService | None:
        """See `server.ports.Cluster`."""
        supervisor = self._supervisors.get(key)
        return supervisor.service() if supervisor else None

    async def history(self, key: ServiceKey) -> ServiceHistory | None:
        """See `server.ports.Cluster`."""
        supervisor = self._supervisors.get(key)
        if supervisor is None:
            return None
        stored = supervisor.stored()
        newest, *older = current_revisions(stored)
        # In a thread, since all contents together can be large.
        older = await asyncio.to_thread(self._state.with_contents, older)
        return ServiceHistory(stored.service, (newest, *older))

    async def follow(self, sink: ServiceSink) -> None:
        """See `server.ports.Cluster`. Any number of sinks may be followed."""
        for supervisor in self._supervisors.values():
            sink.put(supervisor.service())
        sink.mark_synced()
        self._sinks.append(sink)
        try:
            await self._failed.wait()
            raise RuntimeError("the local cluster has failed") from self._failure
        finally:
            self._sinks.remove(sink)

    def position(self, key: ServiceKey) -> str:
        """See `server.ports.Cluster`: this process is the only replica."""
        return ""

    def reached(self, key: ServiceKey, position: str) -> bool:
        """See `server.ports.Cluster`."""
        return True

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

    def _report(self, service: InferenceService) -> InferenceService:
        """Put a service into the sinks, and return it."""
        for sink in self._sinks:
            sink.put(service)
        return service

    def _used_generations(self) -> dict[str, list[int]]:
        """Return the generations that need a working directory, by the uids of their services."""
        records = [s.record for s in self._supervisors.values() if not s.record.deleting]
        return {r.service.uid: [spec.generation for spec in r.generations] for r in records}

    def _require_running(self) -> None:
        if self._stopping.is_set() or self._failure:
            raise ClusterUnavailable("the local cluster is going down; nothing was written")

    def _store(self, wanted: Stored, supervisor: Supervisor | None) -> Supervisor:
        """Store the service, and return its supervisor."""
        if supervisor is None:
            return self._supervise(self._create(wanted))
        record = supervisor.record.with_stored(wanted, datetime.now(UTC))
        self._write(supervisor, record, lambda: self._state.write(record))
        return supervisor

    def _write(self, supervisor: Supervisor, record: Record, write: Callable[[], None]) -> None:
        try:
            write()
        except WriteOutcomeUnknown:
            # The file is in place: serve what a restart would find.
            supervisor.update(record.without_contents())
            raise
        supervisor.update(record.without_contents())

    def _create(self, wanted: Stored) -> Record:
        ports = self._config.ports
        try:
            record = Record(wanted, ports.allocate(), datetime.now(UTC))
        except OSError as e:
            raise ClusterUnavailable(
                f"no port can be had for the service, {e.strerror}: nothing was written; end what"
                " listens there, delete a service, or set MODELSERVICE_SERVING_PORTS to others"
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
        supervisor = Supervisor(record, self._state, self._config, self._report)
        self._supervisors[record.service.key] = supervisor
        if self._tasks:
            self._tasks.create_task(self._run_supervisor(supervisor))
        self._report(supervisor.service())
        return supervisor

    async def _run_supervisor(self, supervisor: Supervisor) -> None:
        if await supervisor.run():
            key = supervisor.record.service.key
            del self._supervisors[key]
            self._config.ports.release(supervisor.record.port)
            for sink in self._sinks:
                sink.remove(key)


def _applied(service: InferenceService, action: Action, rollout: Rollout | None) -> Applied:
    warnings = unenforced(service.spec) if service.spec else ()
    return Applied(service, action, rollout, tuple(warnings))


def remove(folders: list[Path]) -> None:
    """Remove folders with their content. Blocks."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
