"""Everything that the API server tells of the services in one namespace, as it comes."""

from __future__ import annotations

import json
import ssl
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from .lab import Cluster

WATCHED = {
    "service": "/apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices",
    "deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "replica_set": "/apis/apps/v1/namespaces/{}/replicasets",
    "autoscaler": "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers",
    "pod": "/api/v1/namespaces/{}/pods",
    "event": "/api/v1/namespaces/{}/events",
}
OPENING = 1.5

Object = dict[str, Any]


@dataclass(frozen=True)
class Sight:
    """One line of a watch; `at` is time.time() of its arrival, `change` ADDED, MODIFIED, ..."""

    at: float
    kind: str
    change: str
    object: Object = field(repr=False)


class NamespaceWatch:
    """Watches a namespace from construction to `close`; `seen` grows meanwhile."""

    def __init__(self, cluster: Cluster, token: str, namespace: str) -> None:
        self.namespace = namespace
        self.seen: list[Sight] = []
        self._cluster = cluster
        self._token = token
        self._closed = False
        for kind, path in WATCHED.items():
            watch = (kind, path.format(namespace))
            threading.Thread(target=self._watch, args=watch, daemon=True).start()
        time.sleep(OPENING)

    def close(self) -> None:
        """Take nothing more in."""
        self._closed = True

    def _watch(self, kind: str, path: str) -> None:
        for line in self._opened(path):
            if self._closed:
                return
            event = json.loads(line)
            self.seen.append(Sight(time.time(), kind, event["type"], event["object"]))

    def _opened(self, path: str) -> Any:
        authorization = {"Authorization": f"Bearer {self._token}"}
        url = f"{self._cluster.server}{path}?watch=1"
        request = urllib.request.Request(url, headers=authorization)
        trusted = ssl.create_default_context(cadata=self._cluster.ca.decode())
        while True:
            try:
                return urllib.request.urlopen(request, context=trusted)
            except urllib.error.HTTPError as e:
                # The first watches of a custom resource come while its storage is being set up.
                if e.code != 429:
                    raise
                time.sleep(0.2)
