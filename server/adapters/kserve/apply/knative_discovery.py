"""Ask whether the cluster has Knative, when a Deploy needs it and no informer watches it."""

from __future__ import annotations

from server.adapters.kserve.apply.api_server_errors import error_of, unavailable
from server.adapters.kserve.apply.service_client import LEAST_TIME
from server.adapters.kserve.client import Answer, ApiServer, Unanswered, Unreachable
from server.adapters.kserve.informers.collections import KNATIVE, Resource, serves
from server.adapters.kserve.informers.status_feed import StatusFeed
from server.adapters.kserve.informers.watch_stream import Refused
from server.adapters.kserve.modes import STANDARD
from server.deadline import Deadline
from server.domain.errors import UnsupportedByCluster
from server.domain.service.inference_service import ServiceKey


class KnativeDiscovery:
    """Checks that services of Knative mode can run, and that their status can be read."""

    def __init__(self, api: ApiServer, feed: StatusFeed) -> None:
        self._api = api
        self._feed = feed

    async def require(self, key: ServiceKey, deadline: Deadline, *, by_default: bool) -> None:
        """Require Knative for a Deploy; `by_default`: Knative is the cluster's default mode.

        Raises UnsupportedByCluster if the cluster has no Knative, ServerLacksRights if this server
        may not list its objects, and ClusterUnavailable.
        """
        if self._feed.object_cache.follows_knative(key.namespace):
            return
        for kind in KNATIVE:
            resource = Resource(kind, key.namespace)
            group = await self._get(resource.group_path, deadline)
            try:
                served = serves(group, kind)
            except Refused as e:
                raise error_of(group, key, writes=False) from e
            if not served:
                default = ", the cluster's default" if by_default else ""
                raise UnsupportedByCluster(
                    f"{key} would run in Knative mode{default}, and the cluster has no Knative"
                    f" Serving: install it, or set spec.deployment_mode to {STANDARD}"
                )
            listed = await self._get(f"{resource.path}?limit=1", deadline)
            if not listed.ok:
                raise error_of(listed, key, writes=False)
        # Knative was installed a moment ago: watch it now, so that this Deploy's status is read.
        self._feed.look_for_knative()

    async def _get(self, path: str, deadline: Deadline) -> Answer:
        try:
            return await self._api.send("GET", path, timeout=deadline.left(LEAST_TIME))
        except (Unreachable, Unanswered) as e:
            raise unavailable(e) from e
