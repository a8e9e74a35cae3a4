"""Serving environments: create, get, list, update and delete."""

from __future__ import annotations

from uuid import uuid4

from server.control.authorizer import Authorizer, ProjectVerb
from server.control.call import Call
from server.control.registry.lookup import environment_of
from server.control.registry.pages import ItemPage, PagedList
from server.control.registry.usage import require_current, require_unused
from server.control.watch_cache import WatchCache
from server.domain.registry.changes import changed_environment, new_environment
from server.domain.registry.registered import EnvironmentKey, ServingEnvironment
from server.domain.registry.registry_commands import Change, EnvironmentContent
from server.domain.registry.registry_errors import EnvironmentNotFound
from server.domain.registry.registry_validation import (
    check_change,
    check_key,
    check_new,
    check_project,
)
from server.ports import Page, Registry, RegistryReading, RegistryWriting


class Environments:
    """Manages environments. A change applies from the next Deploy on."""

    def __init__(self, registry: Registry, cache: WatchCache, authorizer: Authorizer) -> None:
        self._registry = registry
        self._cache = cache
        self._authorizer = authorizer

    async def create(
        self, call: Call, key: EnvironmentKey, content: EnvironmentContent
    ) -> ServingEnvironment:
        """Create an environment. Raises FieldInvalid, AlreadyExists."""
        check_new(key, content, "environment")
        await self._authorizer.authorize_project(call, ProjectVerb.UPDATE, key.project)
        environment_id = str(uuid4())

        async def work(tx: RegistryWriting) -> ServingEnvironment:
            environment = new_environment(key, environment_id, content, await tx.now())
            await tx.add(environment)
            return environment

        await call.begin_write(key)
        return await self._registry.write(work)

    async def get(self, call: Call, key: EnvironmentKey) -> ServingEnvironment:
        """Return an environment. Raises FieldInvalid, EnvironmentNotFound."""
        check_key(key)
        await self._authorizer.authorize_project(call, ProjectVerb.GET, key.project)
        return await self._registry.read(lambda tx: environment_of(tx, key))

    async def list(
        self, call: Call, project: str, size: int, page_token: str
    ) -> ItemPage[ServingEnvironment]:
        """Return a page of a project's environments, newest first. Raises FieldInvalid,
        PageTokenInvalid."""
        check_project(project)
        await self._authorizer.authorize_project(call, ProjectVerb.GET, project)
        paged = PagedList("environments", project)
        start = paged.start(page_token)

        async def work(tx: RegistryReading) -> Page[ServingEnvironment]:
            return await tx.environments(project, size, start)

        return paged.with_tokens(await self._registry.read(work))

    async def update(
        self, call: Call, key: EnvironmentKey, change: Change[EnvironmentContent]
    ) -> ServingEnvironment:
        """Update an environment. Raises FieldInvalid, EnvironmentNotFound, EtagMismatch,
        EnvironmentNamespaceFixed."""
        check_change(key, change, "environment")
        await self._authorizer.authorize_project(call, ProjectVerb.UPDATE, key.project)

        async def work(tx: RegistryWriting) -> ServingEnvironment:
            environment = await environment_of(tx, key)
            require_current(environment, change.etag)
            after = changed_environment(environment, change, await tx.now())
            if after is not environment:
                await tx.replace(after)
            return after

        await call.begin_write(key)
        return await self._registry.write(work)

    async def delete(
        self, call: Call, key: EnvironmentKey, *, etag: str, allow_missing: bool
    ) -> None:
        """Delete an environment; its namespace stays. Raises FieldInvalid, EnvironmentNotFound,
        EtagMismatch, InUse."""
        check_key(key)
        await self._authorizer.authorize_project(call, ProjectVerb.UPDATE, key.project)

        async def work(tx: RegistryWriting) -> None:
            environment = await environment_of(tx, key)
            require_current(environment, etag)
            await require_unused(tx, self._cache, environment)
            await tx.remove(environment)

        await call.begin_write(key)
        try:
            await self._registry.write(work)
        except EnvironmentNotFound:
            if not allow_missing:
                raise
