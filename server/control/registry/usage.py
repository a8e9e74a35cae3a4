"""Preconditions of changes to models, versions and environments."""

from __future__ import annotations

from server.control.watch_cache import ALL, WatchCache
from server.domain.errors import EtagMismatch
from server.domain.registry.registered import ModelVersion, Registered, VersionState
from server.domain.registry.registry_errors import InUse, VersionArchived, VersionNotReady
from server.domain.registry.resolution import uses
from server.domain.service.inference_service import ServiceKey
from server.ports import RegistryReading

MOST_NAMED = 5


def require_current(thing: Registered, etag: str) -> None:
    """Raise EtagMismatch if an etag is given and not the current one."""
    if etag and etag != thing.etag:
        raise EtagMismatch(thing.key)


def require_ready(version: ModelVersion, *, is_rollback: bool = False) -> None:
    """Raise VersionNotReady or VersionArchived if the version cannot be deployed."""
    if version.state is VersionState.PENDING:
        raise VersionNotReady(f"{version.key} is PENDING: set its state to READY first")
    if version.state is VersionState.ARCHIVED:
        by_force = ", or set force" if is_rollback else ""
        raise VersionArchived(f"{version.key} is ARCHIVED: set its state to READY first{by_force}")


async def require_unused(registry: RegistryReading, cache: WatchCache, thing: Registered) -> None:
    """Raise InUse if a service is deployed from it, by a record or by the service's labels."""
    users = {record.service for record in await registry.users(thing, MOST_NAMED + 1)}
    # An edit by another writer ends the record of a service, which runs on.
    services = cache.services(ServiceKey(ALL, ""))
    users |= {service.key for service in services if uses(service, thing)}
    if not users:
        return
    named = ", ".join(map(str, sorted(users)[:MOST_NAMED]))
    more = " and others" if len(users) > MOST_NAMED else ""
    raise InUse(
        f"{thing.key} is in use by {named}{more}: delete these services first", used_by=named
    )
