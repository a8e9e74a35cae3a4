"""ModelService: each method reads its request, has it done, and renders the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

from modelservice.v1 import model_service_pb2 as pb

from server import failpoints
from server.api.requests import delete_of, deploy_of, key_of, listing_of, rollout_of, watch_of
from server.api.responses import Answers
from server.control.deploy import Deploying
from server.control.read import Reading
from server.control.scope import Scope
from server.control.watch import Watching

CLUSTER_TIMEOUT = timedelta(seconds=30)
# What our own answer, that the outcome is unknown, needs to reach the caller in time.
ANSWER_MARGIN = timedelta(milliseconds=300)


class ModelService:
    """The contract's servicer, which answers in bytes."""

    def __init__(
        self,
        *,
        scope: Scope,
        deploying: Deploying,
        reading: Reading,
        watching: Watching,
        answers: Answers,
    ) -> None:
        self._scope = scope
        self._deploying = deploying
        self._reading = reading
        self._watching = watching
        self._answers = answers

    async def Deploy(self, request: pb.DeployRequest, context: Any) -> bytes:  # noqa: N802
        """See the contract."""
        deploy = deploy_of(request, self._scope, _cluster_timeout(context))
        applied = await self._deploying.deploy(deploy)
        failpoints.reached("before-answer")
        return self._answers.deployed(applied)

    async def Get(self, request: pb.GetRequest, context: Any) -> bytes:  # noqa: N802
        """See the contract."""
        key, rollout = key_of(request, self._scope), rollout_of(request.rollout_id)
        service = await self._reading.get(key, rollout)
        return self._answers.got(service)

    async def List(self, request: pb.ListRequest, context: Any) -> bytes:  # noqa: N802
        """See the contract."""
        listed = await self._reading.list(listing_of(request, self._scope))
        return await self._answers.listed(listed)

    async def Delete(self, request: pb.DeleteRequest, context: Any) -> bytes:  # noqa: N802
        """See the contract."""
        delete = delete_of(request, self._scope, _cluster_timeout(context))
        service = await self._deploying.delete(delete, allow_missing=request.allow_missing)
        return self._answers.deleted(service)

    async def WatchStatus(  # noqa: N802
        self, request: pb.WatchStatusRequest, context: Any
    ) -> AsyncIterator[bytes]:
        """See the contract."""
        watch = watch_of(request, self._scope)
        async with aclosing(self._watching.watch(watch)) as events:
            async for event in events:
                yield self._answers.watched(watch, event)


def _cluster_timeout(context: Any) -> timedelta:
    """How long the cluster has to answer a write."""
    left = context.time_remaining()
    if left is None:
        return CLUSTER_TIMEOUT
    given = timedelta(seconds=left)
    return min(CLUSTER_TIMEOUT, max(given - ANSWER_MARGIN, given / 2))
