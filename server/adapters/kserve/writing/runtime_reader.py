"""Which serving runtimes there are, asked when a Deploy of a model replaces pods.

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
from server.adapters.kserve.manifests.serving_runtimes import Runtimes, candidates
from server.adapters.kserve.objects import Object, items
from server.adapters.kserve.writing.refusals import unavailable
from server.domain.inference_service import ModelPredictor

READ_TIMEOUT = 5.0
PAUSE = 0.2
SHARED_FOR = 0.5

_GROUP = "/apis/serving.kserve.io/v1alpha1"
# As the API server's own cache has them: whole, and without asking its database.
_FROM_CACHE = {"resourceVersion": "0"}

log = structlog.get_logger(__name__)


class RuntimeReader:
    """Lists serving runtimes; Deploys that come in a burst share a list."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._held: dict[str, tuple[float, Sequence[Object] | None]] = {}

    async def read(self, model: ModelPredictor, namespace: str, seconds: float) -> Runtimes:
        """Those that a model in a namespace may be served by, asked for at most `seconds`.

        What is held is not believed that there is none. There are none of a kind that the cluster
        does not have, and one that may not be listed is not known. Raises ClusterUnavailable where
        the API server does not answer: a Deploy that went on without the probe would keep the
        service without it until its next change.
        """
        began = time.monotonic()
        runtimes = await self._known(namespace, seconds, since=began - SHARED_FOR)
        if not candidates(model, runtimes):
            runtimes = await self._known(namespace, seconds, since=began)
        return runtimes

    async def _known(self, namespace: str, seconds: float, since: float) -> Runtimes:
        # Of a namespace that is done with, nothing stays.
        self._held = {path: held for path, held in self._held.items() if held[0] >= since}
        ends = time.monotonic() + min(seconds, READ_TIMEOUT)
        namespaced, cluster = await asyncio.gather(
            self._list(f"{_GROUP}/namespaces/{namespace}/servingruntimes", ends),
            self._list(f"{_GROUP}/clusterservingruntimes", ends),
        )
        return Runtimes(namespaced, cluster)

    async def _list(self, path: str, ends: float) -> Sequence[Object] | None:
        if path in self._held:
            return self._held[path][1]
        asked_at = time.monotonic()
        answer = await self._ask(path, ends - asked_at)
        # An API server that has just started says so of a resource for its first moments.
        while _is_passing(answer) and (left := ends - time.monotonic()) > PAUSE:
            await asyncio.sleep(PAUSE)
            answer = await self._ask(path, left - PAUSE)
        self._held[path] = asked_at, _listed(path, answer)
        return self._held[path][1]

    async def _ask(self, path: str, seconds: float) -> Answer:
        try:
            return await self._api.send("GET", path, query=_FROM_CACHE, timeout=seconds)
        except (Unreachable, Unanswered) as e:
            raise unavailable() from e


def _listed(path: str, answer: Answer) -> Sequence[Object] | None:
    if answer.ok:
        return items(answer.body, "items")
    if answer.status == HTTPStatus.NOT_FOUND:
        return ()
    if answer.status == HTTPStatus.FORBIDDEN:
        log.warning("serving runtimes cannot be listed", path=path)
        return None
    raise unavailable()


def _is_passing(answer: Answer) -> bool:
    return answer.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
