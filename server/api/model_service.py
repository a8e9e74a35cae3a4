"""ModelService: each method converts its request, calls control, and encodes the response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from modelservice.v1 import model_service_pb2 as pb

from server.api.requests import delete_of, deploy_of, list_query_of, rollout_of, watch_of
from server.api.responses import Responses
from server.control.call import Call
from server.control.deploy import Deployer
from server.control.read import Reader
from server.control.watch import Watcher
from server.control.watch_stream import WatchEvent
from server.domain.service.inference_service import ServiceKey

Write = Callable[[bytes], Awaitable[None]]


class ModelService:
    """Serves the contract's ModelService. Each RPC gets its Call in place of gRPC's context. A
    unary one returns the bytes of its response, a stream writes those of each message."""

    def __init__(
        self,
        *,
        deployer: Deployer,
        reader: Reader,
        watcher: Watcher,
        responses: Responses,
    ) -> None:
        self._deployer = deployer
        self._reader = reader
        self._watcher = watcher
        self._responses = responses

    async def Deploy(self, request: pb.DeployRequest, call: Call) -> bytes:  # noqa: N802
        """Serve the RPC."""
        applied = await self._deployer.deploy(call, deploy_of(request))
        return self._responses.deploy(call, applied)

    async def Get(self, request: pb.GetRequest, call: Call) -> bytes:  # noqa: N802
        """Serve the RPC."""
        key, rollout = ServiceKey(request.namespace, request.name), rollout_of(request.rollout_id)
        service = await self._reader.get(call, key, rollout)
        return self._responses.get(service)

    async def List(self, request: pb.ListRequest, call: Call) -> bytes:  # noqa: N802
        """Serve the RPC."""
        page = await self._reader.list(call, list_query_of(request))
        return await self._responses.list(page)

    async def Delete(self, request: pb.DeleteRequest, call: Call) -> bytes:  # noqa: N802
        """Serve the RPC."""
        service = await self._deployer.delete(
            call, delete_of(request), allow_missing=request.allow_missing
        )
        if service:
            call.note_result(rollout_id=service.rollout.id)
        return self._responses.delete(service)

    def WatchStatus(  # noqa: N802
        self, request: pb.WatchStatusRequest, call: Call, write: Write
    ) -> Awaitable[None]:
        """Serve the RPC. What it returns keeps nothing of the request's message."""
        writer = _EventWriter(self._responses, write, of_one=bool(request.name))
        return self._watcher.watch(call, watch_of(request), writer)


@dataclass(slots=True)
class _EventWriter:
    """Writes the events of a stream. It takes less memory than a closure; thousands are open."""

    responses: Responses
    write: Write
    of_one: bool

    def __call__(self, event: WatchEvent) -> Awaitable[None]:
        """Encode an event and write it."""
        return self.write(self.responses.watch(event, of_one=self.of_one))
