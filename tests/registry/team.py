"""A team that deploys its registered model, and where its records disagree with the cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from modelservice.v1 import inference_service_pb2 as services_pb
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1 import registry_pb2
from modelservice.v1 import registry_service_pb2 as registry
from modelservice.v1.inference_service_pb2 import InferenceService, InferenceServiceStatus
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub
from modelservice.v1.registry_pb2 import ModelDeployment
from modelservice.v1.registry_service_pb2_grpc import RegistryServiceStub

from tests.patience import PATIENCE_SECONDS
from tests.refusals import refusal_of

Answer = TypeVar("Answer", bound=Message)

PROJECT, MODEL, ENVIRONMENT = "risk", "fraud", "staging"
CALL_SECONDS = PATIENCE_SECONDS
# After 60 s the follower gives up what no service carries.
GIVEN_UP_SECONDS = 60.0 + PATIENCE_SECONDS

PENDING = ModelDeployment.STATE_PENDING
DEPLOYED = ModelDeployment.STATE_DEPLOYED
SUPERSEDED = ModelDeployment.STATE_SUPERSEDED
UNDEPLOYED = ModelDeployment.STATE_UNDEPLOYED
FAILED = ModelDeployment.STATE_FAILED


@dataclass(frozen=True)
class Team:
    """The callers of one server; `namespace` is their environment's."""

    channel: grpc.Channel
    namespace: str = ENVIRONMENT

    @property
    def models(self) -> ModelServiceStub:
        return ModelServiceStub(self.channel)

    @property
    def registry(self) -> RegistryServiceStub:
        return RegistryServiceStub(self.channel)

    def register(self, versions: Mapping[str, registry_pb2.ModelVersion]) -> None:
        """The model with these versions, by name, and the environment."""
        model = registry_pb2.RegisteredModel(project=PROJECT, name=MODEL)
        self.registry.CreateRegisteredModel(registry.CreateRegisteredModelRequest(model=model))
        for name, version in versions.items():
            named = registry_pb2.ModelVersion(project=PROJECT, model=MODEL, version=name)
            named.MergeFrom(version)
            self.registry.CreateModelVersion(registry.CreateModelVersionRequest(version=named))
        environment = registry_pb2.ServingEnvironment(
            project=PROJECT, name=ENVIRONMENT, namespace=self.namespace
        )
        self.registry.CreateServingEnvironment(
            registry.CreateServingEnvironmentRequest(environment=environment)
        )

    def deploy(self, name: str, version: str, **fields: Any) -> pb.DeployResponse:
        return _patiently(self.models.Deploy, wish(name, version, **fields))

    def undeploy(self, name: str) -> None:
        request = pb.DeleteRequest(namespace=self.namespace, name=name, allow_missing=True)
        self.models.Delete(request, timeout=CALL_SECONDS)

    def record(self, deployment_id: str) -> ModelDeployment:
        request = registry.GetModelDeploymentRequest(project=PROJECT, id=deployment_id)
        return _patiently(self.registry.GetModelDeployment, request).deployment

    def records(self) -> dict[str, ModelDeployment]:
        """All of them, by id."""
        request = registry.ListModelDeploymentsRequest(project=PROJECT, page_size=1000)
        found: dict[str, ModelDeployment] = {}
        while True:
            answer = _patiently(self.registry.ListModelDeployments, request)
            found |= {record.id: record for record in answer.deployments}
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    def services(self) -> list[InferenceService]:
        """Those of the environment's namespace."""
        request = pb.ListRequest(namespace=self.namespace, page_size=1000)
        found: list[InferenceService] = []
        while True:
            answer = self.models.List(request, timeout=CALL_SECONDS)
            found += answer.services
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    def disagreements(self) -> list[str]:
        """Where the records do not say what the cluster says."""
        carried = {each.deployment_id: each for each in self.services() if each.deployment_id}
        records = self.records()
        lost = [
            f"{service.name}: its record is lost"
            for deployment_id, service in carried.items()
            if deployment_id not in records
        ]
        wrong = (
            f"{record.service}, {why}: {record}"
            for record in records.values()
            for why in _disagreements(record, carried.get(record.id))
        )
        return [*lost, *wrong]

    def wait_until_agreed(self, within: float = GIVEN_UP_SECONDS) -> None:
        eventually(lambda: self.disagreements() == [], self.disagreements, within)


def wish(name: str, version: str, **fields: Any) -> pb.DeployRequest:
    """A Deploy of a version to the environment."""
    predictor = services_pb.RegisteredModelPredictor(
        project=PROJECT, model=MODEL, version=version, environment=ENVIRONMENT
    )
    spec = services_pb.InferenceServiceSpec(registered_model=predictor)
    return pb.DeployRequest(name=name, spec=spec, **fields)


def _patiently(call: Callable[..., Answer], request: Message) -> Answer:
    """Ask again while the server takes its database for gone, which is silent on a slow machine."""
    ends = time.monotonic() + CALL_SECONDS
    while True:
        try:
            return call(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            if refusal_of(error).reason != "REGISTRY_UNAVAILABLE" or time.monotonic() > ends:
                raise
        time.sleep(0.2)


def eventually(
    true: Callable[[], bool], else_told: Callable[[], object], within: float = CALL_SECONDS
) -> None:
    ends = time.monotonic() + within
    while not true():
        assert time.monotonic() < ends, else_told()
        time.sleep(0.1)


def _disagreements(record: ModelDeployment, service: InferenceService | None) -> Iterator[str]:
    if service is None:
        if not record.HasField("end_time"):
            yield "it has not ended, and no service has it"
        return
    if record.HasField("end_time"):
        yield "it has ended, and a service carries it"
    state = service.status.state
    if state == InferenceServiceStatus.STATE_DELETING:
        if record.desired_state != ModelDeployment.DESIRED_STATE_UNDEPLOYED:
            yield "it is being deleted"
        return
    if (record.service_uid, record.rollout_id) != (service.uid, service.rollout_id):
        yield "its rollout is another"
    if state == InferenceServiceStatus.STATE_READY and record.state != DEPLOYED:
        yield "it is READY"
    if service.status.failure != record.failure:
        yield "it has other trouble"
