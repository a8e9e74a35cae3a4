"""Find the serving runtimes of a model, when a Deploy replaces its pods.

They come from the informers' cache, or where that has none from a list, which may be half a second
old. Before a model counts as without a runtime, they are read past every cache: a runtime that was
installed just before its service gives it a readiness probe.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus

import structlog

from server.adapters.kserve.apply.api_server_errors import unavailable
from server.adapters.kserve.client import Answer, ApiServer, Unanswered, Unreachable
from server.adapters.kserve.manifests.serving_runtimes import Runtimes, candidates
from server.adapters.kserve.objects import Object, get_list
from server.deadline import Deadline
from server.domain.service.inference_service import ModelPredictor

READ_TIMEOUT = 5.0
PAUSE = 0.2
SHARED_FOR = 0.5
LEAST_TIME = 0.1
# Callers choose the namespaces.
MOST_REFUSALS_LOGGED = 100

_GROUP = "/apis/serving.kserve.io/v1alpha1"
_FROM_CACHE = {"resourceVersion": "0"}
_TRANSIENT = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)

log = structlog.get_logger(__name__)


class RuntimeReader:
    """Reads serving runtimes. `cached` returns those for a namespace, or None if it has none.

    Without a cache Deploys in quick succession share a list.
    """

    def __init__(self, api: ApiServer, cached: Callable[[str], Runtimes | None]) -> None:
        self._api = api
        self._cached = cached
        self._shared: dict[str, tuple[float, Sequence[Object] | None]] = {}
        self._refused: set[str] = set()

    async def read(self, model: ModelPredictor, namespace: str, deadline: Deadline) -> list[Object]:
        """Return the runtimes that KServe chooses from for a model, in its order.

        Empty also if this server may not list all of them. Raises ClusterUnavailable if the API
        server does not answer: a Deploy without the list would leave its service without a
        readiness probe until the next change.
        """
        deadline = deadline.sooner(Deadline.after(READ_TIMEOUT))
        runtimes = self._cached(namespace) or await self._list_both(namespace, deadline)
        found = candidates(model, runtimes)
        if found or None in (runtimes.namespaced, runtimes.cluster):
            return found
        self._shared.clear()
        return candidates(model, await self._list_both(namespace, deadline, query={}))

    async def _list_both(
        self, namespace: str, deadline: Deadline, query: Mapping[str, str] = _FROM_CACHE
    ) -> Runtimes:
        namespaced, cluster = await asyncio.gather(
            self._list(f"{_GROUP}/namespaces/{namespace}/servingruntimes", deadline, query),
            self._list(f"{_GROUP}/clusterservingruntimes", deadline, query),
        )
        return Runtimes(namespaced, cluster)

    async def _list(
        self, path: str, deadline: Deadline, query: Mapping[str, str]
    ) -> Sequence[Object] | None:
        asked_at = time.monotonic()
        # Drop old lists, so that they do not pile up with the namespaces.
        self._shared = {p: h for p, h in self._shared.items() if asked_at - h[0] < SHARED_FOR}
        if path in self._shared:
            return self._shared[path][1]
        runtimes = self._listed(path, await self._answer(path, deadline, query))
        self._shared[path] = asked_at, runtimes
        return runtimes

    async def _answer(self, path: str, deadline: Deadline, query: Mapping[str, str]) -> Answer:
        answer = await self._ask(path, deadline, query)
        # An API server that has just started refuses a resource for its first moments.
        while answer.status in _TRANSIENT and deadline.left() > PAUSE:
            await asyncio.sleep(PAUSE)
            answer = await self._ask(path, deadline, query)
        return answer

    async def _ask(self, path: str, deadline: Deadline, query: Mapping[str, str]) -> Answer:
        try:
            return await self._api.send("GET", path, query=query, timeout=deadline.left(LEAST_TIME))
        except (Unreachable, Unanswered) as e:
            raise unavailable(e) from e

    def _listed(self, path: str, answer: Answer) -> Sequence[Object] | None:
        if answer.ok:
            return get_list(answer.body, "items")
        if answer.status == HTTPStatus.NOT_FOUND:
            return ()
        if answer.status != HTTPStatus.FORBIDDEN:
            raise unavailable()
        if path not in self._refused and len(self._refused) < MOST_REFUSALS_LOGGED:
            self._refused.add(path)
            log.warning("serving runtimes may not be listed", path=path)
        return None
