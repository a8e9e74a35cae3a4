"""A cluster in memory: the rules of a real one without its pods, for tests and benchmarks."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from server.change_queue import ChangeQueue
from server.domain.errors import (
    ClusterUnavailable,
    FieldConflict,
    NamespaceNotFound,
    ServiceError,
    UnsupportedByCluster,
)
from server.domain.listeners import Listeners
from server.domain.revisions.revision import ServiceHistory
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import InferenceServiceStatus, State
from server.domain.service.commands import STOP_ANNOTATION, Action, Applied, Delete, Deploy
from server.domain.service.deploy_plan import Content, created, current_revisions, plan_deploy
from server.domain.service.inference_service import (
    InferenceService,
    InferenceServiceSpec,
    ServiceKey,
)
from server.domain.service.preconditions import Stored, admit_delete, admit_deploy
from server.domain.service.write_warnings import standard_mode_warnings
from server.ports import ServiceSink
from tests.memory_cluster import statuses
from tests.memory_cluster.store import Store


@dataclass
class MemoryCluster:
    """One replica's access to a Store; replicas that share one see each other's writes.

    A rollout becomes READY (or STOPPED, as asked) `ready_after` its write, None: never by itself.
    A deleted service stays until `finish_delete`. Everything runs in one event loop.
    """

    store: Store = field(default_factory=Store)
    ready_after: timedelta | None = timedelta(0)
    _away: bool = field(default=False, init=False)
    _reachability: Listeners = field(default_factory=Listeners, init=False)
    _held: bool = field(default=False, init=False)
    _blind_since: float = field(default=0.0, init=False)
    _sighted: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _next_failure: ServiceError | None = field(default=None, init=False)
    _sink: ServiceSink | None = field(default=None, init=False)
    _changes: ChangeQueue[ServiceKey] = field(default_factory=ChangeQueue, init=False)
    # The revision of each service in the sink.
    _reported: dict[ServiceKey, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._sighted.set()

    async def apply(self, deploy: Deploy) -> Applied:
        """See `server.ports.Cluster`."""
        self._admit_write()
        if deploy.spec and deploy.spec.deployment_mode not in ("", "Standard"):
            raise UnsupportedByCluster("this cluster runs the deployment mode Standard only")
        stored = self.store.get(deploy.key)
        replayed = admit_deploy(deploy, stored)
        if stored and replayed:
            first = Rollout(stored.service.uid, replayed.generation)
            self._report(deploy.key)
            return _applied(stored.service, replayed.action, first)
        if deploy.key.namespace in self.store.missing_namespaces:
            raise _no_namespace(deploy.key.namespace)
        action, wanted = plan_deploy(deploy, stored)
        theirs = self.store.stops_of_others.get(deploy.key)
        conflicts = theirs not in (None, wanted.service.annotations.get(STOP_ANNOTATION))
        if conflicts and not deploy.force:
            raise _stop_of_others(deploy.key)
        if not deploy.validate_only and action is not Action.UNCHANGED:
            if conflicts:
                del self.store.stops_of_others[deploy.key]
            self.store.put(wanted)
            self._settle_later(wanted.service)
        self._report(deploy.key)
        rollout = None if deploy.validate_only else wanted.service.rollout
        return _applied(wanted.service, action, rollout)

    async def delete(self, delete: Delete) -> InferenceService:
        """See `server.ports.Cluster`."""
        self._admit_write()
        service = admit_delete(delete, self.store.service(delete.key))
        if delete.validate_only or service.delete_time is not None:
            self._report(delete.key)
            return service
        dying = replace(
            service,
            delete_time=datetime.now(UTC),
            status=statuses.deleting(service),
        )
        self.store.change(dying)
        self._report(delete.key)
        return dying

    async def read(self, key: ServiceKey) -> InferenceService | None:
        """See `server.ports.Cluster`."""
        self._reach()
        return self.store.service(key)

    async def history(self, key: ServiceKey) -> ServiceHistory | None:
        """See `server.ports.Cluster`."""
        self._reach()
        stored = self.store.get(key)
        return ServiceHistory(stored.service, current_revisions(stored)) if stored else None

    async def follow(self, sink: ServiceSink) -> None:
        """See `server.ports.Cluster`."""
        changes = self._changes = ChangeQueue(self.store)
        self.store.feeds.append(changes)
        self._reported = self.store.deletions()
        try:
            await self._sighted.wait()
            self._sink = sink
            await self._report_changes()
            sink.mark_synced()
            while True:
                await changes.wait()
                await self._sighted.wait()
                await self._report_changes()
        finally:
            self._sink = None
            self.store.feeds.remove(changes)

    def position(self, key: ServiceKey) -> str:
        """See `server.ports.Cluster`."""
        return str(self._reported.get(key, 0))

    def reached(self, key: ServiceKey, position: str) -> bool:
        """See `server.ports.Cluster`."""
        awaited = int(position) if position.isdecimal() else 0
        return self._reported.get(key, 0) >= awaited

    def age(self) -> timedelta | None:
        """See `server.ports.Cluster`."""
        if self._sink is None:
            return None
        blind = time.monotonic() - self._blind_since if self._blind else 0.0
        return timedelta(seconds=blind)

    def refusal(self) -> None:
        """See `server.ports.Cluster`."""

    def on_reachable_change(self, changed: Callable[[], None]) -> None:
        """See `server.ports.Cluster`."""
        self._reachability.add(changed)

    def reachable(self) -> bool:
        """See `server.ports.Cluster`."""
        return not self._away

    def away(self) -> None:
        """Cut this replica off: writes and reads fail, and the feed is silent."""
        self._go_blind()
        self._away = True
        self._reachability.notify()

    def back(self) -> None:
        """End `away`: the feed tells the latest state of what changed meanwhile."""
        self._away = False
        self._reachability.notify()
        self._see_again()

    def hold_feed(self) -> None:
        """Hold this replica's feed back; its writes and reads go on, and its own writes are put."""
        self._go_blind()
        self._held = True

    def release_feed(self) -> None:
        """End `hold_feed`."""
        self._held = False
        self._see_again()

    def fail_next_write(self, error: ServiceError) -> None:
        """Refuse the next Deploy or Delete with an error that a real cluster may give."""
        self._next_failure = error

    def set_status(self, key: ServiceKey, status: InferenceServiceStatus) -> None:
        """Show this status until the next write, whatever would have become of the rollout."""
        service = self.store.service(key)
        assert service, f"there is no {key}"
        if status.state is State.READY and status.latest_ready_generation is None:
            status = replace(status, latest_ready_generation=service.generation)
        self.store.change(replace(service, status=status))

    def finish_delete(self, key: ServiceKey) -> None:
        """Let a service go, as KServe does once its pods are gone."""
        self.store.remove(key)

    def put_unmanaged(
        self,
        key: ServiceKey,
        spec: InferenceServiceSpec | None,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> InferenceService:
        """Make a READY service as somebody else's kubectl would."""
        labels = labels or {}
        made = created(key, Content(spec, labels, annotations or {}, origin={}))
        made = replace(made, unmanaged=True, selectable_labels=labels)
        made = replace(made, status=statuses.settled(made))
        self.store.put(Stored(made))
        return made

    def edit(self, key: ServiceKey, spec: InferenceServiceSpec) -> None:
        """Change the spec of a service as somebody else's kubectl would."""
        stored = self.store.get(key)
        assert stored, f"there is no {key}"
        service = stored.service
        change = Deploy(key, spec, labels=service.labels, annotations=service.annotations)
        _, wanted = plan_deploy(change, stored)
        wanted = replace(wanted, service=replace(wanted.service, unmanaged=True))
        self.store.put(wanted)
        self._settle_later(wanted.service)

    def stop_as_others(self, key: ServiceKey, value: str | None) -> None:
        """Set the annotation that stops a service as another field manager would; None: withdraw
        it, which leaves one that a Deploy has set."""
        stored = self.store.get(key)
        assert stored, f"there is no {key}"
        annotations = dict(stored.service.annotations)
        if value is not None:
            annotations[STOP_ANNOTATION] = self.store.stops_of_others[key] = value
        elif self.store.stops_of_others.pop(key, None):
            del annotations[STOP_ANNOTATION]
        changed = replace(stored.service, annotations=annotations, etag=uuid.uuid4().hex)
        self.store.change(changed)
        self._settle_later(changed)

    @property
    def _blind(self) -> bool:
        return self._away or self._held

    def _go_blind(self) -> None:
        if not self._blind:
            self._blind_since = time.monotonic()
            self._sighted.clear()

    def _see_again(self) -> None:
        if not self._blind:
            self._sighted.set()

    def _reach(self) -> None:
        if self._away:
            raise ClusterUnavailable("the cluster cannot be reached; nothing was written")

    def _admit_write(self) -> None:
        self._reach()
        if self._next_failure:
            failure, self._next_failure = self._next_failure, None
            raise failure

    def _settle_later(self, service: InferenceService) -> None:
        if self.ready_after is not None:
            delay = self.ready_after.total_seconds()
            asyncio.get_running_loop().call_later(delay, self._settle, service)

    def _settle(self, written: InferenceService) -> None:
        """End the rollout well, unless something else has become of the service."""
        current = self.store.service(written.key)
        if current is written:
            self.store.change(replace(current, status=statuses.settled(current)))

    async def _report_changes(self) -> None:
        for key in self._changes.pull():
            self._report(key)
            await self._sighted.wait()

    def _report(self, key: ServiceKey) -> None:
        """Put a service into the sink as it is now."""
        self._changes.discard(key)
        if self._sink is None:
            return
        self._reported[key] = self.store.revision(key)
        if service := self.store.service(key):
            self._sink.put(service)
        else:
            self._sink.remove(key)


def _no_namespace(namespace: str) -> NamespaceNotFound:
    return NamespaceNotFound(f"there is no namespace {namespace!r}", namespace=namespace)


def _stop_of_others(key: ServiceKey) -> FieldConflict:
    field, owner = f"metadata.annotations.{STOP_ANNOTATION}", "gitops"
    return FieldConflict(
        f"{owner} set {field} of {key}; set force to take them over", fields=field, owner=owner
    )


def _applied(service: InferenceService, action: Action, rollout: Rollout | None) -> Applied:
    warnings = standard_mode_warnings(service.spec, service.annotations) if service.spec else ()
    return Applied(service, action, rollout, tuple(warnings))
