"""Each way in which a first rollout fails, all at once: the reason that is told, and how soon.

`python -m tests.cluster.failures` prints the table on a lab of its own.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modelservice.v1 import inference_service_pb2 as services_pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from tests.refusals import Refusal

from .asking import Reason, Spec, State, container, deploy, model
from .lab import Cluster, booted_lab, wait_until
from .recording import Recording, Until
from .serving import install, serving

TIMEOUT = 120.0


@dataclass(frozen=True)
class Case:
    """A wish that cannot come true. `wait`: how long the contract lets it pass for a delay, in
    seconds."""

    what: str
    spec: Spec
    reason: str
    wait: float = 0.0


CASES = (
    Case("image missing", container("lab/missing:1"), "IMAGE_PULL"),
    Case("crash loop", container("lab/crash:3"), "CRASH_LOOP"),
    Case("out of memory", container("lab/crash:137"), "OUT_OF_MEMORY"),
    Case("storage initializer fails", model("lab-init-fails"), "STORAGE_DOWNLOAD"),
    Case("unknown model format", model("no-such-format"), "NO_RUNTIME", 2.0),
    Case("unknown runtime", model(runtime="no-such-runtime"), "NO_RUNTIME", 2.0),
    Case("storage scheme nobody handles", model(uri="ftp://host/model"), "STORAGE_SCHEME", 2.0),
    Case("quota", container(), "QUOTA", 10.0),
    Case("unschedulable", container(node_selector={"no": "such-node"}), "UNSCHEDULABLE", 60.0),
)
NO_PODS = "quota"


@dataclass(frozen=True)
class Told:
    """How the wait for a rollout ended. `seconds` count from the Deploy's answer."""

    case: Case
    rollout_id: str
    state: services_pb.InferenceServiceStatus.State.ValueType
    refusal: Refusal
    seconds: float

    @property
    def row(self) -> str:
        failure = self.refusal.failure
        cells = [
            self.case.what,
            State.Name(self.state).removeprefix("STATE_"),
            Reason.Name(failure.reason).removeprefix("REASON_"),
            f"{self.refusal.code.name} / {self.refusal.reason}",
            f"{self.seconds:.1f}",
            f"{self.case.wait:.0f}",
            failure.message,
        ]
        return "| " + " | ".join(cells) + " |"


HEADER = (
    "| failure | state | reason | the wait ends with | seconds until told | of these by design"
    " | message |\n|---|---|---|---|---|---|---|"
)


def table(told: list[Told]) -> str:
    """For people, in Markdown."""
    return "\n".join([HEADER, *(each.row for each in told)])


def fail_all(cluster: Cluster, stub: ModelServiceStub) -> list[Told]:
    """Deploy every case at once, and wait until each is told."""
    with _namespace(cluster) as roomy, _namespace(cluster) as full:
        _forbid_pods(cluster, full)
        watched = [
            _watched(stub, full if case.what == NO_PODS else roomy, number, case)
            for number, case in enumerate(CASES)
        ]
        return [_told(*each) for each in watched]


def _watched(
    stub: ModelServiceStub, namespace: str, number: int, case: Case
) -> tuple[Case, str, float, Recording]:
    name = f"fails-{number}"
    answer = deploy(stub, namespace, name, case.spec)
    answered = time.monotonic()
    recording = Recording(
        stub, namespace, name, until=Until.UNTIL_READY, rollout_id=answer.rollout_id
    )
    return case, answer.rollout_id, answered, recording


def _told(case: Case, rollout_id: str, answered: float, recording: Recording) -> Told:
    refusal = recording.end(TIMEOUT)
    assert refusal is not None, f"{case.what}: READY\n{recording.told()}"
    state = recording.services[-1].status.state
    return Told(case, rollout_id, state, refusal, recording.ended_at - answered)


@contextmanager
def _namespace(cluster: Cluster) -> Iterator[str]:
    name = f"failures-{uuid.uuid4().hex[:8]}"
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    cluster.apply(manifest)
    yield name
    cluster.delete(manifest)


def _forbid_pods(cluster: Cluster, namespace: str) -> None:
    quota = cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "no-pods", "namespace": namespace},
            "spec": {"hard": {"pods": "0"}},
        }
    )
    path = cluster.path_of(quota)
    wait_until(lambda: cluster.get(path).get("status", {}).get("hard"), "the quota holds")


def main() -> None:
    with (
        booted_lab() as lab,
        tempfile.TemporaryDirectory() as folder,
        serving(install(lab), Path(folder)) as replicas,
    ):
        print(table(fail_all(lab, replicas.start().stub)))


if __name__ == "__main__":
    main()
