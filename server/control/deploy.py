"""Deploying and deleting: check, let the cluster store it, put its answer in the view."""

from __future__ import annotations

from dataclasses import replace

from server.control.authorizer import Authorizer, Verb
from server.control.call import Call
from server.control.registry_deploy import RegistryDeploying
from server.control.service_memory import ServiceMemory
from server.control.watch_cache import View
from server.domain.errors import ServiceNotFound
from server.domain.service.canonical_spec import canonical_deploy
from server.domain.service.commands import Applied, Delete, Deploy
from server.domain.service.inference_service import InferenceService, RegisteredModelPredictor
from server.domain.service.validation import check_delete, check_deploy
from server.ports import Cluster


class Deploying:
    """Commands write the cluster: an acknowledged one is stored there, whatever becomes of the
    record that a Deploy from the registry has besides."""

    def __init__(
        self,
        cluster: Cluster,
        view: View,
        authorizer: Authorizer,
        memory: ServiceMemory,
        from_registry: RegistryDeploying,
    ) -> None:
        self._cluster = cluster
        self._view = view
        self._authorizer = authorizer
        self._memory = memory
        self._from_registry = from_registry

    async def deploy(self, call: Call, deploy: Deploy) -> Applied:
        """Carry out a Deploy, and return once the cluster has stored it."""
        deploy = replace(deploy, deadline=call.write_deadline())
        predictor = deploy.spec.predictor if deploy.spec else None
        if isinstance(predictor, RegisteredModelPredictor):
            return await self._from_registry.deploy(call, deploy, predictor)
        key = self._authorizer.authorize(call, Verb.DEPLOY, deploy.key)
        deploy = replace(deploy, key=key)
        check_deploy(deploy)
        wish = canonical_deploy(deploy)
        with self._memory.room_for(wish):
            applied = await self._cluster.apply(wish)
            if not deploy.validate_only:
                self._view.put(applied.service)
        return applied

    async def delete(
        self, call: Call, delete: Delete, *, allow_missing: bool
    ) -> InferenceService | None:
        """Begin a deletion and return the service as it then is; None where it was missing."""
        key = self._authorizer.authorize(call, Verb.DELETE, delete.key)
        delete = replace(delete, key=key, deadline=call.write_deadline())
        check_delete(delete)
        try:
            service = await self._cluster.delete(delete)
        except ServiceNotFound:
            if allow_missing:
                return None
            raise
        if not delete.validate_only:
            self._view.put(service)
        return service
