"""Follow services across cuts, restarts and replicas, and wait for rollouts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2 import (
    DeployRequest,
    DeployResponse,
    GetRequest,
    WatchStatusRequest,
    WatchStatusResponse,
)
from modelservice.v1.rollout_service_pb2 import ListRevisionsRequest, RollbackRequest

from modelservice_client.core import rpcs
from modelservice_client.core.awaited import ready_seconds, watch_request
from modelservice_client.core.calls import call, on_failure_id, write
from modelservice_client.core.errors import (
    ModelServiceError,
    NotFound,
    NotReachable,
    PermissionDenied,
    RolledBack,
    RolloutFailed,
    ServiceDeleted,
    Unauthenticated,
)
from modelservice_client.core.retry import Policy
from modelservice_client.core.steps import Close, Emit, Open, Pause, Receive, Routine

HEARTBEAT_SECONDS = 10
# Three heartbeats that did not come: something in between holds the connection and passes nothing.
SILENCE_SECONDS = 30.0
_LOOK_SECONDS = 10.0
# Deletions that are remembered, so that a replica which is behind cannot bring services back.
_MOST_DELETED = 10_000

Message = WatchStatusResponse
OnChange = Callable[[InferenceService], None]
Key = tuple[str, str]


def watch(
    policy: Policy,
    request: WatchStatusRequest,
    timeout: float | None,
    on_change: OnChange | None = None,
) -> Routine[InferenceService | None]:
    """Emit what a watch shows, across lost connections, until its end; return the last service.

    Emitted are SNAPSHOT and SYNCED of the first opening, then CHANGED, DELETED and LEFT. No state
    of a service is emitted twice in a row, and none that is older than the one before.
    """
    view = _View(request)
    retry = policy.begin(rpcs.WATCH_STATUS.method, timeout, waits=True)
    while True:
        retry.begin_attempt()
        # Whether the server has accepted the token of the present stream.
        accepted = False
        try:
            yield Open(view.request(), retry.left(), retry.attempt_seconds())
            while (message := (yield Receive(SILENCE_SECONDS))) is not None:
                retry.heard()
                accepted = True
                for shown in view.take(message):
                    if on_change and shown.type in (Message.TYPE_SNAPSHOT, Message.TYPE_CHANGED):
                        on_change(shown.service)
                    yield Emit(shown)
                if message.type == Message.TYPE_SYNCED:
                    # A Get has read the token anew, so its UNAUTHENTICATED is final.
                    accepted = False
                    for absent in view.absent():
                        left = retry.left()
                        for shown in (yield from _look_for(policy, view, absent, left)):
                            yield Emit(shown)
                    accepted = True
                    if first := view.synced(message):
                        yield Emit(first)
            if request.until:
                return view.last
            error: ModelServiceError = NotReachable("the stream of a watch without an end ended")
        except ModelServiceError as failed:
            error = failed
        if error.reason == "RESUME_TOKEN_INVALID" and view.drop_token():
            # Another release of the server made it.
            error = NotReachable(error.message, code=error.code)
        error.service = view.last
        yield Close()
        if accepted and isinstance(error, Unauthenticated):
            # The token has expired since the stream was opened. The next stream has the present
            # one.
            continue
        yield Pause(retry.pause_after(error))


def wait_ready(
    policy: Policy,
    request: WatchStatusRequest,
    timeout: float | None,
    on_change: OnChange | None = None,
) -> Routine[InferenceService]:
    """Return the service once the rollout that the request names is ready."""
    request.until = WatchStatusRequest.UNTIL_READY
    return (yield from _wait(policy, request, timeout, on_change))


def wait_stopped(
    policy: Policy,
    request: WatchStatusRequest,
    timeout: float | None,
    on_change: OnChange | None = None,
) -> Routine[InferenceService]:
    """Return the service once it is stopped."""
    request.until = WatchStatusRequest.UNTIL_STOPPED
    return (yield from _wait(policy, request, timeout, on_change))


def _wait(
    policy: Policy,
    request: WatchStatusRequest,
    timeout: float | None,
    on_change: OnChange | None,
) -> Routine[InferenceService]:
    """Return the service that met the end of the request."""
    ends = None if timeout is None else policy.clock() + timeout
    service = yield from watch(policy, request, timeout, on_change)
    if service is not None:
        return service
    get = GetRequest(namespace=request.namespace, name=request.name, rollout_id=request.rollout_id)
    left = None if ends is None else max(ends - policy.clock(), 0.0)
    return (yield from call(policy, rpcs.GET, get, left, waits=True)).service


def wait_gone(
    policy: Policy, request: WatchStatusRequest | None, timeout: float | None
) -> Routine[None]:
    """Return once the service is gone; at once without a request, as there is none."""
    if request is not None:
        request.until = WatchStatusRequest.UNTIL_GONE
        yield from watch(policy, request, timeout)


def deploy_and_wait(
    policy: Policy,
    request: DeployRequest,
    timeout: float | None,
    on_change: OnChange | None = None,
    rollback_on_failure: bool = False,
) -> Routine[InferenceService]:
    """Deploy, and return the service once this rollout is ready; with validate_only the service as
    it would be stored. With `rollback_on_failure` a rollout that fails is rolled back.

    Without a `timeout` each rollout has its `ready_seconds`.
    """
    began = policy.clock()
    seconds = ready_seconds(request.spec) if timeout is None else timeout
    deployed = yield from write(policy, rpcs.DEPLOY, request, seconds)
    if not deployed.rollout_id:
        return deployed.service
    try:
        left = _left(policy, began, deployed, timeout)
        awaited = watch_request(deployed, "", "")
        return (yield from wait_ready(policy, awaited, left, on_change))
    except ModelServiceError as error:
        error.request_id = request.request_id
        error.service = error.service or deployed.service
        if not (rollback_on_failure and isinstance(error, RolloutFailed)):
            raise
        failed = error
    undo = RollbackRequest(
        namespace=deployed.service.namespace,
        name=deployed.service.name,
        rollout_id=deployed.rollout_id,
        request_id=on_failure_id(request.request_id),
    )
    began = policy.clock()
    seconds = ready_seconds(deployed.service.spec) if timeout is None else timeout
    try:
        undone = yield from write(policy, rpcs.ROLLBACK, undo, seconds)
        left = _left(policy, began, undone, timeout)
        restored = yield from wait_ready(policy, watch_request(undone, "", ""), left, on_change)
    except ModelServiceError as error:
        failed.rollback_error = error
        raise failed from error
    revision = yield from _rolled_back_to(policy, restored)
    raise RolledBack(failed, restored, revision) from failed


def _left(policy: Policy, began: float, written: DeployResponse, timeout: float | None) -> float:
    """Return the seconds to wait for the rollout of a write that began then."""
    if timeout is None:
        return ready_seconds(written.service.spec)
    return max(began + timeout - policy.clock(), 0.0)


def _rolled_back_to(policy: Policy, service: InferenceService) -> Routine[int]:
    """Return the revision that a service was rolled back to; 0 where the list cannot be read."""
    newest = ListRevisionsRequest(namespace=service.namespace, name=service.name, page_size=1)
    try:
        page = yield from call(policy, rpcs.LIST_REVISIONS, newest, _LOOK_SECONDS)
    except ModelServiceError:
        return 0
    revisions = (r for r in page.revisions if r.rollout_id == service.rollout_id)
    return next((int(revision.rollback_of) for revision in revisions), 0)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What was shown last of a service."""

    service: InferenceService
    digest: bytes


class _View:
    """What was shown of a watch, and how to open it again.

    It keeps an outline and a digest of each service that exists.
    """

    def __init__(self, request: WatchStatusRequest) -> None:
        self.last: InferenceService | None = None
        self._request = WatchStatusRequest()
        self._request.CopyFrom(request)
        if not self._request.HasField("heartbeat_interval"):
            self._request.heartbeat_interval.CopyFrom(Duration(seconds=HEARTBEAT_SECONDS))
        self._shown: dict[Key, _Shown] = {}
        self._deleted: OrderedDict[str, None] = OrderedDict()
        # The services since the stream began anew, until it is synced; None while it goes on.
        self._listed: set[Key] | None = set()
        self._synced = False

    def request(self) -> WatchStatusRequest:
        """Return the request that opens the watch, or continues it."""
        if not self._request.resume_token:
            self._listed = set()
        return self._request

    def drop_token(self) -> bool:
        """Forget the resume token, so that the next stream begins anew; False without one."""
        had_one = bool(self._request.resume_token)
        self._request.resume_token = ""
        return had_one

    def take(self, message: Message) -> Iterator[Message]:
        """Yield the messages to show for one that came."""
        if message.resume_token:
            self._request.resume_token = message.resume_token
        if message.type == Message.TYPE_RESET:
            self._listed = set()
        elif message.type in (Message.TYPE_SNAPSHOT, Message.TYPE_CHANGED):
            yield from self._present(message)
        elif message.type in (Message.TYPE_DELETED, Message.TYPE_LEFT):
            yield from self._gone(message)

    def absent(self) -> list[InferenceService]:
        """Return the services that a stream which began anew did not list."""
        if self._listed is None:
            return []
        return [shown.service for key, shown in self._shown.items() if key not in self._listed]

    def synced(self, message: Message) -> Message | None:
        """Take a SYNCED; return it if it is the first one."""
        first, self._synced, self._listed = not self._synced, True, None
        return message if first else None

    @property
    def selects(self) -> bool:
        """Whether services can leave the watch without being deleted."""
        return bool(self._request.label_selector)

    def end(self, service: InferenceService, kind: Message.Type.ValueType) -> Iterator[Message]:
        """Yield the message that a service which was shown is gone, or has left the watch."""
        identity = InferenceService(
            namespace=service.namespace,
            name=service.name,
            uid=service.uid,
            rollout_id=service.rollout_id,
        )
        yield from self._gone(Message(type=kind, service=identity))

    def _present(self, message: Message) -> Iterator[Message]:
        service = message.service
        key = (service.namespace, service.name)
        before = self._shown.get(key)
        older = before is not None and _is_older(service, before.service)
        # A predecessor says nothing about the service that was shown.
        if self._listed is not None and not (
            older and before and before.service.uid != service.uid
        ):
            self._listed.add(key)
        if older or service.uid in self._deleted:
            return
        digest = blake2b(service.SerializeToString(deterministic=True), digest_size=16).digest()
        if before and before.digest == digest:
            return
        if before and before.service.uid != service.uid:
            yield from self.end(before.service, Message.TYPE_DELETED)
        self._shown[key] = _Shown(_outline(service), digest)
        self._await(service)
        shown = Message()
        shown.CopyFrom(message)
        shown.type = Message.TYPE_CHANGED if self._synced else Message.TYPE_SNAPSHOT
        yield shown

    def _gone(self, message: Message) -> Iterator[Message]:
        service = message.service
        key = (service.namespace, service.name)
        before = self._shown.get(key)
        if message.type == Message.TYPE_DELETED:
            self._remember_deleted(service.uid)
        if before and before.service.uid == service.uid:
            del self._shown[key]
            yield message

    def _await(self, service: InferenceService) -> None:
        """Await the rollout, or the service, that existed when the watch was opened first."""
        if not self._request.name:
            return
        self.last = service
        if self._request.until and not self._request.rollout_id:
            self._request.rollout_id = service.rollout_id

    def _remember_deleted(self, uid: str) -> None:
        self._deleted[uid] = None
        if len(self._deleted) > _MOST_DELETED:
            self._deleted.popitem(last=False)


def _look_for(
    policy: Policy, view: _View, service: InferenceService, left: float | None
) -> Routine[list[Message]]:
    """Ask for a service that a stream which began anew did not list, within the watch's time.

    The rollout_id makes the server confirm its absence, so that a replica which has not seen a new
    service yet does not count as its end. A caller that may watch the service and not get it cannot
    learn whether it was deleted: then it has left the watch.
    """
    get = GetRequest(namespace=service.namespace, name=service.name, rollout_id=service.rollout_id)
    try:
        seconds = _LOOK_SECONDS if left is None else min(left, _LOOK_SECONDS)
        yield from call(policy, rpcs.GET, get, seconds)
    except (NotFound, ServiceDeleted):
        return list(view.end(service, Message.TYPE_DELETED))
    except PermissionDenied:
        return list(view.end(service, Message.TYPE_LEFT))
    return list(view.end(service, Message.TYPE_LEFT)) if view.selects else []


def _is_older(service: InferenceService, shown: InferenceService) -> bool:
    """Whether a state is from before another one.

    The times of conditions never go back. Two states of one generation with the same times cannot
    be ordered.
    """
    if service.uid != shown.uid:
        return _time(service.create_time) < _time(shown.create_time)
    if service.generation != shown.generation:
        return service.generation < shown.generation
    before = {c.type: _time(c.last_transition_time) for c in shown.status.conditions}
    now = {c.type: _time(c.last_transition_time) for c in service.status.conditions}
    common = before.keys() & now.keys()
    return any(now[kind] < before[kind] for kind in common) and not any(
        now[kind] > before[kind] for kind in common
    )


def _time(time: Timestamp) -> tuple[int, int]:
    return time.seconds, time.nanos


def _outline(service: InferenceService) -> InferenceService:
    """Return what later states are compared with."""
    outline = InferenceService(
        namespace=service.namespace,
        name=service.name,
        uid=service.uid,
        rollout_id=service.rollout_id,
        generation=service.generation,
        create_time=service.create_time,
    )
    for condition in service.status.conditions:
        outline.status.conditions.add(
            type=condition.type, last_transition_time=condition.last_transition_time
        )
    return outline
