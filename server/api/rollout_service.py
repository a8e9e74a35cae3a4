"""RolloutService: each method converts its request, calls control, and encodes the response."""

from __future__ import annotations

from modelservice.v1 import rollout_service_pb2 as pb

from server.api.requests import revision_query_of, rollback_of, start_of, stop_of
from server.api.responses import Responses
from server.api.revisions import revision_list
from server.control.call import Call
from server.control.deploy import Deployer
from server.control.rollouts import Rollouts

# ruff: noqa: N802  (the contract names the RPCs)


class RolloutService:
    """Serves the contract's RolloutService. Each RPC gets its Call in place of gRPC's context, and
    returns the bytes of its response."""

    def __init__(self, *, deployer: Deployer, rollouts: Rollouts, responses: Responses) -> None:
        self._deployer = deployer
        self._rollouts = rollouts
        self._responses = responses

    async def ListRevisions(self, request: pb.ListRevisionsRequest, call: Call) -> bytes:
        """Serve the RPC."""
        page = await self._rollouts.list_revisions(call, revision_query_of(request))
        return await revision_list(page)

    async def Rollback(self, request: pb.RollbackRequest, call: Call) -> bytes:
        """Serve the RPC."""
        applied = await self._rollouts.rollback(call, rollback_of(request))
        return self._responses.deploy(call, applied)

    async def Stop(self, request: pb.StopRequest, call: Call) -> bytes:
        """Serve the RPC."""
        applied = await self._deployer.deploy(call, stop_of(request))
        return self._responses.deploy(call, applied)

    async def Start(self, request: pb.StartRequest, call: Call) -> bytes:
        """Serve the RPC."""
        applied = await self._deployer.deploy(call, start_of(request))
        return self._responses.deploy(call, applied)
