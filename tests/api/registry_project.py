"""What tests register through the stub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from modelservice.v1 import registry_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import (
    InferenceServiceSpec,
    ModelFormat,
    RegisteredModelPredictor,
)
from modelservice.v1.model_service_pb2 import DeployRequest
from modelservice.v1.registry_pb2 import ModelVersion, RegisteredModel, ServingEnvironment
from modelservice.v1.registry_service_pb2_grpc import RegistryServiceStub

FILES = {"storage_uri": "s3://models/fraud/1", "format": ModelFormat(name="sklearn", version="1")}

READY = ModelVersion.STATE_READY
PENDING = ModelVersion.STATE_PENDING
ARCHIVED = ModelVersion.STATE_ARCHIVED


@dataclass(frozen=True)
class Project:
    """A project's own part of the registry."""

    stub: RegistryServiceStub
    name: str

    def model(self, name: str = "fraud", **fields: Any) -> RegisteredModel:
        """A new model."""
        model = RegisteredModel(project=self.name, name=name, **fields)
        request = pb.CreateRegisteredModelRequest(model=model)
        return self.stub.CreateRegisteredModel(request).model

    def version(self, version: str = "1", model: str = "fraud", **fields: Any) -> ModelVersion:
        """A new version, of files unless it is an image."""
        artifact = {} if "image" in fields else FILES
        made = ModelVersion(project=self.name, model=model, version=version, **(artifact | fields))
        return self.stub.CreateModelVersion(pb.CreateModelVersionRequest(version=made)).version

    def environment(self, name: str = "staging", **fields: Any) -> ServingEnvironment:
        """A new environment."""
        environment = ServingEnvironment(project=self.name, name=name, **fields)
        request = pb.CreateServingEnvironmentRequest(environment=environment)
        return self.stub.CreateServingEnvironment(request).environment

    def get_model(self, name: str = "fraud") -> RegisteredModel:
        request = pb.GetRegisteredModelRequest(project=self.name, name=name)
        return self.stub.GetRegisteredModel(request).model

    def get_version(self, version: str = "1", model: str = "fraud") -> ModelVersion:
        request = pb.GetModelVersionRequest(project=self.name, model=model, version=version)
        return self.stub.GetModelVersion(request).version

    def get_environment(self, name: str = "staging") -> ServingEnvironment:
        request = pb.GetServingEnvironmentRequest(project=self.name, name=name)
        return self.stub.GetServingEnvironment(request).environment

    def update_model(self, *mask: str, name: str = "fraud", **fields: Any) -> RegisteredModel:
        request = self.model_update(*mask, name=name, **fields)
        return self.stub.UpdateRegisteredModel(request).model

    def model_update(
        self, *mask: str, name: str = "fraud", **fields: Any
    ) -> pb.UpdateRegisteredModelRequest:
        model = RegisteredModel(project=self.name, name=name, **fields)
        return pb.UpdateRegisteredModelRequest(model=model, update_mask=FieldMask(paths=mask))

    def update_version(self, *mask: str, version: str = "1", **fields: Any) -> ModelVersion:
        request = self.version_update(*mask, version=version, **fields)
        return self.stub.UpdateModelVersion(request).version

    def version_update(
        self, *mask: str, version: str = "1", **fields: Any
    ) -> pb.UpdateModelVersionRequest:
        changed = ModelVersion(project=self.name, model="fraud", version=version, **fields)
        return pb.UpdateModelVersionRequest(version=changed, update_mask=FieldMask(paths=mask))

    def environment_update(self, *mask: str, **fields: Any) -> pb.UpdateServingEnvironmentRequest:
        changed = ServingEnvironment(project=self.name, name="staging", **fields)
        return pb.UpdateServingEnvironmentRequest(
            environment=changed, update_mask=FieldMask(paths=mask)
        )

    def deploy(self, version: str = "", name: str = "", **options: Any) -> DeployRequest:
        """The Deploy of the model to staging."""
        registered = RegisteredModelPredictor(
            project=self.name, model="fraud", version=version, environment="staging"
        )
        spec = InferenceServiceSpec(registered_model=registered, **options)
        return DeployRequest(name=name, spec=spec)
