"""Deploy and Delete: authorize, validate, and write to the cluster."""

from __future__ import annotations

from dataclasses import replace

from server.control.authorizer import Authorizer, Verb
from server.control.call import Call
from server.control.registry_deploy import RegistryDeployer
from server.control.service_memory import ServiceMemory
from server.domain.errors import ServiceNotFound
from server.domain.service.canonical_spec import canonical_deploy
from server.domain.service.commands import MOST_USER, Applied, Delete, Deploy
from server.domain.service.inference_service import InferenceService, RegisteredModelPredictor
from server.domain.service.validation import check_delete, check_deploy
from server.ports import Cluster


class Deployer:
    """Writes services. An acknowledged write is stored in the cluster, even if its record in the
    registry could not be updated."""

    def __init__(
        self,
        cluster: Cluster,
        authorizer: Authorizer,
        memory: ServiceMemory,
        registry_deployer: RegistryDeployer,
    ) -> None:
        self._cluster = cluster
        self._authorizer = authorizer
        self._memory = memory
        self._registry_deployer = registry_deployer

    async def deploy(self, call: Call, deploy: Deploy) -> Applied:
        """Carry out a Deploy, and return once the cluster has stored it."""
        applied = await self._deploy(call, deploy)
        service = await self._authorizer.shown(call, applied.service)
        return replace(applied, service=service)

    async def _deploy(self, call: Call, deploy: Deploy) -> Applied:
        user = call.caller.name[:MOST_USER]
        deploy = replace(deploy, deadline=call.write_deadline(), user=user)
        predictor = deploy.spec.predictor if deploy.spec else None
        if isinstance(predictor, RegisteredModelPredictor):
            return await self._registry_deployer.deploy(call, deploy, predictor)
        key = await self._authorizer.authorize(call, Verb.DEPLOY, deploy.key)
        deploy = replace(deploy, key=key)
        check_deploy(deploy)
        if deploy.stop is None:
            refusal = await self._authorizer.creation_refusal(call, key.namespace)
            deploy = replace(deploy, absence_refused=refusal)
        deploy = canonical_deploy(deploy)
        if not deploy.validate_only:
            await call.begin_write(key)
        with self._memory.reserve(deploy):
            return await self._cluster.apply(deploy)

    async def delete(
        self, call: Call, delete: Delete, *, allow_missing: bool
    ) -> InferenceService | None:
        """Begin a deletion and return the service as it then is; None where it was missing."""
        key = await self._authorizer.authorize(call, Verb.DELETE, delete.key)
        user = call.caller.name[:MOST_USER]
        delete = replace(delete, key=key, deadline=call.write_deadline(), user=user)
        check_delete(delete)
        if not delete.validate_only:
            await call.begin_write(key)
        try:
            return await self._authorizer.shown(call, await self._cluster.delete(delete))
        except ServiceNotFound:
            if allow_missing:
                return None
            raise
