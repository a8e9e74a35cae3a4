"""Reads of the records of deployments."""

from __future__ import annotations

from dataclasses import astuple, replace

from server.control.authorizer import Authorizer, ProjectVerb
from server.control.call import Call
from server.control.registry.pages import ItemPage, PagedList
from server.domain.registry.deployment import DeploymentFilter, ModelDeployment
from server.domain.registry.registry_errors import DeploymentNotFound
from server.domain.registry.registry_validation import check_deployment, check_filter
from server.ports import Page, Registry, RegistryReading


class Deployments:
    """Reads records, each in its own project only."""

    def __init__(self, registry: Registry, authorizer: Authorizer) -> None:
        self._registry = registry
        self._authorizer = authorizer

    async def get(self, call: Call, project: str, deployment_id: str) -> ModelDeployment:
        """Return a record. Raises FieldInvalid, DeploymentNotFound."""
        check_deployment(project, deployment_id)
        await self._authorizer.authorize_project(call, ProjectVerb.GET, project)

        async def work(tx: RegistryReading) -> ModelDeployment | None:
            return await tx.deployment(deployment_id)

        record = await self._registry.read(work)
        if record is None or record.project != project:
            raise DeploymentNotFound(
                f"there is no deployment {deployment_id!a} in the project {project!a}"
            )
        [shown] = await self._authorizer.shown_records(call, [record])
        return shown

    async def list(
        self, call: Call, matching: DeploymentFilter, size: int, page_token: str
    ) -> ItemPage[ModelDeployment]:
        """Return a page of the records that match a filter, newest first. Raises FieldInvalid,
        PageTokenInvalid."""
        check_filter(matching)
        await self._authorizer.authorize_project(call, ProjectVerb.GET, matching.project)
        # The order of a set differs between the replicas that serve the pages.
        others = replace(matching, states=frozenset())
        paged = PagedList("deployments", *astuple(others), sorted(matching.states))
        start = paged.start(page_token)

        async def work(tx: RegistryReading) -> Page[ModelDeployment]:
            return await tx.deployments(matching, size, start)

        page = await self._registry.read(work)
        shown = await self._authorizer.shown_records(call, page.items)
        return paged.with_tokens(replace(page, items=shown))
