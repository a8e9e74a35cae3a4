"""Get and List: served from the watch cache. Only an absence is confirmed by the cluster."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

from server.control.authorizer import Authorizer, Coverage, Verb
from server.control.call import Call
from server.control.live_reads import LiveReads
from server.control.watch_cache import ALL, WatchCache
from server.domain.errors import (
    ClusterUnavailable,
    PageTokenInvalid,
    RolloutGone,
    ServerCredentialsRefused,
    ServiceNotFound,
    ViewBehind,
)
from server.domain.kubernetes.selectors import Selector
from server.domain.opaque_tokens import decode_token, encode_token
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import State
from server.domain.service.commands import fingerprint
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.validation import check_key, check_namespace
from server.ports import Cluster

CATCH_UP_SECONDS = 2.0
# With the longest selector some 10 ms.
MATCHED_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class ListQuery:
    """A request to list. `page_token` belongs to the same target, selector and states."""

    target: ServiceKey
    selector: Selector
    page_size: int
    states: frozenset[State] = frozenset()
    page_token: str = ""

    @property
    def binding(self) -> str:
        """A fingerprint that page tokens are bound to."""
        return fingerprint([*self.target, str(self.selector), sorted(self.states)])


@dataclass(frozen=True, slots=True)
class ListPage:
    """A page of `services` of one moment; whether there are `more`; the `total` of all pages."""

    services: Sequence[InferenceService]
    more: bool
    total: int
    token_after: Callable[[InferenceService], str]


class Reader:
    """Reads services. It asks the cluster only before it reports an awaited rollout as gone."""

    def __init__(self, cluster: Cluster, cache: WatchCache, authorizer: Authorizer) -> None:
        self._live_reads = LiveReads(cluster)
        self._cache = cache
        self._authorizer = authorizer

    async def get(
        self, call: Call, key: ServiceKey, rollout: Rollout | None = None
    ) -> InferenceService:
        """Return the service, no older than `rollout` where one is named.

        Raises NamespaceNotServed, PermissionDenied, FieldInvalid, ServiceNotFound, RolloutGone,
        ViewNotReady, ViewBehind.
        """
        key = await self._authorizer.authorize(call, Verb.GET, key)
        check_key(key)
        self._cache.require_synced()
        if rollout:
            await self.catch_up(call, key, rollout)
        service = self._cache.get(key)
        if service is None:
            raise ServiceNotFound(key)
        return await self._authorizer.shown(call, service)

    async def list(self, call: Call, query: ListQuery) -> ListPage:
        """Return a page of services by namespace and name.

        A page of `-` has the namespaces that the caller may list, as it is asked for. Raises
        NamespaceNotServed, PermissionDenied, FieldInvalid, ViewNotReady, PageTokenInvalid.
        """
        target = await self._authorizer.authorize(call, Verb.LIST, query.target)
        if target.namespace != ALL:
            check_namespace(target.namespace)
        query = replace(query, target=target)
        self._cache.require_synced()
        after = _page_start(query)
        coverage = await self._authorizer.coverage(call, Verb.LIST, target, self._cache.namespaces)
        if not query.selector and not query.states:
            total = sum(map(self._cache.count, coverage.targets))
            rest = self._services(coverage, after)
            page: Sequence[InferenceService] = list(islice(rest, query.page_size + 1))
        else:
            found = await self._matching(query, coverage)
            total = len(found)
            start = bisect_right(found, after, key=lambda s: s.key) if after else 0
            page = found[start : start + query.page_size + 1]
        return ListPage(
            services=await self._authorizer.shown_list(call, page[: query.page_size]),
            more=len(page) > query.page_size,
            total=total,
            token_after=lambda s: _page_token(query, s.key),
        )

    async def catch_up(self, call: Call, key: ServiceKey, rollout: Rollout) -> None:
        """Wait until the cache has the rollout or a newer one of the same service.

        After 2 s the cluster is asked once. Raises RolloutGone if it lacks the rollout too, and
        ViewBehind if it has it.
        """
        if await self._seen_within(CATCH_UP_SECONDS, key, rollout):
            return
        try:
            live = await self._live_reads.read(key)
        except ServerCredentialsRefused:
            raise
        except ClusterUnavailable as e:
            raise _behind(key) from e
        if self._has(key, rollout):
            return
        if live is None or live.uid != rollout.uid or live.generation < rollout.generation:
            raise RolloutGone(
                f"the awaited rollout of {key} is gone: the service was deleted or created again"
            )
        raise _behind(key)

    async def _seen_within(self, seconds: float, key: ServiceKey, rollout: Rollout) -> bool:
        with self._cache.subscribe(key) as changes:
            try:
                async with asyncio.timeout(seconds):
                    while not self._has(key, rollout):
                        await changes.wait()
            except TimeoutError:
                return False
        return True

    def _has(self, key: ServiceKey, rollout: Rollout) -> bool:
        self._cache.require_running()
        if self._cache.is_deleted(rollout.uid):
            raise RolloutGone(f"the awaited rollout of {key} is gone: the service was deleted")
        service = self._cache.get(key)
        return (
            service is not None
            and service.uid == rollout.uid
            and service.generation >= rollout.generation
        )

    def _services(
        self, coverage: Coverage, after: ServiceKey | None = None
    ) -> Iterator[InferenceService]:
        return chain.from_iterable(self._cache.services(t, after) for t in coverage.targets)

    async def _matching(self, query: ListQuery, coverage: Coverage) -> Sequence[InferenceService]:
        """Return all matches of one moment. Other calls have the event loop in between."""
        found = []
        for nth, service in enumerate(list(self._services(coverage)), start=1):
            if _matches(query, service):
                found.append(service)
            if nth % MATCHED_AT_ONCE == 0:
                await asyncio.sleep(0)
        return found


def _matches(query: ListQuery, service: InferenceService) -> bool:
    return query.selector.matches(service.selectable_labels) and (
        not query.states or service.status.state in query.states
    )


def _behind(key: ServiceKey) -> ViewBehind:
    return ViewBehind(f"this replica has not yet seen the awaited rollout of {key}: try again")


def _page_token(query: ListQuery, last: ServiceKey) -> str:
    return encode_token([query.binding, *last])


def _page_start(query: ListQuery) -> ServiceKey | None:
    if not query.page_token:
        return None
    match decode_token(query.page_token):
        case [query.binding, str(namespace), str(name)]:
            return ServiceKey(namespace, name)
    raise PageTokenInvalid("page_token must be from a List of the same target, selector and states")
