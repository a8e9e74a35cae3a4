"""Wishes that cannot come true, deployed all at once: what is told of each, and how soon."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property

from grpc import StatusCode
from modelservice.v1 import inference_service_pb2 as services_pb
from modelservice.v1.inference_service_pb2 import Failure, InferenceService
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, Lab
from tests.refusals import Refusal

from .asking import Reason, Spec, State, deploy
from .namespace_watch import NamespaceWatch, Sight
from .quotas import forbid
from .recording import Recording, Until
from .symptoms import Symptom, about, cause_by_kserve, pod_in_trouble

Say = Callable[[str], None]

# What a rollout fails with while its cause is not known yet: a log is read after the exit, and a
# deadline can pass before the minute after which a container that is not ready is named.
BEFORE_THE_CAUSE = {"MODEL_LOAD": "CRASH_LOOP", "NOT_ANSWERING": "PROGRESS_DEADLINE"}


@dataclass(frozen=True)
class Case:
    """A wish that cannot come true, and what is to be told of it.

    `state`: where it is to come to rest. `log`: what a line of the log has. `wait`: how long the
    contract lets it pass for a delay, in seconds. `symptom`: what of the cluster shows it first.
    `limit`: in what it is not the real thing. `no_pods`: its namespace has no room for one. A case
    without a reason is none: it must be READY.
    """

    what: str
    spec: Spec
    reason: str = ""
    state: str = "FAILED"
    container: str = ""
    exit_code: int | None = None
    log: str = ""
    wait: float = 0.0
    symptom: Symptom = pod_in_trouble
    limit: str = ""
    no_pods: bool = False


@dataclass(frozen=True)
class Moments:
    """In seconds after the Deploy's answer; None for never.

    `named`: the reason was told. `rested`: with the state in which it is to rest. `logged`: with
    the line of the log. `shown`: the cluster showed it. `written`: it was so in the cluster, in
    whole seconds. `by_kserve`: KServe's status gave a cause.
    """

    named: float | None
    rested: float | None
    logged: float | None
    shown: float | None
    written: float | None
    by_kserve: float | None


class Trial:
    """One case, deployed when it is made, and everything told of it until `close`."""

    def __init__(
        self, case: Case, stub: ModelServiceStub, watch: NamespaceWatch, name: str
    ) -> None:
        self.case = case
        self.name = name
        self._stub = stub
        self._watch = watch
        answer = deploy(stub, watch.namespace, name, case.spec)
        self.answered, self._answered_at = time.monotonic(), time.time()
        self.rollout_id = answer.rollout_id
        self._told = Recording(stub, watch.namespace, name)
        self._wait = self._until_ready()

    def close(self) -> None:
        """Listen no longer."""
        self._told.close()
        self._wait.close()

    @property
    def namespace(self) -> str:
        """Where it is deployed."""
        return self._watch.namespace

    @property
    def told(self) -> list[tuple[float, InferenceService]]:
        """Every message, with the seconds after the Deploy's answer."""
        return [(at - self.answered, service) for at, service in self._told.timed()]

    @cached_property
    def refusal(self) -> Refusal | None:
        """How the wait for READY ended; to be asked once the case is at rest."""
        return self._wait.end()

    @property
    def decided_by(self) -> InferenceService:
        """The last message of the wait for READY, once that has ended."""
        return self._wait.services[-1]

    def refused_again(self) -> Refusal | None:
        """How a wait for READY ends that begins now."""
        return self._until_ready().end()

    @property
    def last(self) -> InferenceService:
        """As it was told last."""
        return self.told[-1][1]

    @property
    def failure(self) -> Failure:
        """The last failure told for the expected reason; empty where there was none."""
        return next((s.status.failure for _, s in reversed(self.told) if self._named(s)), Failure())

    @property
    def log_line(self) -> str:
        """The line that the case asks for, or else the last one."""
        lines = list(self.failure.log_lines)
        wanted = [line for line in lines if self.case.log and self.case.log in line]
        return (wanted or lines or [""])[-1]

    @property
    def at_rest(self) -> bool:
        """All that is to be told was told."""
        moments = self.moments()
        return moments.rested is not None and (moments.logged is not None or not self.case.log)

    @property
    def was_ready(self) -> bool:
        """READY was told, if only once."""
        return any(s.status.state == State.STATE_READY for _, s in self.told)

    def moments(self) -> Moments:
        """When what became known."""
        return Moments(
            named=self._first(self._named),
            rested=self._first(lambda s: self._named(s) and self._rests(s)),
            logged=self._first(lambda s: self._named(s) and self._has_line(s)),
            shown=self._first_seen(self.case.symptom),
            written=self._first_seen(self.case.symptom, lambda sight: sight.written_at),
            by_kserve=self._first_seen(lambda s: s.kind == "service" and cause_by_kserve(s.object)),
        )

    def kserves_cause(self) -> str:
        """What KServe's own status gave as the cause, at first."""
        services = (s for s in about(self.name, self._watch.seen) if s.kind == "service")
        return next((cause for s in services if (cause := cause_by_kserve(s.object))), "")

    def _until_ready(self) -> Recording:
        until = {"until": Until.UNTIL_READY, "rollout_id": self.rollout_id}
        return Recording(self._stub, self.namespace, self.name, **until)

    def _first(self, condition: Callable[[InferenceService], object]) -> float | None:
        return next((at for at, service in self.told if condition(service)), None)

    def _first_seen(
        self, symptom: Callable[[Sight], object], when: Callable[[Sight], float] = lambda s: s.at
    ) -> float | None:
        seen = about(self.name, self._watch.seen)
        return next((when(s) - self._answered_at for s in seen if symptom(s)), None)

    def _named(self, service: InferenceService) -> bool:
        expected = self.case.reason or "UNSPECIFIED"
        return Reason.Name(service.status.failure.reason) == f"REASON_{expected}"

    def _rests(self, service: InferenceService) -> bool:
        return State.Name(service.status.state) == f"STATE_{self.case.state}"

    def _has_line(self, service: InferenceService) -> bool:
        return any(self.case.log in line for line in service.status.failure.log_lines)


@contextmanager
def deployed(
    lab: Lab,
    stub: ModelServiceStub,
    cases: Sequence[Case],
    prepare: Callable[[str], object] = lambda _: None,
) -> Iterator[list[Trial]]:
    """Every case at once, in fresh namespaces; `prepare` is called with the one that has room."""
    with ExitStack() as stack:
        roomy, full = (stack.enter_context(_watched(lab)) for _ in range(2))
        _forbid_pods(lab, full.namespace)
        prepare(roomy.namespace)
        yield [
            _closing(stack, Trial(case, stub, full if case.no_pods else roomy, f"fails-{number}"))
            for number, case in enumerate(cases)
        ]


def follow(
    trials: Sequence[Trial], seconds: float, *, at_least: float = 0.0, say: Say = print
) -> float:
    """Return when all are at rest and `at_least` so many seconds are over, or `seconds` are, how
    long that was; `say` gets a line for each that comes to rest meanwhile."""
    began = time.monotonic()
    waiting = list(trials)
    while (passed := time.monotonic() - began) < seconds and (waiting or passed < at_least):
        rested = [trial for trial in waiting if trial.at_rest]
        for trial in rested:
            waiting.remove(trial)
            say(f"{trial.moments().rested:7.1f} s  {trial.case.what}: {trial.last.status.message}")
        time.sleep(0.2)
    for trial in waiting:
        say(f"not within {seconds:.0f} s  {trial.case.what}: {trial.last.status.message}")
    return time.monotonic() - began


def faults(trial: Trial) -> list[str]:
    """In what it was told otherwise than it should be."""
    case, failure, moments = trial.case, trial.failure, trial.moments()
    if not case.reason:
        return [] if moments.rested is not None else [f"not {case.state}"]
    checks = {
        f"{case.state} for {case.reason} was never told": moments.rested is not None,
        "READY was told": not trial.was_ready,
        f"last told for another reason: {_reason(trial.last)}": _reason(trial.last) == case.reason,
        f"the container is {failure.container!r}": failure.container == case.container,
        f"the exit code is {_exit_code(failure)}": _exit_code(failure) == case.exit_code,
        f"no line of the log has {case.log!r}": moments.logged is not None or not case.log,
        "told before it was so": not _is_early(moments),
        "no message": bool(failure.message),
        "no remedy": bool(failure.remedy),
    }
    return [fault for fault, right in checks.items() if not right]


def assert_wait_ended(trial: Trial) -> None:
    """The wait for READY ended with what its last message told, be it the whole cause or not."""
    what, refused = trial.case.what, trial.refusal
    assert refused, what
    assert refused.code is StatusCode.FAILED_PRECONDITION, what
    assert refused.reason == "ROLLOUT_FAILED", what
    failure, told = refused.failure, trial.decided_by.status
    assert told.state in (State.STATE_FAILED, State.STATE_DEGRADED), what
    assert failure.rollout_id == trial.rollout_id, what
    reason = _reason(trial.decided_by)
    assert reason in (trial.case.reason, BEFORE_THE_CAUSE.get(trial.case.reason)), what
    assert failure.reason == told.failure.reason, what
    # Where a call's details have no room for all lines, the last ones.
    shown, lines = list(failure.log_lines), list(told.failure.log_lines)
    assert shown == lines[len(lines) - len(shown) :], what
    assert bool(shown) == bool(lines), what


def _is_early(moments: Moments) -> bool:
    # What KServe refuses shows in no pod.
    if moments.named is None or moments.written is None:
        return False
    # A log can say it while its container still runs, on a slow machine for long.
    return moments.named < moments.written and moments.named != moments.logged


def _reason(service: services_pb.InferenceService) -> str:
    return Reason.Name(service.status.failure.reason).removeprefix("REASON_")


def _exit_code(failure: Failure) -> int | None:
    return failure.exit_code if failure.HasField("exit_code") else None


def _closing(stack: ExitStack, trial: Trial) -> Trial:
    stack.callback(trial.close)
    return trial


@contextmanager
def _watched(lab: Lab) -> Iterator[NamespaceWatch]:
    name = f"failures-{uuid.uuid4().hex[:8]}"
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    lab.apply(manifest)
    watch = NamespaceWatch(lab, lab.tokens["admin"], name)
    try:
        yield watch
    finally:
        watch.close()
        lab.delete(manifest)


def _forbid_pods(cluster: Cluster, namespace: str) -> None:
    metadata = {"name": "one", "namespace": namespace}
    spec = {"containers": [{"name": "one", "image": "any:1"}]}
    one = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    forbid(cluster, namespace, "pods", one)
