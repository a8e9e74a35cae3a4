"""Hold a pod with everything that diagnosis reads about it, and report its problems."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from server.adapters.kserve.names import CONTAINER
from server.adapters.kserve.objects import Object, get_map, parse_time
from server.adapters.kserve.status.observed_objects import LogExcerpt, ObservedObjects
from server.adapters.kserve.status.pods.output_policy import OutputPolicy
from server.adapters.kserve.status.pods.pod import Container, Exit, Pod
from server.domain.rollout.container_output import OutputGate
from server.domain.rollout.facts import Problem
from server.domain.rollout.failures import failure_of
from server.domain.rollout.status import Component, FailureReason

_CONTAINER_FIELD = re.compile(r"spec\.\w+\{(.+)\}")


@dataclass(frozen=True, slots=True)
class PodContext:
    """Hold a pod with everything that diagnosis reads about it.

    `logs` maps a container to its log excerpt. `load_failed`: KServe reports ModelLoadFailed.
    `completed`: all pods of this rollout have been available once.
    """

    pod: Pod
    component: Component
    warnings: tuple[Object, ...]
    logs: Mapping[str, LogExcerpt]
    load_failed: bool
    completed: bool
    now: datetime
    output_policy: OutputPolicy

    def output(self, container: str) -> OutputGate:
        """Return the gate for text that a container of the pod wrote."""
        return self.output_policy.gate_for_container(self.pod.obj, container)

    def problem(
        self,
        reason: FailureReason,
        message: str,
        since: datetime | None,
        tolerated: timedelta | None,
        *,
        container: Container | None = None,
        exited: Exit | None = None,
        retrying: bool | None = None,
        remedy: str = "",
        container_text: str = "",
    ) -> Problem:
        """Report a problem of the pod, or of one of its containers.

        `remedy` replaces the reason's own. `container_text`: the end of the message, if a container
        wrote it.
        """
        since = since or self.pod.created_at
        failure = failure_of(
            reason,
            message,
            remedy=remedy,
            component=self.component,
            pod=self.pod.name,
            container=container.name if container else "",
            exit_code=exited.code if exited else None,
            restart_count=container.restart_count if container else 0,
            retrying=retrying,
            first_seen_time=since,
            container_text=container_text,
        )
        return Problem(failure, since, tolerated)

    def has_failed_load(self, container: str) -> bool:
        """Return whether KServe or the container's log says that the model could not be loaded.

        KServe looks at the model server alone.
        """
        log = self.logs.get(container)
        reported = self.load_failed and container == CONTAINER
        return reported or (log is not None and log.load_failed)

    def last_warning(self, *reasons: str, containers: Sequence[str] | None = None) -> Object:
        """Return the newest warning of these reasons, or an empty object.

        `containers`: leave out warnings that name another container.
        """
        found = (
            w
            for w in self.warnings
            if w.get("reason") in reasons
            and (containers is None or container_of(w) in ("", *containers))
        )
        return max(found, key=lambda w: str(w.get("lastTimestamp")), default={})


def events_by_subject(observed: ObservedObjects) -> Mapping[str, tuple[Object, ...]]:
    """Return the warnings by the uid of the object that they are about."""
    return observed.cache.parse(_group_by_subject, observed.events)


def container_of(warning: Object) -> str:
    """Return the container that a warning is about; empty if it names none."""
    path = str(get_map(warning, "involvedObject").get("fieldPath") or "")
    field = _CONTAINER_FIELD.fullmatch(path)
    return field[1] if field else ""


def first_seen(warning: Object) -> datetime | None:
    """Return when a warning was first given; None if there is no warning."""
    return parse_time(warning.get("firstTimestamp")) or parse_time(warning.get("eventTime"))


def _group_by_subject(events: tuple[Object, ...]) -> Mapping[str, tuple[Object, ...]]:
    groups: dict[str, list[Object]] = {}
    for event in events:
        uid = str(get_map(event, "involvedObject").get("uid") or "")
        groups.setdefault(uid, []).append(event)
    return {uid: tuple(group) for uid, group in groups.items()}
