"""What tests register, in a project of their own each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from server.control.registering.deployments import Deployments
from server.control.registering.environments import Environments
from server.control.registering.models import Models
from server.control.registering.versions import Versions
from server.domain.inference_service import ModelFormat, ServiceKey
from server.domain.model_deployment import ModelDeployment
from server.domain.registry import (
    EnvironmentKey,
    ModelKey,
    ModelVersion,
    RegisteredModel,
    ServingEnvironment,
    VersionKey,
    VersionState,
)
from server.domain.registry_commands import (
    Change,
    EnvironmentContent,
    ModelContent,
    VersionContent,
)
from server.ports import Registry, RegistryWriting

SKLEARN = ModelFormat("sklearn")
FILES = VersionContent(storage_uri="s3://models/fraud", format=SKLEARN)

_projects = itertools.count(1)


@dataclass
class Registering:
    """Control over the registry. What is named briefly is of the one project."""

    registry: Registry
    project: str = field(default_factory=lambda: f"project {next(_projects)}")

    def __post_init__(self) -> None:
        self.models = Models(self.registry)
        self.versions = Versions(self.registry)
        self.environments = Environments(self.registry)
        self.deployments = Deployments(self.registry)

    def model(self, name: str = "fraud") -> ModelKey:
        return ModelKey(self.project, name)

    def version(self, version: str = "1", model: str = "fraud") -> VersionKey:
        return VersionKey(self.project, model, version)

    def environment(self, name: str = "staging") -> EnvironmentKey:
        return EnvironmentKey(self.project, name)

    async def new_model(self, name: str = "fraud", **content: Any) -> RegisteredModel:
        return await self.models.create(self.model(name), ModelContent(**content))

    async def new_version(self, version: str = "1", **content: Any) -> ModelVersion:
        given = content if "image" in content else {"storage_uri": "s3://m", "format": SKLEARN}
        return await self.versions.create(
            self.version(version), VersionContent(**(given | content))
        )

    async def new_environment(self, name: str = "staging", **content: Any) -> ServingEnvironment:
        return await self.environments.create(self.environment(name), EnvironmentContent(**content))

    async def change_model(self, *mask: str, etag: str = "", **content: Any) -> RegisteredModel:
        return await self.models.update(self.model(), Change(ModelContent(**content), mask, etag))

    async def change_version(
        self, *mask: str, version: str = "1", etag: str = "", **content: Any
    ) -> ModelVersion:
        change = Change(VersionContent(**content), mask, etag)
        return await self.versions.update(self.version(version), change)

    async def change_environment(
        self, *mask: str, etag: str = "", **content: Any
    ) -> ServingEnvironment:
        change = Change(EnvironmentContent(**content), mask, etag)
        return await self.environments.update(self.environment(), change)

    async def archive(self, version: str = "1") -> ModelVersion:
        return await self.change_version(version=version, state=VersionState.ARCHIVED)

    async def deployed(
        self,
        version: ModelVersion,
        environment: ServingEnvironment,
        service: str = "fraud-staging",
        **fields: Any,
    ) -> ModelDeployment:
        """The record of a deployment, as a Deploy would store it."""
        model = await self.models.get(version.key.of)

        async def work(tx: RegistryWriting) -> ModelDeployment:
            now = await tx.now()
            times = {"create_time": now, "update_time": now}
            record = ModelDeployment(
                id=str(uuid4()),
                project=self.project,
                model=version.key.model,
                version=version.key.version,
                environment=environment.key.name,
                model_id=model.id,
                version_id=version.id,
                environment_id=environment.id,
                service=ServiceKey(environment.namespace, service),
                content="content",
                **(times | fields),
            )
            await tx.add(record)
            return record

        return await self.registry.write(work)
