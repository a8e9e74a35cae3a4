"""RegistryService: each method reads its request, has it done, and renders the answer."""

from __future__ import annotations

from functools import partial
from typing import Any

from modelservice.v1 import registry_service_pb2 as pb
from modelservice.v1 import registry_service_pb2_grpc

from server.api.registry_requests import (
    deployment_filter_of,
    environment_change_of,
    environment_content_of,
    environment_key_of,
    model_change_of,
    model_content_of,
    model_key_of,
    version_change_of,
    version_content_of,
    version_key_of,
)
from server.api.registry_responses import (
    deployment_message,
    environment_message,
    listed_deployment_message,
    model_message,
    page_of,
    version_message,
)
from server.api.requests import page_size_of
from server.control.registry.deployments import Deployments
from server.control.registry.environments import Environments
from server.control.registry.models import Models
from server.control.registry.versions import Versions
from server.domain.registry.registered import EnvironmentKey, ModelKey, VersionKey

# ruff: noqa: N802  (RPCs' names are the contract's)


class RegistryService(registry_service_pb2_grpc.RegistryServiceServicer):
    """The contract's servicer."""

    def __init__(
        self,
        *,
        models: Models,
        versions: Versions,
        environments: Environments,
        deployments: Deployments,
    ) -> None:
        self._models = models
        self._versions = versions
        self._environments = environments
        self._deployments = deployments

    async def CreateRegisteredModel(
        self, request: pb.CreateRegisteredModelRequest, context: Any
    ) -> pb.CreateRegisteredModelResponse:
        """See the contract."""
        key, content = model_key_of(request.model), model_content_of(request.model)
        model = await self._models.create(key, content)
        return pb.CreateRegisteredModelResponse(model=model_message(model))

    async def GetRegisteredModel(
        self, request: pb.GetRegisteredModelRequest, context: Any
    ) -> pb.GetRegisteredModelResponse:
        """See the contract."""
        model = await self._models.get(ModelKey(request.project, request.name))
        return pb.GetRegisteredModelResponse(model=model_message(model))

    async def ListRegisteredModels(
        self, request: pb.ListRegisteredModelsRequest, context: Any
    ) -> pb.ListRegisteredModelsResponse:
        """See the contract."""
        read, size = partial(self._models.list, request.project), page_size_of(request.page_size)
        models, token = await page_of(read, model_message, size, request.page_token)
        return pb.ListRegisteredModelsResponse(models=models, next_page_token=token)

    async def UpdateRegisteredModel(
        self, request: pb.UpdateRegisteredModelRequest, context: Any
    ) -> pb.UpdateRegisteredModelResponse:
        """See the contract."""
        key, change = model_key_of(request.model), model_change_of(request)
        model = await self._models.update(key, change)
        return pb.UpdateRegisteredModelResponse(model=model_message(model))

    async def DeleteRegisteredModel(
        self, request: pb.DeleteRegisteredModelRequest, context: Any
    ) -> pb.DeleteRegisteredModelResponse:
        """See the contract."""
        key = ModelKey(request.project, request.name)
        await self._models.delete(key, etag=request.etag, allow_missing=request.allow_missing)
        return pb.DeleteRegisteredModelResponse()

    async def CreateModelVersion(
        self, request: pb.CreateModelVersionRequest, context: Any
    ) -> pb.CreateModelVersionResponse:
        """See the contract."""
        key, content = version_key_of(request.version), version_content_of(request.version)
        version = await self._versions.create(key, content)
        return pb.CreateModelVersionResponse(version=version_message(version))

    async def GetModelVersion(
        self, request: pb.GetModelVersionRequest, context: Any
    ) -> pb.GetModelVersionResponse:
        """See the contract."""
        key = VersionKey(request.project, request.model, request.version)
        version = await self._versions.get(key)
        return pb.GetModelVersionResponse(version=version_message(version))

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: Any
    ) -> pb.ListModelVersionsResponse:
        """See the contract."""
        read = partial(self._versions.list, ModelKey(request.project, request.model))
        size = page_size_of(request.page_size)
        versions, token = await page_of(read, version_message, size, request.page_token)
        return pb.ListModelVersionsResponse(versions=versions, next_page_token=token)

    async def UpdateModelVersion(
        self, request: pb.UpdateModelVersionRequest, context: Any
    ) -> pb.UpdateModelVersionResponse:
        """See the contract."""
        key, change = version_key_of(request.version), version_change_of(request)
        version = await self._versions.update(key, change)
        return pb.UpdateModelVersionResponse(version=version_message(version))

    async def DeleteModelVersion(
        self, request: pb.DeleteModelVersionRequest, context: Any
    ) -> pb.DeleteModelVersionResponse:
        """See the contract."""
        key = VersionKey(request.project, request.model, request.version)
        await self._versions.delete(key, etag=request.etag, allow_missing=request.allow_missing)
        return pb.DeleteModelVersionResponse()

    async def CreateServingEnvironment(
        self, request: pb.CreateServingEnvironmentRequest, context: Any
    ) -> pb.CreateServingEnvironmentResponse:
        """See the contract."""
        key = environment_key_of(request.environment)
        content = environment_content_of(request.environment)
        environment = await self._environments.create(key, content)
        return pb.CreateServingEnvironmentResponse(environment=environment_message(environment))

    async def GetServingEnvironment(
        self, request: pb.GetServingEnvironmentRequest, context: Any
    ) -> pb.GetServingEnvironmentResponse:
        """See the contract."""
        environment = await self._environments.get(EnvironmentKey(request.project, request.name))
        return pb.GetServingEnvironmentResponse(environment=environment_message(environment))

    async def ListServingEnvironments(
        self, request: pb.ListServingEnvironmentsRequest, context: Any
    ) -> pb.ListServingEnvironmentsResponse:
        """See the contract."""
        read = partial(self._environments.list, request.project)
        size = page_size_of(request.page_size)
        environments, token = await page_of(read, environment_message, size, request.page_token)
        return pb.ListServingEnvironmentsResponse(environments=environments, next_page_token=token)

    async def UpdateServingEnvironment(
        self, request: pb.UpdateServingEnvironmentRequest, context: Any
    ) -> pb.UpdateServingEnvironmentResponse:
        """See the contract."""
        key, change = environment_key_of(request.environment), environment_change_of(request)
        environment = await self._environments.update(key, change)
        return pb.UpdateServingEnvironmentResponse(environment=environment_message(environment))

    async def DeleteServingEnvironment(
        self, request: pb.DeleteServingEnvironmentRequest, context: Any
    ) -> pb.DeleteServingEnvironmentResponse:
        """See the contract."""
        key = EnvironmentKey(request.project, request.name)
        await self._environments.delete(key, etag=request.etag, allow_missing=request.allow_missing)
        return pb.DeleteServingEnvironmentResponse()

    async def GetModelDeployment(
        self, request: pb.GetModelDeploymentRequest, context: Any
    ) -> pb.GetModelDeploymentResponse:
        """See the contract."""
        deployment = await self._deployments.get(request.project, request.id)
        return pb.GetModelDeploymentResponse(deployment=deployment_message(deployment))

    async def ListModelDeployments(
        self, request: pb.ListModelDeploymentsRequest, context: Any
    ) -> pb.ListModelDeploymentsResponse:
        """See the contract."""
        read = partial(self._deployments.list, deployment_filter_of(request))
        size, token = page_size_of(request.page_size), request.page_token
        deployments, token = await page_of(read, listed_deployment_message, size, token)
        return pb.ListModelDeploymentsResponse(deployments=deployments, next_page_token=token)
