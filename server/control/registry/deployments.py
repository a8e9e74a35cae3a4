"""The records of deployments: what was deployed where, when, and what became of it."""

from __future__ import annotations

from dataclasses import astuple, replace

from server.control.call import Call
from server.control.registry.pages import Listed, Listing
from server.domain.registry.deployment import DeploymentFilter, ModelDeployment
from server.domain.registry.registry_errors import DeploymentNotFound
from server.domain.registry.registry_validation import check_deployment, check_filter
from server.ports import Page, Registry, RegistryReading


class Deployments:
    """A record is read in its own project only."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def get(self, call: Call, project: str, deployment_id: str) -> ModelDeployment:
        """The record. Raises FieldInvalid, DeploymentNotFound."""
        check_deployment(project, deployment_id)

        async def work(tx: RegistryReading) -> ModelDeployment | None:
            return await tx.deployment(deployment_id)

        record = await self._registry.read(work)
        if record is None or record.project != project:
            raise DeploymentNotFound(
                f"there is no deployment {deployment_id!a} in the project {project!a}"
            )
        return record

    async def list(
        self, call: Call, wanted: DeploymentFilter, size: int, page_token: str
    ) -> Listed[ModelDeployment]:
        """A page of the records that are wanted, newest first. Raises FieldInvalid,
        PageTokenInvalid."""
        check_filter(wanted)
        # A set's order differs from process to process, and the next page may be another's.
        others = replace(wanted, states=frozenset())
        listing = Listing("deployments", *astuple(others), sorted(wanted.states))
        start = listing.start(page_token)

        async def work(tx: RegistryReading) -> Page[ModelDeployment]:
            return await tx.deployments(wanted, size, start)

        return listing.listed(await self._registry.read(work))
