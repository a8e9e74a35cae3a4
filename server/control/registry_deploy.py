"""Deploying from the registry: a Deploy is on record before the cluster is touched.

What a crash, a lost answer or an absent database leaves of a record, whoever follows the cluster
in the records (`server.control.deployment_recorder`) brings to what the cluster says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from uuid import uuid4

import structlog

from server import failpoints
from server.control.authorizer import Authorizer, Verb
from server.control.call import Call
from server.control.registry.lookup import environment_of, model_of, version_of
from server.control.registry.usage import require_ready
from server.control.service_memory import ServiceMemory
from server.control.watch_cache import View
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


class RegistryDeploying:
    """Carries out Deploys of registered models."""

    def __init__(
        self,
        registry: Registry,
        cluster: Cluster,
        view: View,
        authorizer: Authorizer,
        memory: ServiceMemory,
    ) -> None:
        self._registry = registry
        self._cluster = cluster
        self._view = view
        self._authorizer = authorizer
        self._memory = memory

    async def deploy(
        self, call: Call, deploy: Deploy, registered: RegisteredModelPredictor
    ) -> Applied:
        """Carry out a Deploy of what the names stand for now, and return once the cluster has
        stored it, whatever then becomes of its record.

        The names are resolved in a read, so that nothing is written before the call is authorized;
        the write resolves them again, under its locks.
        """
        check_registered(registered)
        planned, found = await self._registry.read(partial(_resolve, deploy, registered, ""))
        self._authorizer.authorize(call, Verb.DEPLOY, planned.key)
        if deploy.validate_only:
            await self._registry.read(partial(self._require_name, deploy, planned, found))
            with self._memory.room_for(planned):
                return await self._cluster.apply(planned)
        with ExitStack() as room:
            failpoints.reached("before-record")
            wish = await self._registry.write(
                partial(self._begun, call, deploy, registered, planned.key, str(uuid4()), room)
            )
            failpoints.reached("after-record")
            applied = await self._applied(wish)
        failpoints.reached("before-outcome")
        await self._tell(wish, partial(_settle, wish.deployment_id, applied))
        return applied

    async def _applied(self, wish: Deploy) -> Applied:
        try:
            applied = await self._cluster.apply(wish)
            # Before the outcome is told: what the feed tells meanwhile is newer.
            self._view.put(applied.service)
            return applied
        except WriteOutcomeUnknown:
            raise
        except ServiceError as error:
            await self._tell(wish, partial(_refuse, wish.deployment_id, error))
            raise

    async def _begun(
        self,
        call: Call,
        deploy: Deploy,
        registered: RegisteredModelPredictor,
        authorized: ServiceKey,
        deployment_id: str,
        room: ExitStack,
        tx: RegistryWriting,
    ) -> Deploy:
        wish, found = await _resolve(deploy, registered, deployment_id, tx)
        if wish.key != authorized:
            raise ConcurrentWrite(
                f"{found.environment.key} was made anew with another namespace meanwhile; nothing"
                " was written, try again"
            )
        await self._require_name(deploy, wish, found, tx)
        # The work may be done again, and what is refused for memory has no record.
        room.close()
        room.enter_context(self._memory.room_for(wish))
        await self._catch_up(wish.key, tx)
        await tx.add(new_deployment(wish, found, call.caller.name, await tx.now()))
        return wish

    async def _catch_up(self, key: ServiceKey, tx: RegistryWriting) -> None:
        """What is seen of the service goes on record before this Deploy replaces it, after which
        nobody who follows could tell that it was READY."""
        seen = self._view.get(key)
        for record in await tx.open_deployments(key):
            await _replace(record, with_status(record, seen, await tx.now()), tx)

    async def _require_name(
        self, deploy: Deploy, wish: Deploy, found: Found, tx: RegistryReading
    ) -> None:
        """Raise AlreadyExists where the name of the resolved Deploy is taken."""
        if not deploy.key.name:
            await self._require_own(wish, found, tx)
        elif not deploy.force:
            await self._require_same_project(wish, found, tx)

    async def _require_own(self, wish: Deploy, found: Found, tx: RegistryReading) -> None:
        """Raise AlreadyExists where the derived name is another's, and ViewNotReady while that
        cannot be told."""
        self._view.require_synced()
        service = self._view.get(wish.key)
        records = await tx.open_deployments(wish.key)
        if (service and not runs_same_model(service, found)) or any(
            not is_record_of(record, found) for record in records
        ):
            raise AlreadyExists(
                f"{wish.key}, as this deployment would be called, is there already and is not of"
                " this model in this environment: give a name",
                namespace=wish.key.namespace,
                name=wish.key.name,
            )

    async def _require_same_project(self, wish: Deploy, found: Found, tx: RegistryReading) -> None:
        """Raise AlreadyExists where another project has deployed the service."""
        service = self._view.get(wish.key)
        records = await tx.open_deployments(wish.key)
        if (service and belongs_to_another_project(service, wish)) or any(
            record.project != found.model.key.project for record in records
        ):
            raise AlreadyExists(
                f"{wish.key} was deployed by another project: give another name, or set force to"
                " take it over",
                namespace=wish.key.namespace,
                name=wish.key.name,
            )

    async def _tell(
        self,
        wish: Deploy,
        work: Callable[[RegistryWriting], Awaitable[None]],
    ) -> None:
        """Put on record what came of it, if the registry takes it in time."""
        deadline = wish.deadline.sooner(Deadline.after(OUTCOME_SECONDS))
        try:
            async with asyncio.timeout_at(deadline.at):
                await self._registry.write(work)
        except (ServiceError, TimeoutError) as e:
            log.warning(
                "outcome not recorded", deployment=wish.deployment_id, why=str(e) or "too late"
            )


async def _resolve(
    deploy: Deploy,
    registered: RegisteredModelPredictor,
    deployment_id: str,
    tx: RegistryReading,
) -> tuple[Deploy, Found]:
    found = await _found(registered, tx)
    return resolve_deploy(deploy, found, deployment_id), found


async def _found(registered: RegisteredModelPredictor, tx: RegistryReading) -> Found:
    project, named = registered.project, registered.version
    model = await model_of(tx, ModelKey(project, registered.model))
    version = await _version(model, named or model.default_version, tx)
    require_ready(version)
    environment = await environment_of(tx, EnvironmentKey(project, registered.environment))
    return Found(model, version, environment)


async def _version(model: RegisteredModel, named: str, tx: RegistryReading) -> ModelVersion:
    if named:
        return await version_of(tx, VersionKey(*model.key, named))
    newest = await tx.newest_ready_version(model.key)
    if newest is None:
        raise NoDeployableVersion(
            f"{model.key} has neither a default version nor one that is READY: make one",
            project=model.key.project,
            model=model.key.name,
        )
    return newest


async def _settle(deployment_id: str, applied: Applied, tx: RegistryWriting) -> None:
    """The deployment that the service carries is told its rollout: the new one, or the one that is
    there, whose own answer may have been lost. A new one that it does not carry never was."""
    service = applied.service
    new = await tx.deployment(deployment_id)
    if new and service.deployment_id != deployment_id and new.rollout is None:
        await tx.remove(new)
    if carried := await tx.deployment(service.deployment_id):
        await _replace(carried, with_answer(carried, service.rollout, await tx.now()), tx)


async def _refuse(deployment_id: str, error: ServiceError, tx: RegistryWriting) -> None:
    if record := await tx.deployment(deployment_id):
        await _replace(record, with_refusal(record, error, await tx.now()), tx)


async def _replace(record: ModelDeployment, after: ModelDeployment, tx: RegistryWriting) -> None:
    # Whoever follows the cluster may have been first.
    if after != record:
        await tx.replace(after)
