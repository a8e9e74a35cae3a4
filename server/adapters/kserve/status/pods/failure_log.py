"""Fetch the log that explains a failure, and keep a bounded excerpt of its last lines."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from http import HTTPStatus

from server.adapters.kserve.client import ApiServer, Unanswered
from server.adapters.kserve.objects import Object, find_by_name, get_list, get_map
from server.adapters.kserve.status.observed_objects import LogExcerpt, ObservedObjects
from server.adapters.kserve.status.pods.pod import Pod, doublings, parse_pod
from server.domain.rollout.container_output import OutputGate, without_controls
from server.domain.rollout.facts import Facts
from server.domain.rollout.log_excerpt import excerpt_of, plain_lines, reports_failed_load
from server.domain.rollout.state_table import Decision
from server.domain.rollout.status import Failure, FailureReason, State

# More lines than are shown: those of probes and most of a traceback are left out.
REQUESTED_LINES = 200
READ_BYTES = 2**16
IDLE_TIMEOUT = 5.0
LONGEST_LAST_LINE = 300

_EXPLAINED = (
    FailureReason.STORAGE_DOWNLOAD,
    FailureReason.MODEL_LOAD,
    FailureReason.CRASH_LOOP,
    FailureReason.OUT_OF_MEMORY,
    FailureReason.NOT_ANSWERING,
)


@dataclass(frozen=True, slots=True)
class LogRequest:
    """Identify one read of the log of one run of a container.

    `previous`: the run before the present one. `age` and `failed` number the reads of a run that
    does not become ready: one each time that this has lasted twice as long, and one once the
    rollout has failed. `log_read` numbers the reads of a run that others wait for, for which the
    time of the last line is read too; else 0. `noise`: marks of a probe's lines. `output`: decides
    which lines may be shown.
    """

    pod: str
    namespace: str
    container: str
    previous: bool
    restart_count: int
    age: int = 0
    failed: bool = False
    log_read: int = 0
    noise: tuple[str, ...] = ()
    output: OutputGate = field(default=OutputGate(), repr=False)

    @property
    def source(self) -> tuple[str, str]:
        """Return the pod and the container."""
        return self.pod, self.container


def failed_container(failure: Failure | None) -> tuple[str, str] | None:
    """Return the pod and container whose log explains a failure, or None."""
    if failure is None or not failure.container or failure.reason not in _EXPLAINED:
        return None
    return failure.pod, failure.container


def failure_log_request(
    observed: ObservedObjects, decision: Decision, now: datetime
) -> LogRequest | None:
    """Return the log that explains the decision's failure, or None."""
    failure = decision.failure
    if failure is None or failed_container(failure) is None:
        return None
    pod = _pod(observed, failure.pod)
    if pod is None:
        return None
    init_names = [c.name for c in pod.init_containers]
    if failure.exit_code is None and failure.container in init_names:
        return None
    container = next((c for c in pod.containers if c.name == failure.container), None)
    runs = container is not None and container.running_since is not None
    # A run is not read again once its log has explained the failure.
    since = pod.unready_since if failure.reason is FailureReason.NOT_ANSWERING else None
    return LogRequest(
        failure.pod,
        pod.namespace,
        failure.container,
        previous=runs and failure.exit_code is not None,
        restart_count=failure.restart_count,
        age=doublings(since, now) if since else 0,
        failed=since is not None and decision.state in (State.FAILED, State.DEGRADED),
        noise=_probe_marks(pod.obj, failure.container),
        output=observed.output_policy.gate_for_container(pod.obj, failure.container),
    )


def startup_log_request(observed: ObservedObjects, facts: Facts) -> LogRequest | None:
    """Return the log of the container that a new pod waits for, or None if none takes long."""
    slow = (c.starting for c in facts.components if c.starting and c.starting.log_read)
    starting = next(slow, None)
    pod = _pod(observed, starting.pod) if starting else None
    if starting is None or pod is None:
        return None
    counts = {c.name: c.restart_count for c in reversed(pod.init_containers)}
    return LogRequest(
        starting.pod,
        pod.namespace,
        starting.container,
        previous=False,
        restart_count=counts.get(starting.container, 0),
        log_read=starting.log_read,
        output=observed.output_policy.gate_for_container(pod.obj, starting.container),
    )


async def fetch_log(api: ApiServer, request: LogRequest) -> LogExcerpt:
    """Fetch an excerpt of the log, the oldest line first; empty if there is no log.

    Raises Unreachable, and Unanswered if the node did not answer the API server.
    """
    path = f"/api/v1/namespaces/{request.namespace}/pods/{request.pod}/log"
    query = {
        "container": request.container,
        "previous": str(request.previous).lower(),
        # limitBytes would keep the beginning of these lines, and the end is needed.
        "tailLines": str(REQUESTED_LINES),
        "timestamps": str(request.log_read > 0).lower(),
    }
    tail, cut = b"", False
    async with api.open_stream(path, query, idle_timeout=IDLE_TIMEOUT) as response:
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Unanswered(f"{response.status} for the log of {request.pod}")
        if response.status != HTTPStatus.OK:
            return LogExcerpt(readable=False)
        async for chunk in response.content.iter_chunked(READ_BYTES):
            tail += chunk
            cut, tail = cut or len(tail) > READ_BYTES, tail[-READ_BYTES:]
    # The first line may begin within a secret, the rest of which would not be masked.
    whole = tail.partition(b"\n")[2] if cut else tail
    text = whole.decode(errors="replace")
    return timed_excerpt(text, request) if request.log_read else excerpt(text, request)


def timed_excerpt(text: str, request: LogRequest) -> LogExcerpt:
    """Return the excerpt of a text whose lines begin with the times at which they were written."""
    split = [line.partition(" ") for line in text.split("\n") if line]
    plain = "\n".join(line for _, _, line in split)
    last = next(reversed(plain_lines(request.output.shown(plain))), "")[:LONGEST_LAST_LINE]
    try:
        written_at = datetime.fromisoformat(split[-1][0]) if split else None
    except ValueError:
        written_at = None
    return replace(excerpt(plain, request), last_line=last, written_at=written_at)


def excerpt(text: str, request: LogRequest) -> LogExcerpt:
    """Return the last lines worth showing, at most MOST_LINES and MOST_BYTES, or why they are not
    shown. A failed load is detected in either case."""
    load_failed = reports_failed_load(_excerpt_lines(without_controls(text), request))
    return LogExcerpt(_excerpt_lines(request.output.shown(text), request), load_failed=load_failed)


def _excerpt_lines(text: str, request: LogRequest) -> tuple[str, ...]:
    lines = plain_lines(text)
    return excerpt_of([line for line in lines if not any(mark in line for mark in request.noise)])


def _pod(observed: ObservedObjects, name: str) -> Pod | None:
    pods = observed.cache.parse_each(parse_pod, observed.pods)
    return next((p for p in pods if p.name == name), None)


def _probe_marks(pod: Object, container: str) -> tuple[str, ...]:
    spec = find_by_name(get_list(pod, "spec", "containers"), container)
    probes = ("readinessProbe", "livenessProbe", "startupProbe")
    paths = {str(get_map(spec, probe, "httpGet").get("path", "")) for probe in probes}
    return ("kube-probe", *(f" {path} " for path in sorted(paths - {"", "/"})))
