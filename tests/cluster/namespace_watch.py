"""Everything that the API server tells of the services in one namespace, as it comes."""

from __future__ import annotations

import json
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from lab import Cluster

WATCHED = {
    "service": "/apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices",
    "deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "replica_set": "/apis/apps/v1/namespaces/{}/replicasets",
    "autoscaler": "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers",
    "pod": "/api/v1/namespaces/{}/pods",
    "event": "/api/v1/namespaces/{}/events",
}
WATCHED_OF_KNATIVE = {
    "knative_service": "/apis/serving.knative.dev/v1/namespaces/{}/services",
    "revision": "/apis/serving.knative.dev/v1/namespaces/{}/revisions",
}
OPENING = 60.0  # seconds within which every watch is open

Object = dict[str, Any]


@dataclass(frozen=True)
class Sight:
    """One line of a watch; `at` is time.time() of its arrival, `change` ADDED, MODIFIED, ..."""

    at: float
    kind: str
    change: str
    object: Object = field(repr=False)

    @property
    def written_at(self) -> float:
        """time.time() of its last write by the API server's clock, which cuts off parts of a
        second: never too late, however late `at` is."""
        metadata = self.object["metadata"]
        writes = (owner["time"] for owner in metadata.get("managedFields", ()) if "time" in owner)
        # All are in UTC and of one length.
        return datetime.fromisoformat(max((metadata["creationTimestamp"], *writes))).timestamp()


class NamespaceWatch:
    """Watches a namespace from construction, which returns when it sees all, to `close`; `seen`
    grows meanwhile."""

    def __init__(
        self,
        cluster: Cluster,
        token: str,
        namespace: str,
        watched: Mapping[str, str] = MappingProxyType(WATCHED),
    ) -> None:
        self.namespace = namespace
        self.seen: list[Sight] = []
        self._cluster = cluster
        self._token = token
        self._closed = False
        self._errors: list[Exception] = []
        trusted = ssl.create_default_context(cadata=cluster.ca.decode())
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
        )
        opened = threading.Barrier(len(watched) + 1)
        for kind, path in watched.items():
            watch = (kind, path.format(namespace), opened)
            threading.Thread(target=self._watch, args=watch, daemon=True).start()
        try:
            opened.wait(OPENING)
        except threading.BrokenBarrierError:
            self.close()
            raise TimeoutError(f"{namespace}: its watches are not open") from None

    def close(self) -> None:
        """Take nothing more in. Raises what ended one of the watches before."""
        self._closed = True
        if self._errors:
            raise self._errors[0]

    def _watch(self, kind: str, path: str, opened: threading.Barrier) -> None:
        try:
            lines = self._opened(path)
            opened.wait(OPENING)
            for line in lines:
                if self._closed:
                    return
                event = json.loads(line)
                self.seen.append(Sight(time.time(), kind, event["type"], event["object"]))
            raise ConnectionError(f"the watch of {path} was ended")
        except Exception as error:
            self._errors.append(error)
            opened.abort()

    def _opened(self, path: str) -> Any:
        authorization = {"Authorization": f"Bearer {self._token}"}
        url = f"{self._cluster.server}{path}?watch=1"
        request = urllib.request.Request(url, headers=authorization)
        while True:
            try:
                return self._opener.open(request)
            except urllib.error.HTTPError as e:
                # The first watches of a custom resource come while its storage is being set up.
                if e.code != 429:
                    raise
                time.sleep(0.2)
