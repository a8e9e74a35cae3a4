"""Which serving runtimes there are, asked when a Deploy replaces pods.

They are not followed: what is known of them is wanted only then, and a copy that lags would leave a
new service without the probe of a runtime that was installed a moment before it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from http import HTTPStatus

import structlog

from server.adapters.kserve.api_server import Answer, ApiServer, Unanswered, Unreachable
from server.adapters.kserve.manifests.serving_runtimes import Runtimes
from server.adapters.kserve.objects import Object, items
from server.adapters.kserve.writing.refusals import unavailable

READ_TIMEOUT = 5.0
PAUSE = 0.2

_GROUP = "/apis/serving.kserve.io/v1alpha1"
# As the API server's own cache has them: whole, and without asking its database.
_FROM_CACHE = {"resourceVersion": "0"}

log = structlog.get_logger(__name__)


class RuntimeReader:
    """Lists serving runtimes."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api

    async def read(self, namespace: str, seconds: float) -> Runtimes:
        """Those that the services of a namespace may use, asked for at most `seconds`.

        There are none of a kind that the cluster does not have, and one that may not be listed is
        not known. Raises ClusterUnavailable where the API server does not answer: a Deploy that
        went on without the probe would keep the service without it until its next change.
        """
        namespaced, cluster = await asyncio.gather(
            self._list(f"{_GROUP}/namespaces/{namespace}/servingruntimes", seconds),
            self._list(f"{_GROUP}/clusterservingruntimes", seconds),
        )
        return Runtimes(namespaced, cluster)

    async def _list(self, path: str, seconds: float) -> Sequence[Object] | None:
        ends = time.monotonic() + min(seconds, READ_TIMEOUT)
        answer = await self._ask(path, ends - time.monotonic())
        # An API server that has just started says so of a resource for its first moments.
        while _is_passing(answer) and (left := ends - time.monotonic()) > PAUSE:
            await asyncio.sleep(PAUSE)
            answer = await self._ask(path, left - PAUSE)
        if answer.ok:
            return items(answer.body, "items")
        if answer.status == HTTPStatus.NOT_FOUND:
            return ()
        if answer.status == HTTPStatus.FORBIDDEN:
            log.warning("serving runtimes cannot be listed", path=path)
            return None
        raise unavailable()

    async def _ask(self, path: str, seconds: float) -> Answer:
        try:
            return await self._api.send("GET", path, query=_FROM_CACHE, timeout=seconds)
        except (Unreachable, Unanswered) as e:
            raise unavailable() from e


def _is_passing(answer: Answer) -> bool:
    return answer.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
