"""What a change of something registered must not overrun."""

from __future__ import annotations

from server.domain.errors import EtagMismatch
from server.domain.registry import ModelVersion, Registered, VersionState
from server.domain.registry_errors import InUse, VersionArchived, VersionNotReady
from server.ports import RegistryReading

MOST_NAMED = 5


def require_current(thing: Registered, etag: str) -> None:
    """Raise EtagMismatch where the caller has read another state of it."""
    if etag and etag != thing.etag:
        raise EtagMismatch(thing.key)


def require_ready(version: ModelVersion) -> None:
    """Raise VersionNotReady or VersionArchived where it cannot be deployed."""
    if version.state is VersionState.PENDING:
        raise VersionNotReady(f"{version.key} is PENDING: set its state to READY first")
    if version.state is VersionState.ARCHIVED:
        raise VersionArchived(f"{version.key} is ARCHIVED: set its state to READY first")


async def require_unused(registry: RegistryReading, thing: Registered) -> None:
    """Raise InUse where a service is deployed from it."""
    users = await registry.users(thing, MOST_NAMED + 1)
    if not users:
        return
    services = sorted({str(user.service) for user in users})[:MOST_NAMED]
    more = " and others" if len(users) > MOST_NAMED else ""
    raise InUse(
        f"{thing.key} is in use by {', '.join(services)}{more}: delete these services first",
        used_by=", ".join(services),
    )
