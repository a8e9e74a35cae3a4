"""Parse a pod: its conditions, and for each container whether it runs, waits or has exited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from server.adapters.kserve.objects import (
    Object,
    controller_of,
    created_at,
    find_by_name,
    get_list,
    get_map,
    parse_time,
)
from server.adapters.kserve.status.grace_periods import RECOVERED, STABLE, UNANSWERING


@dataclass(frozen=True, slots=True)
class Exit:
    """Hold the last exit of a container.

    `ran_for`: the seconds that the run lasted. `count`: the exits so far. `soon`: the run was too
    short to reset that count.
    """

    code: int
    reason: str
    message: str
    at: datetime | None
    ran_for: float | None
    count: int
    soon: bool

    @property
    def repeated(self) -> bool:
        """Return whether the container keeps exiting."""
        return self.soon and self.count > 1

    @property
    def never_started(self) -> bool:
        """Return whether the container runtime could not run the command."""
        return self.reason in ("StartError", "ContainerCannotRun")


@dataclass(frozen=True, slots=True)
class Container:
    """Hold the status of a container.

    `waiting`: the state of that name, else empty. `running_since`: None if it does not run.
    `must_end`: an init container that has to end before the next one starts; those that are
    always restarted stay up beside the main containers.
    """

    name: str
    status: Object
    ready: bool
    restart_count: int
    waiting: Object
    terminated: Object
    running_since: datetime | None
    exit: Exit | None
    must_end: bool = False

    def stable_at(self, now: datetime) -> datetime | None:
        """Return when the container will have run long enough since its last exit.

        None if it never exited, or came back after a run that was long enough.
        """
        if self.exit is None or (self.running_since and not self.exit.soon):
            return None
        return (self.running_since or now) + STABLE


@dataclass(frozen=True, slots=True)
class Pod:
    """Hold a parsed pod.

    `conditions`: by type. `has_ended`: none of its containers runs or will. `is_live`: the pod is
    meant to run: it has neither ended nor been deleted. `is_ready`: Ready, and not being deleted.
    `running_since`: since when all main containers run; None unless all do. `unready_since`: since
    when they do so without the pod being ready. `started_at`: when the kubelet took it.
    """

    obj: Object
    uid: str
    name: str
    namespace: str
    controller: str
    created_at: datetime
    conditions: Mapping[str, Object]
    has_ended: bool
    is_live: bool
    is_ready: bool
    init_containers: tuple[Container, ...]
    main_containers: tuple[Container, ...]
    running_since: datetime | None
    unready_since: datetime | None
    phase: str
    reason: str
    message: str
    node: str
    started_at: datetime | None

    @property
    def containers(self) -> tuple[Container, ...]:
        """Return all containers, in the order in which they start."""
        return self.init_containers + self.main_containers

    def stable_at(self, now: datetime) -> list[datetime]:
        """Return when each main container that exited recently will count as stable again."""
        exited = [c.stable_at(now) for c in self.main_containers if c.exit]
        return [at for at in exited if at and at > now]


def parse_pod(obj: Object) -> Pod:
    """Parse a pod."""
    metadata, status = get_map(obj, "metadata"), get_map(obj, "status")
    conditions = get_list(status, "conditions")
    deleting = bool(metadata.get("deletionTimestamp"))
    is_ready = not deleting and any(
        c.get("type") == "Ready" and c.get("status") == "True" for c in conditions
    )
    main = tuple(parse_container(s) for s in get_list(status, "containerStatuses"))
    starts = [c.running_since for c in main if c.running_since]
    running_since = max(starts) if starts and len(starts) == len(main) else None
    by_type = {str(c.get("type")): c for c in reversed(conditions)}
    unready_since = None
    if running_since and not is_ready:
        changed = parse_time(by_type.get("Ready", {}).get("lastTransitionTime"))
        unready_since = max(running_since, changed or running_since)
    specs = get_list(obj, "spec", "initContainers")
    ended = has_ended(obj)
    return Pod(
        obj=obj,
        uid=str(metadata.get("uid", "")),
        name=str(metadata.get("name", "")),
        namespace=str(metadata.get("namespace", "")),
        controller=controller_of(obj),
        created_at=created_at(obj),
        conditions=by_type,
        has_ended=ended,
        is_live=not (deleting or ended),
        is_ready=is_ready,
        init_containers=tuple(
            parse_container(s, find_by_name(specs, str(s.get("name", ""))))
            for s in get_list(status, "initContainerStatuses")
        ),
        main_containers=main,
        running_since=running_since,
        unready_since=unready_since,
        phase=str(status.get("phase") or ""),
        reason=str(status.get("reason") or ""),
        message=str(status.get("message") or ""),
        node=str(get_map(obj, "spec").get("nodeName") or ""),
        started_at=parse_time(status.get("startTime")),
    )


def has_ended(obj: Object) -> bool:
    """Return whether none of a pod's containers runs or will."""
    return get_map(obj, "status").get("phase") in ("Failed", "Succeeded")


def parse_container(status: Object, init_spec: Object | None = None) -> Container:
    """Parse a container's status; `init_spec` is the spec of an init container."""
    state = status.get("state") or {}
    waiting, terminated = state.get("waiting") or {}, state.get("terminated") or {}
    running = state.get("running") or {}
    restart_count = int(status.get("restartCount") or 0)
    last_end = terminated or get_map(status, "lastState", "terminated")
    exits = restart_count + bool(terminated or waiting)
    return Container(
        name=str(status.get("name", "")),
        status=status,
        ready=bool(status.get("ready")),
        restart_count=restart_count,
        waiting=waiting,
        terminated=terminated,
        running_since=parse_time(running["startedAt"]) if "startedAt" in running else None,
        exit=_parse_exit(last_end, exits) if last_end else None,
        must_end=init_spec is not None and init_spec.get("restartPolicy") != "Always",
    )


def _parse_exit(terminated: Object, exits: int) -> Exit:
    started, finished = (parse_time(terminated.get(f)) for f in ("startedAt", "finishedAt"))
    # containerd reports the epoch for a container that never started.
    known = started and finished and started.timestamp() > 0
    ran_for = (finished - started).total_seconds() if known and started and finished else None
    return Exit(
        code=int(terminated.get("exitCode") or 0),
        reason=str(terminated.get("reason") or ""),
        message=str(terminated.get("message") or "").strip(),
        at=finished,
        ran_for=ran_for,
        count=exits,
        soon=ran_for is None or ran_for < RECOVERED.total_seconds(),
    )


def doublings(since: datetime, now: datetime) -> int:
    """Return how often the time after which a pod counts as not answering has doubled."""
    return max((now - since) // UNANSWERING, 1).bit_length() - 1
