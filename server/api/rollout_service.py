"""RolloutService: each method converts its request, calls control, and encodes the response."""

from __future__ import annotations

from modelservice.v1 import rollout_service_pb2 as pb

from server.api.requests import start_of, stop_of
from server.api.responses import Responses
from server.control.call import Call
from server.control.deploy import Deployer

# ruff: noqa: N802  (the contract names the RPCs)


class RolloutService:
    """Serves the contract's RolloutService. Each RPC gets its Call in place of gRPC's context, and
    returns the bytes of its response."""

    def __init__(self, *, deployer: Deployer, responses: Responses) -> None:
        self._deployer = deployer
        self._responses = responses

    async def Stop(self, request: pb.StopRequest, call: Call) -> bytes:
        """Serve the RPC."""
        applied = await self._deployer.deploy(call, stop_of(request))
        return self._responses.deploy(call, applied)

    async def Start(self, request: pb.StartRequest, call: Call) -> bytes:
        """Serve the RPC."""
        applied = await self._deployer.deploy(call, start_of(request))
        return self._responses.deploy(call, applied)
