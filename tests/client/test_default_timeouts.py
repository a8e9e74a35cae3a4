"""How long clients of both kinds, and modelctl, wait for a rollout by default: until it has failed
by its own deadline, since only a rollout that has failed is rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from modelservice.v1.inference_service_pb2 import (
    InferenceService,
    InferenceServiceSpec,
    InferenceServiceStatus,
)
from modelservice.v1.model_service_pb2 import DeployResponse, GetResponse
from modelservice.v1.model_service_pb2 import WatchStatusResponse as Message
from modelservice.v1.model_service_pb2_grpc import (
    ModelServiceServicer,
    add_ModelServiceServicer_to_server,
)
from modelservice.v1.rollout_service_pb2 import ListRevisionsResponse
from modelservice.v1.rollout_service_pb2_grpc import (
    RolloutServiceServicer,
    add_RolloutServiceServicer_to_server,
)
from modelservice_client import RolledBack

from tests.client.cli.running import modelctl
from tests.client.faces import client
from tests.patience import PATIENCE_SECONDS

OWN = InferenceServiceSpec(ready_timeout=Duration(seconds=840))
READY = InferenceServiceStatus(state=InferenceServiceStatus.STATE_READY)


class Patient(ModelServiceServicer, RolloutServiceServicer):
    """Answers each write with a service of this spec, which is ready at once. `waits` has how long
    each watch may last, `fails` the number of watches whose rollout fails."""

    def __init__(self) -> None:
        self.spec = InferenceServiceSpec()
        self.waits: list[float] = []
        self.fails = 0

    @property
    def service(self) -> InferenceService:
        return InferenceService(
            namespace="ns", name="iris", uid="u", rollout_id="u/1", spec=self.spec, status=READY
        )

    def Deploy(self, request: Any, context: grpc.ServicerContext) -> DeployResponse:
        return DeployResponse(service=self.service, rollout_id="u/1")

    Rollback = Start = Deploy

    def Get(self, request: Any, context: grpc.ServicerContext) -> GetResponse:
        return GetResponse(service=self.service)

    def ListRevisions(self, request: Any, context: grpc.ServicerContext) -> ListRevisionsResponse:
        return ListRevisionsResponse()

    def WatchStatus(self, request: Any, context: grpc.ServicerContext) -> Iterator[Message]:
        self.waits.append(context.time_remaining())
        if len(self.waits) <= self.fails:
            info = ErrorInfo(domain="modelservice", reason="ROLLOUT_FAILED")
            status = Status(code=9, message="it failed")
            status.details.add().Pack(info)
            metadata = (("grpc-status-details-bin", status.SerializeToString()),)
            context.set_trailing_metadata(metadata)
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it failed")
        yield Message(type=Message.TYPE_SNAPSHOT, service=self.service)

    def lasts(self, seconds: float, watches: int = 1) -> None:
        """Check how long the watches were to last, and forget them."""
        assert len(self.waits) == watches
        for wait in self.waits:
            # gRPC sends a deadline in seconds, rounded up.
            assert seconds - PATIENCE_SECONDS < wait <= seconds + 1
        self.waits.clear()


@pytest.fixture
def patient() -> Patient:
    return Patient()


@pytest.fixture
def address(patient: Patient) -> Iterator[str]:
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        add_ModelServiceServicer_to_server(patient, server)
        add_RolloutServiceServicer_to_server(patient, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


@pytest.mark.parametrize(("spec", "seconds"), [(InferenceServiceSpec(), 720), (OWN, 960)])
async def test_a_client_waits_120_s_longer_than_the_rollout_has(
    spec: InferenceServiceSpec, seconds: float, kind: str, patient: Patient, address: str
) -> None:
    patient.spec = spec
    async with client(kind, address) as face:
        await face.call("deploy_and_wait", name="iris")
        patient.lasts(seconds)
        await face.call("wait_ready", await face.call("start", "iris"))
        patient.lasts(seconds)
        await face.call("wait_ready", patient.service)
        patient.lasts(seconds)
        # Nothing is known of its spec.
        await face.call("wait_ready", "iris")
        patient.lasts(720)
        await face.call("deploy_and_wait", name="iris", timeout=300)
        patient.lasts(300)


@pytest.mark.parametrize(("spec", "seconds"), [(InferenceServiceSpec(), 720), (OWN, 960)])
async def test_a_rollback_on_failure_has_the_same_time_anew(
    spec: InferenceServiceSpec, seconds: float, kind: str, patient: Patient, address: str
) -> None:
    patient.spec, patient.fails = spec, 1
    async with client(kind, address) as face:
        with pytest.raises(RolledBack):
            await face.call("deploy_and_wait", name="iris", rollback_on_failure=True)
    patient.lasts(seconds, watches=2)
    run = modelctl(*DEPLOY, "--rollback-on-failure", "--server", address)
    assert run.exit_code == 81, run.stderr
    patient.lasts(seconds, watches=2)


DEPLOY = ("deploy", "iris", "--image", "example.org/iris:1")


@pytest.mark.parametrize(
    "words",
    [
        DEPLOY,
        ("restart", "iris"),
        ("rollback", "iris"),
        ("start", "iris"),
        ("status", "iris", "--watch"),
        ("registry", "deploy", "fraud", "scorer", "staging"),
    ],
)
@pytest.mark.parametrize(("spec", "seconds"), [(InferenceServiceSpec(), 720), (OWN, 960)])
def test_modelctl_waits_as_long(
    words: tuple[str, ...],
    spec: InferenceServiceSpec,
    seconds: float,
    patient: Patient,
    address: str,
) -> None:
    patient.spec = spec
    run = modelctl(*words, "--server", address)
    assert run.exit_code == 0, run.stderr
    patient.lasts(seconds)
    run = modelctl(*words, "--server", address, "--timeout", "300")
    assert run.exit_code == 0, run.stderr
    patient.lasts(300)
