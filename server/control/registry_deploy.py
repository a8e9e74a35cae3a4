"""Deploys of registered models: the record is written before the cluster.

After a crash, a lost response or an outage of the database, the recorder
(`server.control.deployment_recorder`) brings the record to the cluster's state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from uuid import uuid4

import structlog

from server import failpoints
from server.control.authorizer import Authorizer, ProjectVerb, Verb
from server.control.call import Call
from server.control.registry.lookup import environment_of, model_of, version_of
from server.control.registry.usage import require_ready
from server.control.service_memory import ServiceMemory
from server.control.watch_cache import WatchCache
from server.deadline import Deadline
from server.domain.errors import (
    AlreadyExists,
    ConcurrentWrite,
    ServiceError,
    WriteOutcomeUnknown,
)
from server.domain.registry.deployment import ModelDeployment
from server.domain.registry.deployment_progress import with_answer, with_refusal, with_status
from server.domain.registry.registered import (
    EnvironmentKey,
    ModelKey,
    ModelVersion,
    RegisteredModel,
    VersionKey,
    VersionState,
)
from server.domain.registry.registry_errors import NoDeployableVersion
from server.domain.registry.resolution import (
    Found,
    belongs_to_another_project,
    is_record_of,
    new_deployment,
    resolve_deploy,
    runs_same_model,
)
from server.domain.service.commands import Applied, Deploy
from server.domain.service.inference_service import RegisteredModelPredictor, ServiceKey
from server.domain.service.validation import check_registered
from server.ports import Cluster, Registry, RegistryReading, RegistryWriting

OUTCOME_SECONDS = 2.0

log = structlog.get_logger(__name__)


class RegistryDeployer:
    """Carries out Deploys of registered models."""

    def __init__(
        self,
        registry: Registry,
        cluster: Cluster,
        cache: WatchCache,
        authorizer: Authorizer,
        memory: ServiceMemory,
    ) -> None:
        self._registry = registry
        self._cluster = cluster
        self._cache = cache
        self._authorizer = authorizer
        self._memory = memory

    async def deploy(
        self, call: Call, deploy: Deploy, registered: RegisteredModelPredictor
    ) -> Applied:
        """Resolve a Deploy and carry it out, and return once the cluster has stored it, even if its
        record could not be updated.

        A read resolves the names, so that nothing is written before the call is authorized. The
        write resolves them again, under its locks.
        """
        check_registered(registered)
        await self._authorizer.authorize_project(call, ProjectVerb.GET, registered.project)
        resolved, found = await self._registry.read(partial(_resolve, deploy, registered, ""))
        await self._authorizer.authorize(call, Verb.DEPLOY, resolved.key)
        refusal = await self._authorizer.creation_refusal(call, resolved.key.namespace)
        deploy = replace(deploy, absence_refused=refusal)
        resolved = replace(resolved, absence_refused=refusal)
        if deploy.validate_only:
            await self._registry.read(partial(self._require_name, deploy, resolved, found))
            with self._memory.reserve(resolved):
                return await self._cluster.apply(resolved)
        await call.begin_write(resolved.key)
        with ExitStack() as memory:
            failpoints.reached("before-record")
            resolved = await self._registry.write(
                partial(self._record, call, deploy, registered, resolved.key, str(uuid4()), memory)
            )
            failpoints.reached("after-record")
            applied = await self._apply(resolved)
        failpoints.reached("before-outcome")
        await self._update_record(resolved, partial(_store_rollout, resolved, applied))
        return applied

    async def _record(
        self,
        call: Call,
        deploy: Deploy,
        registered: RegisteredModelPredictor,
        authorized: ServiceKey,
        deployment_id: str,
        memory: ExitStack,
        tx: RegistryWriting,
    ) -> Deploy:
        resolved, found = await _resolve(deploy, registered, deployment_id, tx)
        if resolved.key != authorized:
            raise ConcurrentWrite(
                f"{found.environment.key} was created again with another namespace meanwhile;"
                " nothing was written: try again"
            )
        await self._require_name(deploy, resolved, found, tx)
        # A transaction may run again, and a Deploy that is refused for memory has no record.
        memory.close()
        memory.enter_context(self._memory.reserve(resolved))
        # This Deploy replaces the service, and with it the only trace of the earlier one's state.
        current = self._cache.get(resolved.key)
        for record in await tx.open_deployments(resolved.key):
            await _replace(record, with_status(record, current, await tx.now()), tx)
        await tx.add(new_deployment(resolved, found, call.caller.name, await tx.now()))
        return resolved

    async def _apply(self, resolved: Deploy) -> Applied:
        try:
            return await self._cluster.apply(resolved)
        except WriteOutcomeUnknown:
            raise
        except ServiceError as error:
            await self._update_record(resolved, partial(_store_error, resolved, error))
            raise

    async def _update_record(
        self, resolved: Deploy, work: Callable[[RegistryWriting], Awaitable[None]]
    ) -> None:
        """Store the outcome of a Deploy in its record, if the registry takes it in time."""
        deadline = resolved.deadline.sooner(Deadline.after(OUTCOME_SECONDS))
        try:
            async with asyncio.timeout_at(deadline.at):
                await self._registry.write(work)
        except (ServiceError, TimeoutError) as e:
            log.warning(
                "outcome not recorded", deployment=resolved.deployment_id, why=str(e) or "too late"
            )

    async def _require_name(
        self, deploy: Deploy, resolved: Deploy, found: Found, tx: RegistryReading
    ) -> None:
        """Raise AlreadyExists if the service's name is taken.

        A derived name must be free or of the same model and environment; ViewNotReady is raised
        while that is unknown. A given name must be free or of the same project, unless `force` is
        set.
        """
        if deploy.key.name and deploy.force:
            return
        if not deploy.key.name:
            self._cache.require_synced()
        key, project = resolved.key, found.model.key.project
        service = self._cache.get(key)
        records = await tx.open_deployments(key)
        if deploy.key.name:
            taken = bool(service and belongs_to_another_project(service, resolved))
            taken = taken or any(record.project != project for record in records)
            why = "was deployed by another project: give another name, or set force to take it over"
        else:
            taken = bool(service and not runs_same_model(service, found))
            taken = taken or any(not is_record_of(record, found) for record in records)
            why = (
                "is the derived name of this deployment, and another model or environment has it:"
                " give a name"
            )
        if taken:
            raise AlreadyExists(f"{key} {why}", namespace=key.namespace, name=key.name)


async def _resolve(
    deploy: Deploy,
    registered: RegisteredModelPredictor,
    deployment_id: str,
    tx: RegistryReading,
) -> tuple[Deploy, Found]:
    project, name = registered.project, registered.version
    model = await model_of(tx, ModelKey(project, registered.model))
    version = await _version(model, name or model.default_version, tx)
    if not (deploy.archived_allowed and version.state is VersionState.ARCHIVED):
        require_ready(version, is_rollback=deploy.rollback_of > 0)
    environment = await environment_of(tx, EnvironmentKey(project, registered.environment))
    found = Found(model, version, environment)
    return resolve_deploy(deploy, found, deployment_id), found


async def _version(model: RegisteredModel, name: str, tx: RegistryReading) -> ModelVersion:
    if name:
        return await version_of(tx, VersionKey(*model.key, name))
    newest = await tx.newest_ready_version(model.key)
    if newest is None:
        raise NoDeployableVersion(
            f"{model.key} has no default version and no READY version: create one",
            project=model.key.project,
            model=model.key.name,
        )
    return newest


async def _store_rollout(deploy: Deploy, applied: Applied, tx: RegistryWriting) -> None:
    """Store the rollout in the record that the service carries.

    That is the new record, or the one of an earlier Deploy whose response may have been lost. A new
    record that the service does not carry is removed: its Deploy changed nothing.
    """
    service = applied.service
    new = await tx.deployment(deploy.deployment_id)
    if new and service.deployment_id != new.id and new.rollout is None:
        await tx.remove(new)
    if carried := await tx.deployment(service.deployment_id):
        await _replace(carried, with_answer(carried, service.rollout, await tx.now()), tx)


async def _store_error(deploy: Deploy, error: ServiceError, tx: RegistryWriting) -> None:
    if record := await tx.deployment(deploy.deployment_id):
        await _replace(record, with_refusal(record, error, await tx.now()), tx)


async def _replace(record: ModelDeployment, after: ModelDeployment, tx: RegistryWriting) -> None:
    # The recorder may have stored it first.
    if after != record:
        await tx.replace(after)
