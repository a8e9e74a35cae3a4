"""RegistryService: each method converts its request, calls control, and makes the response."""

from __future__ import annotations

from functools import partial

from modelservice.v1 import registry_service_pb2 as pb

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
from server.control.call import Call
from server.control.registry.deployments import Deployments
from server.control.registry.environments import Environments
from server.control.registry.models import Models
from server.control.registry.versions import Versions
from server.domain.registry.registered import EnvironmentKey, ModelKey, VersionKey

# ruff: noqa: N802  (the contract names the RPCs)


class RegistryService:
    """Serves the contract's RegistryService. Each RPC gets its Call in place of gRPC's context."""

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
        self, request: pb.CreateRegisteredModelRequest, call: Call
    ) -> pb.CreateRegisteredModelResponse:
        """Serve the RPC."""
        key, content = model_key_of(request.model), model_content_of(request.model)
        model = await self._models.create(call, key, content)
        return pb.CreateRegisteredModelResponse(model=model_message(model))

    async def GetRegisteredModel(
        self, request: pb.GetRegisteredModelRequest, call: Call
    ) -> pb.GetRegisteredModelResponse:
        """Serve the RPC."""
        model = await self._models.get(call, ModelKey(request.project, request.name))
        return pb.GetRegisteredModelResponse(model=model_message(model))

    async def ListRegisteredModels(
        self, request: pb.ListRegisteredModelsRequest, call: Call
    ) -> pb.ListRegisteredModelsResponse:
        """Serve the RPC."""
        size = page_size_of(request.page_size)
        read = partial(self._models.list, call, request.project)
        models, token = await page_of(read, model_message, size, request.page_token)
        return pb.ListRegisteredModelsResponse(models=models, next_page_token=token)

    async def UpdateRegisteredModel(
        self, request: pb.UpdateRegisteredModelRequest, call: Call
    ) -> pb.UpdateRegisteredModelResponse:
        """Serve the RPC."""
        key, change = model_key_of(request.model), model_change_of(request)
        model = await self._models.update(call, key, change)
        return pb.UpdateRegisteredModelResponse(model=model_message(model))

    async def DeleteRegisteredModel(
        self, request: pb.DeleteRegisteredModelRequest, call: Call
    ) -> pb.DeleteRegisteredModelResponse:
        """Serve the RPC."""
        key = ModelKey(request.project, request.name)
        await self._models.delete(call, key, etag=request.etag, allow_missing=request.allow_missing)
        return pb.DeleteRegisteredModelResponse()

    async def CreateModelVersion(
        self, request: pb.CreateModelVersionRequest, call: Call
    ) -> pb.CreateModelVersionResponse:
        """Serve the RPC."""
        key, content = version_key_of(request.version), version_content_of(request.version)
        version = await self._versions.create(call, key, content)
        return pb.CreateModelVersionResponse(version=version_message(version))

    async def GetModelVersion(
        self, request: pb.GetModelVersionRequest, call: Call
    ) -> pb.GetModelVersionResponse:
        """Serve the RPC."""
        key = VersionKey(request.project, request.model, request.version)
        version = await self._versions.get(call, key)
        return pb.GetModelVersionResponse(version=version_message(version))

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, call: Call
    ) -> pb.ListModelVersionsResponse:
        """Serve the RPC."""
        read = partial(self._versions.list, call, ModelKey(request.project, request.model))
        size = page_size_of(request.page_size)
        versions, token = await page_of(read, version_message, size, request.page_token)
        return pb.ListModelVersionsResponse(versions=versions, next_page_token=token)

    async def UpdateModelVersion(
        self, request: pb.UpdateModelVersionRequest, call: Call
    ) -> pb.UpdateModelVersionResponse:
        """Serve the RPC."""
        key, change = version_key_of(request.version), version_change_of(request)
        version = await self._versions.update(call, key, change)
        return pb.UpdateModelVersionResponse(version=version_message(version))

    async def DeleteModelVersion(
        self, request: pb.DeleteModelVersionRequest, call: Call
    ) -> pb.DeleteModelVersionResponse:
        """Serve the RPC."""
        key = VersionKey(request.project, request.model, request.version)
        await self._versions.delete(
            call, key, etag=request.etag, allow_missing=request.allow_missing
        )
        return pb.DeleteModelVersionResponse()

    async def CreateServingEnvironment(
        self, request: pb.CreateServingEnvironmentRequest, call: Call
    ) -> pb.CreateServingEnvironmentResponse:
        """Serve the RPC."""
        key = environment_key_of(request.environment)
        content = environment_content_of(request.environment)
        environment = await self._environments.create(call, key, content)
        return pb.CreateServingEnvironmentResponse(environment=environment_message(environment))

    async def GetServingEnvironment(
        self, request: pb.GetServingEnvironmentRequest, call: Call
    ) -> pb.GetServingEnvironmentResponse:
        """Serve the RPC."""
        environment = await self._environments.get(
            call, EnvironmentKey(request.project, request.name)
        )
        return pb.GetServingEnvironmentResponse(environment=environment_message(environment))

    async def ListServingEnvironments(
        self, request: pb.ListServingEnvironmentsRequest, call: Call
    ) -> pb.ListServingEnvironmentsResponse:
        """Serve the RPC."""
        read = partial(self._environments.list, call, request.project)
        size = page_size_of(request.page_size)
        environments, token = await page_of(read, environment_message, size, request.page_token)
        return pb.ListServingEnvironmentsResponse(environments=environments, next_page_token=token)

    async def UpdateServingEnvironment(
        self, request: pb.UpdateServingEnvironmentRequest, call: Call
    ) -> pb.UpdateServingEnvironmentResponse:
        """Serve the RPC."""
        key, change = environment_key_of(request.environment), environment_change_of(request)
        environment = await self._environments.update(call, key, change)
        return pb.UpdateServingEnvironmentResponse(environment=environment_message(environment))

    async def DeleteServingEnvironment(
        self, request: pb.DeleteServingEnvironmentRequest, call: Call
    ) -> pb.DeleteServingEnvironmentResponse:
        """Serve the RPC."""
        key = EnvironmentKey(request.project, request.name)
        await self._environments.delete(
            call, key, etag=request.etag, allow_missing=request.allow_missing
        )
        return pb.DeleteServingEnvironmentResponse()

    async def GetModelDeployment(
        self, request: pb.GetModelDeploymentRequest, call: Call
    ) -> pb.GetModelDeploymentResponse:
        """Serve the RPC."""
        deployment = await self._deployments.get(call, request.project, request.id)
        return pb.GetModelDeploymentResponse(deployment=deployment_message(deployment))

    async def ListModelDeployments(
        self, request: pb.ListModelDeploymentsRequest, call: Call
    ) -> pb.ListModelDeploymentsResponse:
        """Serve the RPC."""
        read = partial(self._deployments.list, call, deployment_filter_of(request))
        size, token = page_size_of(request.page_size), request.page_token
        deployments, token = await page_of(read, listed_deployment_message, size, token)
        return pb.ListModelDeploymentsResponse(deployments=deployments, next_page_token=token)
