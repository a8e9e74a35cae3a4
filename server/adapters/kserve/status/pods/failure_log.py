"""The last lines of the log that explains a failure: which one, and a bounded excerpt of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from http import HTTPStatus

from server.adapters.kserve.client import ApiServer, Unanswered
from server.adapters.kserve.objects import Object, find_by_name, get_list, get_map, name_of
from server.adapters.kserve.status.grace_periods import GRACE_PERIODS
from server.adapters.kserve.status.observed_objects import LogExcerpt, ObservedObjects
from server.adapters.kserve.status.pods.containers import (
    doublings,
    init_statuses,
    main_statuses,
    running_since,
    unready_since,
)
from server.domain.rollout.container_output import OutputGate, without_controls
from server.domain.rollout.facts import Facts
from server.domain.rollout.log_excerpt import excerpt_of, plain_lines, reports_failed_load
from server.domain.rollout.state_table import Decision
from server.domain.rollout.status import Failure, FailureReason, State

# More are asked for than are shown: the probes' own lines and most of a traceback are left out.
ASKED_LINES = 200
READ_BYTES = 2**16
IDLE_TIMEOUT = 5.0
MOST_OF_LAST_LINE = 300

_EXPLAINED = (
    FailureReason.STORAGE_DOWNLOAD,
    FailureReason.MODEL_LOAD,
    FailureReason.CRASH_LOOP,
    FailureReason.OUT_OF_MEMORY,
    FailureReason.NOT_ANSWERING,
)


@dataclass(frozen=True, slots=True)
class LogRequest:
    """One run of one container. `previous`: the run before the one that is under way.

    `age` and `failed` tell apart the looks at a run that goes on without getting ready: the first,
    one each time that this has lasted twice as long, and one once the rollout has failed.
    `look`: numbers the looks at a run that others wait for, where the time of the last line is
    wanted too; else 0.
    `noise`: what marks a line as a probe's. `output`: decides what is shown of it.
    """

    pod: str
    namespace: str
    container: str
    previous: bool
    restart_count: int
    age: int = 0
    failed: bool = False
    look: int = 0
    noise: tuple[str, ...] = ()
    output: OutputGate = field(default=OutputGate(), repr=False)

    @property
    def source(self) -> tuple[str, str]:
        """Pod and container, whichever run."""
        return self.pod, self.container


def failed_container(failure: Failure | None) -> tuple[str, str] | None:
    """The pod and container whose log explains a failure, or None where none can."""
    if failure is None or not failure.container or failure.reason not in _EXPLAINED:
        return None
    return failure.pod, failure.container


def failure_log_request(
    observed: ObservedObjects, decision: Decision, now: datetime
) -> LogRequest | None:
    """The log that explains the decision's failure, or None where there is none."""
    failure = decision.failure
    if failure is None or failed_container(failure) is None:
        return None
    pod = next((p for p in observed.pods if name_of(p) == failure.pod), None)
    if pod is None:
        return None
    status = find_by_name([*init_statuses(pod), *main_statuses(pod)], failure.container)
    if failure.exit_code is None and status in init_statuses(pod):
        return None
    # Once its log has said what is wrong, a run is not looked at again.
    since = unready_since(pod) if failure.reason is FailureReason.NOT_ANSWERING else None
    return LogRequest(
        failure.pod,
        str(pod["metadata"]["namespace"]),
        failure.container,
        previous=running_since(status) is not None and failure.exit_code is not None,
        restart_count=failure.restart_count,
        age=doublings(since, now, GRACE_PERIODS) if since else 0,
        failed=since is not None and decision.state in (State.FAILED, State.DEGRADED),
        noise=_probe_marks(pod, failure.container),
        output=observed.output_policy.gate_for_container(pod, failure.container),
    )


def startup_log_request(observed: ObservedObjects, facts: Facts) -> LogRequest | None:
    """The log of the container that a new pod's start waits for, or None where none runs long."""
    starting = next(
        (c.starting for c in facts.components if c.starting and c.starting.log_read), None
    )
    if starting is None:
        return None
    pod = next(p for p in observed.pods if name_of(p) == starting.pod)
    status = find_by_name(init_statuses(pod), starting.container)
    return LogRequest(
        starting.pod,
        str(pod["metadata"]["namespace"]),
        starting.container,
        previous=False,
        restart_count=int(status.get("restartCount") or 0),
        look=starting.log_read,
        output=observed.output_policy.gate_for_container(pod, starting.container),
    )


async def fetch_log(api: ApiServer, wanted: LogRequest) -> LogExcerpt:
    """An excerpt of the log, the oldest line first; empty where there is no log.

    Raises Unreachable, and Unanswered where the node could not be asked.
    """
    path = f"/api/v1/namespaces/{wanted.namespace}/pods/{wanted.pod}/log"
    query = {
        "container": wanted.container,
        "previous": str(wanted.previous).lower(),
        # With limitBytes the server would keep the head of these, and the end is wanted.
        "tailLines": str(ASKED_LINES),
        "timestamps": str(wanted.look > 0).lower(),
    }
    tail, cut = b"", False
    async with api.open_stream(path, query, idle_timeout=IDLE_TIMEOUT) as response:
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Unanswered(f"{response.status} for the log of {wanted.pod}")
        if response.status != HTTPStatus.OK:
            return LogExcerpt(readable=False)
        async for chunk in response.content.iter_chunked(READ_BYTES):
            tail += chunk
            cut, tail = cut or len(tail) > READ_BYTES, tail[-READ_BYTES:]
    # Half a line may begin within a secret, whose rest would not be known for one.
    whole = tail.partition(b"\n")[2] if cut else tail
    text = whole.decode(errors="replace")
    return timed_excerpt(text, wanted) if wanted.look else excerpt(text, wanted)


def timed_excerpt(text: str, wanted: LogRequest) -> LogExcerpt:
    """The excerpt of a text whose lines begin with the times at which they were written."""
    split = [line.partition(" ") for line in text.split("\n") if line]
    plain = "\n".join(line for _, _, line in split)
    last = next(reversed(plain_lines(wanted.output.shown(plain))), "")[:MOST_OF_LAST_LINE]
    written_at = _written_at(split[-1][0] if split else "")
    return replace(excerpt(plain, wanted), last_line=last, written_at=written_at)


def _written_at(stamp: str) -> datetime | None:
    try:
        return datetime.fromisoformat(stamp)
    except ValueError:
        return None


def excerpt(text: str, wanted: LogRequest) -> LogExcerpt:
    """The last lines that are worth showing, at most MOST_LINES and MOST_BYTES, or why they are
    held back; what they say of the model's load is known all the same."""
    load_failed = reports_failed_load(_telling(without_controls(text), wanted))
    return LogExcerpt(_telling(wanted.output.shown(text), wanted), load_failed=load_failed)


def _telling(text: str, wanted: LogRequest) -> tuple[str, ...]:
    lines = plain_lines(text)
    return excerpt_of([line for line in lines if not any(mark in line for mark in wanted.noise)])


def _probe_marks(pod: Object, container: str) -> tuple[str, ...]:
    spec = find_by_name(get_list(pod, "spec", "containers"), container)
    probes = ("readinessProbe", "livenessProbe", "startupProbe")
    paths = {str(get_map(spec, probe, "httpGet").get("path", "")) for probe in probes}
    return ("kube-probe", *(f" {path} " for path in sorted(paths - {"", "/"})))
