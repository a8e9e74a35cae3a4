"""What a name stands for in one transaction; what there is none of raises its own error.

A transaction that writes asks for the model before its version, and for the version before an
environment, so that no two wait for one another.
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
    """The model. Raises ModelNotFound."""
    model = await registry.model(key)
    if model is None:
        raise ModelNotFound(f"there is no {key}", project=key.project, model=key.name)
    return model


async def version_of(registry: RegistryReading, key: VersionKey) -> ModelVersion:
    """The version of a model that is there. Raises VersionNotFound."""
    version = await registry.version(key)
    if version is None:
        raise VersionNotFound(
            f"there is no {key}", project=key.project, model=key.model, version=key.version
        )
    return version


async def environment_of(registry: RegistryReading, key: EnvironmentKey) -> ServingEnvironment:
    """The environment. Raises EnvironmentNotFound."""
    environment = await registry.environment(key)
    if environment is None:
        raise EnvironmentNotFound(f"there is no {key}", project=key.project, environment=key.name)
    return environment
