"""A pod with what is needed to judge it, and how a problem of it is told."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from server.adapters.kserve.names import CONTAINER
from server.adapters.kserve.objects import Object, created_at, get_map, name_of, parse_time, uid_of
from server.adapters.kserve.status.grace_periods import GracePeriods
from server.adapters.kserve.status.observed_objects import LogExcerpt
from server.adapters.kserve.status.pods.containers import Exit
from server.adapters.kserve.status.pods.output_policy import OutputPolicy
from server.domain.rollout.container_output import OutputGate
from server.domain.rollout.facts import Problem
from server.domain.rollout.failures import failure_of
from server.domain.rollout.status import Component, FailureReason

AT_ONCE = timedelta(0)
_FIELD_OF_CONTAINER = re.compile(r"spec\.\w+\{(.+)\}")


@dataclass(frozen=True, slots=True)
class PodContext:
    """Hold a pod with everything that diagnosis reads about it.

    `logs` maps a container to its log excerpt. `load_failed`: KServe reports ModelLoadFailed.
    `completed`: all pods of this rollout have been available once.
    """

    pod: Object
    component: Component
    warnings: tuple[Object, ...]
    logs: Mapping[str, LogExcerpt]
    load_failed: bool
    completed: bool
    now: datetime
    grace: GracePeriods
    output_policy: OutputPolicy

    def output(self, container: Object) -> OutputGate:
        """The gate for what a container of it wrote, named by its status."""
        return self.output_policy.gate_for_container(self.pod, str(container.get("name", "")))

    def problem(
        self,
        reason: FailureReason,
        message: str,
        since: datetime | None,
        tolerated: timedelta | None,
        *,
        container: Object | None = None,
        ended: Exit | None = None,
        retrying: bool | None = None,
        remedy: str = "",
        written: str = "",
    ) -> Problem:
        """A problem of this pod, or of one of its containers. `remedy`: other than the reason's.
        `written`: the end of the message, where a container wrote it."""
        since = since or created_at(self.pod)
        failure = failure_of(
            reason,
            message,
            remedy=remedy,
            component=self.component,
            pod=name_of(self.pod),
            container=str(container["name"]) if container else "",
            exit_code=ended.code if ended else None,
            restart_count=int(container.get("restartCount") or 0) if container else 0,
            retrying=retrying,
            first_seen_time=since,
        )
        return Problem(failure, since, tolerated, written)

    def says_load_failed(self, container: str) -> bool:
        """Whether KServe says so, which looks at the model server only, or the container's own
        log."""
        failed = self.load_failed and container == CONTAINER
        log = self.logs.get(container)
        return failed or (log is not None and log.load_failed)

    def last_warning(self, *reasons: str, containers: Sequence[str] | None = None) -> Object:
        """The newest warning of one of these reasons, or an empty object.

        `containers`: those of other containers than these are passed over.
        """
        found = (
            w
            for w in self.warnings
            if w.get("reason") in reasons
            and (containers is None or container_of(w) in ("", *containers))
        )
        return max(found, key=lambda w: str(w.get("lastTimestamp")), default={})


def warnings_about(pod: Object, events: Iterable[Object]) -> tuple[Object, ...]:
    """The warnings whose subject is this pod."""
    uid = uid_of(pod)
    return tuple(e for e in events if get_map(e, "involvedObject").get("uid") == uid)


def container_of(warning: Object) -> str:
    """The container that a warning is about; empty where it names none."""
    field = _FIELD_OF_CONTAINER.fullmatch(
        str(get_map(warning, "involvedObject").get("fieldPath") or "")
    )
    return field[1] if field else ""


def first_told(warning: Object) -> datetime | None:
    """When a warning was first given; None where there is no warning."""
    return parse_time(warning.get("firstTimestamp")) or parse_time(warning.get("eventTime"))
