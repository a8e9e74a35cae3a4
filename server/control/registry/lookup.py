"""Lookups by name in one transaction, which raise an error for an unknown name.

A transaction that writes reads, and so locks, a model before its version and a version before an
environment. So no two wait for one another.
"""

from __future__ import annotations

from server.domain.registry.registered import (
    EnvironmentKey,
    ModelKey,
    ModelVersion,
    RegisteredModel,
    ServingEnvironment,
    VersionKey,
)
from server.domain.registry.registry_errors import (
    EnvironmentNotFound,
    ModelNotFound,
    VersionNotFound,
)
from server.ports import RegistryReading


async def model_of(registry: RegistryReading, key: ModelKey) -> RegisteredModel:
    """Return a model. Raises ModelNotFound."""
    model = await registry.model(key)
    if model is None:
        raise ModelNotFound(f"there is no {key}", project=key.project, model=key.name)
    return model


async def version_of(registry: RegistryReading, key: VersionKey) -> ModelVersion:
    """Return a version of an existing model. Raises VersionNotFound."""
    version = await registry.version(key)
    if version is None:
        raise VersionNotFound(
            f"there is no {key}", project=key.project, model=key.model, version=key.version
        )
    return version


async def environment_of(registry: RegistryReading, key: EnvironmentKey) -> ServingEnvironment:
    """Return an environment. Raises EnvironmentNotFound."""
    environment = await registry.environment(key)
    if environment is None:
        raise EnvironmentNotFound(f"there is no {key}", project=key.project, environment=key.name)
    return environment
