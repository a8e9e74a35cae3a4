"""Versions of registered models: create, get, list, update and delete."""

from __future__ import annotations

from uuid import uuid4

from server.control.authorizer import Authorizer, ProjectVerb
from server.control.call import Call
from server.control.registry.lookup import model_of, version_of
from server.control.registry.pages import ItemPage, PagedList
from server.control.registry.usage import require_current, require_unused
from server.control.watch_cache import WatchCache
from server.domain.registry.changes import changed_version, new_version, without_default
from server.domain.registry.registered import (
    ModelKey,
    ModelVersion,
    RegisteredModel,
    VersionKey,
    VersionState,
)
from server.domain.registry.registry_commands import Change, VersionContent
from server.domain.registry.registry_errors import ModelNotFound, VersionNotFound
from server.domain.registry.registry_validation import check_change, check_key, check_new
from server.ports import Page, Registry, RegistryReading, RegistryWriting


class Versions:
    """Manages versions. A write reads, and so locks, the model first, with its default version."""

    def __init__(self, registry: Registry, cache: WatchCache, authorizer: Authorizer) -> None:
        self._registry = registry
        self._cache = cache
        self._authorizer = authorizer

    async def create(self, call: Call, key: VersionKey, content: VersionContent) -> ModelVersion:
        """Create a version of a model. Raises FieldInvalid, ModelNotFound, AlreadyExists."""
        check_new(key, content, "version")
        await self._authorizer.authorize_project(call, ProjectVerb.UPDATE, key.project)
        version_id = str(uuid4())

        async def work(tx: RegistryWriting) -> ModelVersion:
            await model_of(tx, key.of)
            version = new_version(key, version_id, content, await tx.now())
            await tx.add(version)
            return version

        await call.begin_write(key)
        return await self._registry.write(work)

    async def get(self, call: Call, key: VersionKey) -> ModelVersion:
        """Return a version. Raises FieldInvalid, ModelNotFound, VersionNotFound."""
        check_key(key)
        await self._authorizer.authorize_project(call, ProjectVerb.GET, key.project)

        async def work(tx: RegistryReading) -> ModelVersion:
            await model_of(tx, key.of)
            return await version_of(tx, key)

        return await self._registry.read(work)

    async def list(
        self, call: Call, model: ModelKey, size: int, page_token: str
    ) -> ItemPage[ModelVersion]:
        """Return a page of a model's versions, newest first. Raises FieldInvalid, PageTokenInvalid,
        ModelNotFound."""
        check_key(model)
        await self._authorizer.authorize_project(call, ProjectVerb.GET, model.project)
        paged = PagedList("versions", *model)
        start = paged.start(page_token)

        async def work(tx: RegistryReading) -> Page[ModelVersion]:
            await model_of(tx, model)
            return await tx.versions(model, size, start)

        return paged.with_tokens(await self._registry.read(work))

    async def update(
        self, call: Call, key: VersionKey, change: Change[VersionContent]
    ) -> ModelVersion:
        """Update a version; one that is not READY is no longer its model's default. Raises
        FieldInvalid, ModelNotFound, VersionNotFound, EtagMismatch."""
        check_change(key, change, "version")
        await self._authorizer.authorize_project(call, ProjectVerb.UPDATE, key.project)

        async def work(tx: RegistryWriting) -> ModelVersion:
            model = await model_of(tx, key.of)
            version = await version_of(tx, key)
            require_current(version, change.etag)
            after = changed_version(version, change, await tx.now())
            if after is not version:
                await tx.replace(after)
            if after.state is not VersionState.READY:
                await _clear_default(tx, model, version)
            return after

        await call.begin_write(key)
        return await self._registry.write(work)

    async def delete(self, call: Call, key: VersionKey, *, etag: str, allow_missing: bool) -> None:
        """Delete a version, also as its model's default. Raises FieldInvalid, ModelNotFound,
        VersionNotFound, EtagMismatch, InUse."""
        check_key(key)
        await self._authorizer.authorize_project(call, ProjectVerb.UPDATE, key.project)

        async def work(tx: RegistryWriting) -> None:
            model = await model_of(tx, key.of)
            version = await version_of(tx, key)
            require_current(version, etag)
            await require_unused(tx, self._cache, version)
            await _clear_default(tx, model, version)
            await tx.remove(version)

        await call.begin_write(key)
        try:
            await self._registry.write(work)
        except (ModelNotFound, VersionNotFound):
            if not allow_missing:
                raise


async def _clear_default(
    tx: RegistryWriting, model: RegisteredModel, version: ModelVersion
) -> None:
    if model.default_version == version.key.version:
        await tx.replace(without_default(model, await tx.now()))
