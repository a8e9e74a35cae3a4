"""The errors of the registry; see `server.domain.errors`."""

from __future__ import annotations

from server.domain.errors import ErrorReason, ServiceError


class ModelNotFound(ServiceError):
    """No such registered model."""

    reason = ErrorReason.MODEL_NOT_FOUND


class VersionNotFound(ServiceError):
    """The registered model has no such version."""

    reason = ErrorReason.VERSION_NOT_FOUND


class EnvironmentNotFound(ServiceError):
    """No such serving environment."""

    reason = ErrorReason.ENVIRONMENT_NOT_FOUND


class DeploymentNotFound(ServiceError):
    """No such deployment in the project."""

    reason = ErrorReason.DEPLOYMENT_NOT_FOUND


class VersionNotReady(ServiceError):
    """The version is not READY, as a default or deployed version must be."""

    reason = ErrorReason.VERSION_NOT_READY


class VersionArchived(ServiceError):
    """The version is archived: it cannot be deployed, or be the default."""

    reason = ErrorReason.VERSION_ARCHIVED


class NoDeployableVersion(ServiceError):
    """The model has neither a default version nor a READY one."""

    reason = ErrorReason.NO_DEPLOYABLE_VERSION


class EnvironmentNamespaceFixed(ServiceError):
    """An environment's namespace never changes, and a Deploy into it names no other."""

    reason = ErrorReason.ENVIRONMENT_NAMESPACE_FIXED


class InUse(ServiceError):
    """It cannot be deleted while deployments use it; metadata: used_by."""

    reason = ErrorReason.IN_USE


class RegistryDisabled(ServiceError):
    """This server has no registry."""

    reason = ErrorReason.REGISTRY_DISABLED


class RegistryUnavailable(ServiceError):
    """The registry's database does not answer, or has another schema. The message says whether a
    write may have taken effect."""

    reason = ErrorReason.REGISTRY_UNAVAILABLE


class RegistryRefused(RegistryUnavailable):
    """The registry's database refuses this server until its operator intervenes."""

    passes = False
