"""Cache the serving runtimes, so that a Deploy need not list them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import structlog

from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.informers.collections import Kind, Resource, followed_runtimes
from server.adapters.kserve.informers.reflector import Reflector
from server.adapters.kserve.informers.watch_stream import WatchEvent
from server.adapters.kserve.manifests.serving_runtimes import Runtimes, with_used_fields
from server.adapters.kserve.objects import Object, name_of

# An open watch is confirmed every 2 s.
CURRENT_FOR = 5.0
# Of one collection, as JSON. A runtime of KServe's takes 600 bytes.
MOST_BYTES = 2**22

log = structlog.get_logger(__name__)

_Name = tuple[str, str]


class RuntimeCache:
    """Watch the runtimes that services of `namespaces` can use, while its `reflectors` run.

    A collection that is missing, may not be watched or takes more than MOST_BYTES is not cached.
    """

    def __init__(self, api: ApiServer, namespaces: Sequence[str]) -> None:
        self.reflectors = [Reflector(api, r, self) for r in followed_runtimes(namespaces)]
        self._cached: dict[Resource, dict[_Name, Object]] = {}
        self._bytes: dict[Resource, int] = {}

    def of(self, namespace: str) -> Runtimes | None:
        """Return the runtimes for services of a namespace, at most CURRENT_FOR seconds old; None
        if they are not cached."""
        oldest = time.monotonic() - CURRENT_FOR
        current = {r.resource for r in self.reflectors if r.current_at >= oldest}
        cluster = Resource(Kind.CLUSTER_SERVING_RUNTIMES)
        namespaced = [Resource(Kind.SERVING_RUNTIMES, n) for n in (namespace, "")]
        own = next((r for r in namespaced if r in self._cached and r in current), None)
        if own is None or cluster not in self._cached or cluster not in current:
            return None
        found = [o for (of, _), o in self._cached[own].items() if of == namespace]
        return Runtimes(found, list(self._cached[cluster].values()))

    def listing_begins(self) -> int:
        """See `Sink`; this server writes no runtimes, so any list is newer."""
        return 0

    def listed(self, resource: Resource, objects: Sequence[Object], began: int) -> None:
        """See `Sink`."""
        self._cached[resource], self._bytes[resource] = {}, 0
        for found in objects:
            self._put(resource, found)

    def absent(self, resource: Resource) -> None:
        """See `Sink`."""
        self._cached.pop(resource, None)

    def needs_list(self, resource: Resource) -> bool:
        """See `Sink`."""
        return False

    def changed(self, resource: Resource, event: WatchEvent) -> None:
        """See `Sink`."""
        if event.type == "DELETED":
            self._drop(resource, event.object)
        else:
            self._put(resource, event.object)

    def _put(self, resource: Resource, found: Object) -> None:
        if resource not in self._cached:
            return
        self._drop(resource, found)
        runtime = with_used_fields(found)
        self._cached[resource][_name(found)] = runtime
        self._bytes[resource] += _size(runtime)
        if self._bytes[resource] > MOST_BYTES:
            log.warning("too many serving runtimes to cache", resource=str(resource))
            self.absent(resource)

    def _drop(self, resource: Resource, found: Object) -> None:
        before = self._cached.get(resource, {}).pop(_name(found), None)
        if before is not None:
            self._bytes[resource] -= _size(before)


def _size(runtime: Object) -> int:
    return len(json.dumps(runtime))


def _name(runtime: Object) -> _Name:
    return str(runtime["metadata"].get("namespace", "")), name_of(runtime)
