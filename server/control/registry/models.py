"""Registered models: create, get, list, update and delete."""

from __future__ import annotations

from uuid import uuid4

from server.control.authorizer import Authorizer, ProjectVerb
from server.control.call import Call
from server.control.registry.lookup import model_of, version_of
from server.control.registry.pages import ItemPage, PagedList
from server.control.registry.usage import require_current, require_ready, require_unused
from server.control.watch_cache import WatchCache
from server.domain.registry.changes import changed_model, new_model
from server.domain.registry.registered import ModelKey, RegisteredModel, VersionKey
from server.domain.registry.registry_commands import Change, ModelContent
from server.domain.registry.registry_errors import ModelNotFound
from server.domain.registry.registry_validation import (
    check_change,
    check_key,
    check_new,
    check_project,
)
from server.ports import Page, Registry, RegistryReading, RegistryWriting


class Models:
    """Manages models. A default version is READY, also under concurrent writes."""

    def __init__(self, registry: Registry, cache: WatchCache, authorizer: Authorizer) -> None:
        self._registry = registry
        self._cache = cache
        self._authorizer = authorizer

    async def create(self, call: Call, key: ModelKey, content: ModelContent) -> RegisteredModel:
        """Create a model. Raises FieldInvalid, AlreadyExists.

        A project's first model takes the right to create the project, any other one that to update
        it.
        """
        check_new(key, content, "model")
        refused = {
            first: await self._authorizer.project_refusal(call, verb, key.project)
            for first, verb in ((True, ProjectVerb.CREATE), (False, ProjectVerb.UPDATE))
        }
        if refused[True] and (refusal := refused[False]):
            raise refusal
        model_id = str(uuid4())

        async def work(tx: RegistryWriting) -> RegisteredModel:
            if any(refused.values()):
                present = await tx.models(key.project, 1, None)
                if refusal := refused[not present.items]:
                    raise refusal
            model = new_model(key, model_id, content, await tx.now())
            await tx.add(model)
            return model

        await call.begin_write(key)
        return await self._registry.write(work)

    async def get(self, call: Call, key: ModelKey) -> RegisteredModel:
        """Return a model. Raises FieldInvalid, ModelNotFound."""
        check_key(key)
        await self._authorizer.authorize_project(call, ProjectVerb.GET, key.project)
        return await self._registry.read(lambda tx: model_of(tx, key))

    async def list(
        self, call: Call, project: str, size: int, page_token: str
    ) -> ItemPage[RegisteredModel]:
        """Return a page of a project's models, newest first. Raises FieldInvalid,
        PageTokenInvalid."""
        check_project(project)
        await self._authorizer.authorize_project(call, ProjectVerb.GET, project)
        paged = PagedList("models", project)
        start = paged.start(page_token)

        async def work(tx: RegistryReading) -> Page[RegisteredModel]:
            return await tx.models(project, size, start)

        return paged.with_tokens(await self._registry.read(work))

    async def update(
        self, call: Call, key: ModelKey, change: Change[ModelContent]
    ) -> RegisteredModel:
        """Update a model. Raises FieldInvalid, ModelNotFound, EtagMismatch, and for a new default
        version VersionNotFound, VersionNotReady, VersionArchived."""
        check_change(key, change, "model")
        await self._authorizer.authorize_project(call, ProjectVerb.UPDATE, key.project)

        async def work(tx: RegistryWriting) -> RegisteredModel:
            model = await model_of(tx, key)
            require_current(model, change.etag)
            after = changed_model(model, change, await tx.now())
            if after.default_version not in ("", model.default_version):
                default = VersionKey(key.project, key.name, after.default_version)
                require_ready(await version_of(tx, default))
            if after is not model:
                await tx.replace(after)
            return after

        await call.begin_write(key)
        return await self._registry.write(work)

    async def delete(self, call: Call, key: ModelKey, *, etag: str, allow_missing: bool) -> None:
        """Delete a model with its versions. Raises FieldInvalid, ModelNotFound, EtagMismatch,
        InUse."""
        check_key(key)
        await self._authorizer.authorize_project(call, ProjectVerb.UPDATE, key.project)

        async def work(tx: RegistryWriting) -> None:
            model = await model_of(tx, key)
            require_current(model, etag)
            await require_unused(tx, self._cache, model)
            await tx.remove(model)

        await call.begin_write(key)
        try:
            await self._registry.write(work)
        except ModelNotFound:
            if not allow_missing:
                raise
