"""What tests register, in a project of their own each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from server.control.authorizer import Authorizer
from server.control.call import Call
from server.control.registry.deployments import Deployments
from server.control.registry.environments import Environments
from server.control.registry.lookup import environment_of, model_of, version_of
from server.control.registry.models import Models
from server.control.registry.versions import Versions
from server.control.watch_cache import WatchCache
from server.domain.registry.deployment import DeploymentState, ModelDeployment
from server.domain.registry.registered import (
    EnvironmentKey,
    ModelKey,
    ModelVersion,
    RegisteredModel,
    ServingEnvironment,
    VersionKey,
    VersionState,
)
from server.domain.registry.registry_commands import (
    Change,
    EnvironmentContent,
    ModelContent,
    VersionContent,
)
from server.domain.service.inference_service import ModelFormat, ServiceKey
from server.ports import Registry, RegistryWriting

SKLEARN = ModelFormat("sklearn")
FILES = VersionContent(storage_uri="s3://models/fraud", format=SKLEARN)

_projects = itertools.count(1)


@dataclass
class Registering:
    """Control over the registry. What is named briefly is of the one project."""

    registry: Registry
    project: str = field(default_factory=lambda: f"project-{next(_projects)}")
    cache: WatchCache = field(default_factory=WatchCache)

    def __post_init__(self) -> None:
        everyone = Authorizer("default")
        self.models = Models(self.registry, self.cache, everyone)
        self.versions = Versions(self.registry, self.cache, everyone)
        self.environments = Environments(self.registry, self.cache, everyone)
        self.deployments = Deployments(self.registry, everyone)

    def model(self, name: str = "fraud") -> ModelKey:
        return ModelKey(self.project, name)

    def version(self, version: str = "1", model: str = "fraud") -> VersionKey:
        return VersionKey(self.project, model, version)

    def environment(self, name: str = "staging") -> EnvironmentKey:
        return EnvironmentKey(self.project, name)

    async def new_model(self, name: str = "fraud", **content: Any) -> RegisteredModel:
        return await self.models.create(Call(), self.model(name), ModelContent(**content))

    async def new_version(
        self, version: str = "1", model: str = "fraud", **content: Any
    ) -> ModelVersion:
        key = self.version(version, model)
        return await self.versions.create(Call(), key, replace(FILES, **content))

    async def new_environment(self, name: str = "staging", **content: Any) -> ServingEnvironment:
        return await self.environments.create(
            Call(), self.environment(name), EnvironmentContent(**content)
        )

    async def change_model(
        self, *mask: str, model: str = "fraud", etag: str = "", **content: Any
    ) -> RegisteredModel:
        change = Change(ModelContent(**content), mask, etag)
        return await self.models.update(Call(), self.model(model), change)

    async def change_version(
        self,
        *mask: str,
        version: str = "1",
        model: str = "fraud",
        etag: str = "",
        **content: Any,
    ) -> ModelVersion:
        change = Change(VersionContent(**content), mask, etag)
        return await self.versions.update(Call(), self.version(version, model), change)

    async def change_environment(
        self, *mask: str, environment: str = "staging", etag: str = "", **content: Any
    ) -> ServingEnvironment:
        change = Change(EnvironmentContent(**content), mask, etag)
        return await self.environments.update(Call(), self.environment(environment), change)

    async def archive(self, version: str = "1") -> ModelVersion:
        return await self.change_version(version=version, state=VersionState.ARCHIVED)

    async def deployed(
        self,
        version: VersionKey,
        environment: EnvironmentKey,
        service: str = "fraud-staging",
        **fields: Any,
    ) -> ModelDeployment:
        """The record of a deployment, as a Deploy stores it: in one transaction with reading what
        it deploys."""
        record_id = str(uuid4())

        async def work(tx: RegistryWriting) -> ModelDeployment:
            model = await model_of(tx, version.of)
            stored = await version_of(tx, version)
            place = await environment_of(tx, environment)
            now = await tx.now()
            record = ModelDeployment(
                id=record_id,
                project=self.project,
                model=version.model,
                version=version.version,
                environment=environment.name,
                model_id=model.id,
                version_id=stored.id,
                environment_id=place.id,
                service=ServiceKey(place.namespace, service),
                content="content",
                create_time=now,
                update_time=now,
            )
            added = replace(record, **fields)
            await tx.add(added)
            return added

        return await self.registry.write(work)

    async def undeployed(self, record: ModelDeployment) -> None:
        """The end of a record, as what follows the cluster would store it."""

        async def work(tx: RegistryWriting) -> None:
            now = await tx.now()
            stored = await tx.deployment(record.id)
            assert stored
            ended = replace(stored, state=DeploymentState.UNDEPLOYED, end_time=now, update_time=now)
            await tx.replace(ended)

        await self.registry.write(work)
