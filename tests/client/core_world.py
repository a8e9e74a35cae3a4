"""A cluster with replicas in front of it, in virtual time, that a routine of the core runs against.

A script says at each step what goes wrong; once it is over, nothing does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode
from modelservice.v1.inference_service_pb2 import (
    Condition,
    Failure,
    InferenceService,
    InferenceServiceStatus,
)
from modelservice.v1.model_service_pb2 import (
    DeployRequest,
    DeployResponse,
    GetResponse,
    WatchStatusRequest,
    WatchStatusResponse,
)
from modelservice.v1.rollout_service_pb2 import (
    ListRevisionsRequest,
    ListRevisionsResponse,
    Revision,
    RollbackRequest,
)
from modelservice_client.core import errors
from modelservice_client.core.retry import Policy, Retrying
from modelservice_client.core.steps import Close, Emit, Open, Pause, Receive, Routine, Send

Message = WatchStatusResponse
Until = WatchStatusRequest

LOST = {
    "cut": StatusCode.UNAVAILABLE,
    "cut and switch": StatusCode.UNAVAILABLE,
    "internal": StatusCode.INTERNAL,
    "unknown": StatusCode.UNKNOWN,
    "cancelled": StatusCode.CANCELLED,
}
# What a step can meet; "ok" is nothing. A stream has to live for some steps to be cut in.
RARE = ("stopped", "silent", "stopping", "reset", "overrun", "again", "lose answer", *LOST)
FAULTS = (*("ok",) * 20, *("advance",) * 16, *("cut and switch",) * 5, *RARE)
# What happens to a service.
EVENTS = ("deploy", "progress", "ready", "fail", "delete", "nothing")


@dataclass(frozen=True)
class Stored:
    """A service at one time. `version` is when it changed last."""

    name: str
    uid: str
    generation: int
    state: str
    version: int

    @property
    def rollout_id(self) -> str:
        return f"{self.uid}/{self.generation}"

    def message(self) -> InferenceService:
        status = InferenceServiceStatus(
            state=InferenceServiceStatus.State.Value(f"STATE_{self.state}"),
            message=f"at {self.version}",
            conditions=[Condition(type="Ready", last_transition_time=at(self.version))],
        )
        return InferenceService(
            namespace="ns",
            name=self.name,
            uid=self.uid,
            generation=self.generation,
            rollout_id=self.rollout_id,
            create_time=at(int(self.uid)),
            status=status,
        )


def at(version: int) -> Timestamp:
    return Timestamp(seconds=version)


Cluster = dict[str, Stored]


def history(
    events: Sequence[tuple[str, str]], begin: Cluster | None = None, begins: int = 0
) -> list[Cluster]:
    """The cluster after each event; none of them lets a deleted service come back. It begins with
    this one, at this version."""
    versions: list[Cluster] = [begin or {}]
    for version, (event, name) in enumerate(events, start=begins + 1):
        now = dict(versions[-1])
        before = now.get(name)
        if event == "delete":
            now.pop(name, None)
        elif event == "deploy" and before is None:
            now[name] = Stored(name, str(version), 1, "PENDING", version)
        elif before and event == "deploy":
            generation = before.generation + 1
            now[name] = replace(before, generation=generation, state="PENDING", version=version)
        elif before and event in ("progress", "ready", "fail"):
            state = {"progress": "PROGRESSING", "ready": "READY", "fail": "FAILED"}[event]
            now[name] = replace(before, state=state, version=version)
        versions.append(now)
    return versions


@dataclass
class Stream:
    replica: int
    request: WatchStatusRequest
    queue: list[Message]
    seen: int
    token: str
    ends: float


class Over(Exception):
    """Nothing more will happen."""


class World:
    """`exact`: the token of a watch of one service continues on any replica, by the version that
    was sent last, as servers do that are not older than the client. `met`: the answers that only
    faults bring about. `deployed`, `rolled_back`: what becomes of a service after a Deploy and a
    Rollback, event by event. `undone`: the rollouts that were rolled back."""

    def __init__(
        self, versions: list[Cluster], faults: Sequence[str], *, exact: bool = False
    ) -> None:
        self.exact = exact
        self.deployed: Sequence[str] = ("progress", "ready")
        self.rolled_back: Sequence[str] = ("progress", "ready")
        self.undone: list[str] = []
        self.met: Counter[str] = Counter()
        self.time = 0.0
        self.versions = versions
        self.now = 0
        self.emitted: list[Message] = []
        self.request_ids: list[str] = []
        self.rollouts: dict[str, str] = {}
        self.retries: list[Retrying] = []
        self.opened = 0
        self.stopped_for = 0.0
        self._faults = list(reversed(faults))
        self._replicas = [0, 0]
        self._replica = 0
        self._epoch = 0
        self._stream: Stream | None = None
        self._last: Message | None = None
        self._idle = 0

    def policy(self, random: Any, patience: float = 60.0) -> Policy:
        return Policy(lambda: self.time, random, patience, self.retries.append)

    def run(self, routine: Routine[Any]) -> Any:
        """Run a routine to its end, or until nothing more can happen."""
        step = next(routine)
        try:
            while True:
                try:
                    answer = self._carry_out(step)
                except errors.ModelServiceError as error:
                    step = routine.throw(error)
                else:
                    step = routine.send(answer)
        except StopIteration as ended:
            return ended.value
        finally:
            routine.close()

    @property
    def cluster(self) -> Cluster:
        return self.versions[self.now]

    def _carry_out(self, step: Any) -> Any:
        match step:
            case Emit():
                self.emitted.append(step.message)
            case Pause():
                assert step.seconds >= 0
                self.time += step.seconds
            case Close():
                self._stream = None
            case Open():
                self._open(step)
            case Receive():
                return self._receive(step)
            case Send():
                return self._send(step)
        return None

    def _fault(self) -> str:
        fault = self._faults.pop() if self._faults else "ok"
        if fault == "advance":
            self._advance()
        elif fault == "cut and switch":
            self._replica = 1 - self._replica
        elif fault == "reset":
            self._epoch += 1
        elif fault == "stopped":
            # The client itself, whose connection the server has left meanwhile.
            self.time += 300
            self.stopped_for += 300
        return fault

    def _advance(self) -> bool:
        """Let the cluster change, which the first replica sees at once and the other does not."""
        if self.now + 1 == len(self.versions):
            return False
        self.now += 1
        self._replicas[0] = self.now
        return True

    def _lost(self, fault: str, silence_ends: float) -> None:
        if fault in ("silent", "stopped", "stopping", *LOST):
            self.met[fault] += 1
        if fault == "silent":
            self.time = silence_ends
            raise errors.NotReachable("silent", code=StatusCode.DEADLINE_EXCEEDED)
        if fault in LOST:
            raise errors.error_of(LOST[fault], fault, ())
        if fault == "stopped":
            raise errors.error_of(StatusCode.UNAVAILABLE, "left by the server", ())
        if fault == "stopping":
            raise errors.Unavailable(
                "stopping", code=StatusCode.UNAVAILABLE, reason="SERVER_STOPPING", retry_after=1
            )

    def _open(self, step: Open) -> None:
        assert self._stream is None
        self.opened += 1
        self._last = None
        # Whether a stream opens shows when it is received from.
        self._lost(self._fault(), self.time)
        request = WatchStatusRequest()
        request.CopyFrom(step.request)
        seen = self._replicas[self._replica]
        unknown = request.until and request.rollout_id and self._is_behind(request.rollout_id, seen)
        if unknown or seen < self._known_exactly(request):
            self.met["VIEW_BEHIND"] += 1
            # It catches up by the next attempt.
            self._replicas[self._replica] = self.now
            raise errors.Unavailable(
                "behind", code=StatusCode.UNAVAILABLE, reason="VIEW_BEHIND", retry_after=1
            )
        cluster = self.versions[seen]
        if request.until == Until.UNTIL_READY and not request.rollout_id:
            if request.name not in cluster:
                raise errors.ServiceNotFound("none", code=StatusCode.NOT_FOUND, reason="x")
            request.rollout_id = cluster[request.name].rollout_id
        if request.until == Until.UNTIL_GONE and not request.rollout_id:
            stored = cluster.get(request.name)
            request.rollout_id = stored.rollout_id if stored else ""
        timeout = float("inf") if step.timeout is None else step.timeout
        self._stream = Stream(
            self._replica, request, [], seen, request.resume_token, self.time + timeout
        )
        self._stream.queue += self._initial(self._stream)

    def _known_exactly(self, request: WatchStatusRequest) -> int:
        """The version of the token of a watch of one service; -1 where it has to begin anew."""
        if not (self.exact and request.name and request.resume_token):
            return -1
        return int(request.resume_token.rpartition("/")[2])

    def _is_behind(self, rollout_id: str, seen: int) -> bool:
        """Whether a view does not know a rollout that the cluster has had."""
        known = {s.rollout_id for cluster in self.versions[: seen + 1] for s in cluster.values()}
        return rollout_id not in known

    def _initial(self, stream: Stream) -> Iterator[Message]:
        token, cluster = stream.request.resume_token, self._selected(stream, stream.seen)
        synced = f"{self._epoch}/{stream.replica}/{stream.seen}"
        epoch, _, rest = token.partition("/")
        replica, _, version = rest.partition("/")
        own = token and epoch == str(self._epoch) and replica == str(stream.replica)
        if own or self._known_exactly(stream.request) >= 0:
            known = -1 if stream.request.until else int(version)
            yield from self._gone(stream, int(version), stream.seen)
            changed = [s for s in cluster.values() if s.version > known]
            for stored in changed:
                yield Message(
                    type=Message.TYPE_CHANGED, service=stored.message(), resume_token=token
                )
        else:
            yield from self._anew(stream, token)
        stream.token = synced
        yield Message(type=Message.TYPE_SYNCED, resume_token=synced)

    def _anew(self, stream: Stream, token: str) -> Iterator[Message]:
        """A beginning, which a RESET announces to a reader who has had another one."""
        if token:
            self.met["RESET"] += 1
            yield Message(type=Message.TYPE_RESET, resume_token=token)
        for stored in self._selected(stream, stream.seen).values():
            yield Message(type=Message.TYPE_SNAPSHOT, service=stored.message(), resume_token=token)

    def _selected(self, stream: Stream, version: int) -> Cluster:
        cluster = self.versions[version]
        name = stream.request.name
        return {key: s for key, s in cluster.items() if not name or key == name}

    def _gone(self, stream: Stream, before: int, now: int) -> Iterator[Message]:
        """The deletions between two versions."""
        kept = {s.uid for s in self._selected(stream, now).values()}
        gone = {
            s.uid: s
            for version in range(before, now)
            for s in self._selected(stream, version).values()
            if s.uid not in kept
        }
        for stored in gone.values():
            service = InferenceService(
                namespace="ns", name=stored.name, uid=stored.uid, rollout_id=stored.rollout_id
            )
            yield Message(type=Message.TYPE_DELETED, service=service, resume_token=stream.token)

    def _receive(self, step: Receive) -> Message | None:
        stream = self._stream
        assert stream
        fault = self._fault()
        self._lost(fault, min(self.time + step.timeout, stream.ends))
        if fault == "again" and self._last is not None:
            self.met["again"] += 1
            return self._last
        if fault == "overrun" and stream.token and not stream.queue:
            # The reader was so slow that the server has forgotten what it lacks.
            stream.queue += self._anew(stream, stream.token)
            stream.queue.append(Message(type=Message.TYPE_SYNCED, resume_token=stream.token))
        self.time += 0.01
        if stream.queue:
            self._last = stream.queue.pop(0)
            return self._last
        if self._decided(stream):
            return None
        if stream.seen < self._replicas[stream.replica]:
            stream.queue += self._changes(stream)
        elif self._replicas[stream.replica] < self.now or self._advance():
            self._replicas[stream.replica] += self._replicas[stream.replica] < self.now
            stream.queue += self._changes(stream)
        else:
            self._idle += 1
            if self._idle > 3 and not stream.request.until:
                raise Over
            self.time = stream.ends if self._idle > 3 else min(self.time + 10, stream.ends)
            if self.time == stream.ends:
                raise errors.error_of(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", ())
        if not stream.queue:
            stream.queue.append(Message(type=Message.TYPE_HEARTBEAT, resume_token=stream.token))
        self._last = stream.queue.pop(0)
        return self._last

    def _changes(self, stream: Stream) -> list[Message]:
        before, now = stream.seen, self._replicas[stream.replica]
        stream.seen = now
        messages = [*self._gone(stream, before, now)]
        messages += (
            Message(type=Message.TYPE_CHANGED, service=stored.message(), resume_token=stream.token)
            for stored in self._selected(stream, now).values()
            if stored.version > before
        )
        stream.token = f"{self._epoch}/{stream.replica}/{now}"
        if messages:
            messages[-1].resume_token = stream.token
        return messages

    def _decided(self, stream: Stream) -> bool:
        """Whether the stream is over by the state that it sent last; raises where it fails."""
        request = stream.request
        current = self.versions[stream.seen].get(request.name)
        uid = request.rollout_id.partition("/")[0]
        if request.until == Until.UNTIL_GONE:
            return current is None or current.uid != uid
        if request.until == Until.UNTIL_READY:
            return self._is_ready(request.rollout_id, current)
        return False

    @staticmethod
    def _is_ready(rollout_id: str, current: Stored | None) -> bool:
        if current is None or current.uid != rollout_id.partition("/")[0]:
            raise errors.ServiceDeleted("gone", code=StatusCode.NOT_FOUND, reason="ROLLOUT_GONE")
        if current.generation > int(rollout_id.partition("/")[2]):
            raise errors.Superseded("new", code=StatusCode.ABORTED, reason="ROLLOUT_SUPERSEDED")
        if current.state == "FAILED":
            raise errors.RolloutFailed(
                "failed",
                code=StatusCode.FAILED_PRECONDITION,
                reason="ROLLOUT_FAILED",
                failure=Failure(message="failed"),
            )
        return current.state == "READY"

    def _send(self, step: Send) -> Any:
        fault = self._fault()
        self._lost(fault, self.time + step.timeout)
        self.time += 0.01
        match step.request:
            case DeployRequest():
                answer: Any = self._write(step.request, self.deployed)
            case RollbackRequest():
                answer = self._roll_back(step.request)
            case ListRevisionsRequest():
                present = self._present(step.request.name).rollout_id
                back = 1 if self.undone else 0
                newest = Revision(rollout_id=present, rollback_of=back)
                answer = ListRevisionsResponse(revisions=[newest])
            case _:
                answer = self._get(step.request)
        if fault == "lose answer":
            self.met[fault] += 1
            raise errors.error_of(StatusCode.UNAVAILABLE, "lost after it was done", ())
        return answer

    def _get(self, request: Any) -> GetResponse:
        stored = self.cluster.get(request.name)
        if stored is None or (
            request.rollout_id and stored.uid != request.rollout_id.partition("/")[0]
        ):
            raise errors.ServiceDeleted("gone", code=StatusCode.NOT_FOUND, reason="ROLLOUT_GONE")
        return GetResponse(service=stored.message())

    def _write(
        self, request: DeployRequest | RollbackRequest, events: Sequence[str]
    ) -> DeployResponse:
        self.request_ids.append(request.request_id)
        if request.request_id not in self.rollouts:
            written = [("deploy", request.name), *((event, request.name) for event in events)]
            self.versions[self.now + 1 :] = history(written, self.cluster, self.now)[1:]
            self.now += 1
            self._replicas[0] = self.now
            self.rollouts[request.request_id] = self.cluster[request.name].rollout_id
        return DeployResponse(
            service=InferenceService(namespace="ns", name=request.name),
            rollout_id=self.rollouts[request.request_id],
        )

    def _present(self, name: str) -> Stored:
        if name not in self.cluster:
            raise errors.ServiceNotFound("none", code=StatusCode.NOT_FOUND, reason="x")
        return self.cluster[name]

    def _roll_back(self, request: RollbackRequest) -> DeployResponse:
        if request.request_id not in self.rollouts:
            present = self._present(request.name).rollout_id
            if request.rollout_id not in ("", present):
                raise errors.Superseded("new", code=StatusCode.ABORTED, reason="ROLLOUT_SUPERSEDED")
            self.undone.append(present)
        return self._write(request, self.rolled_back)
