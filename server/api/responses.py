"""What callers are answered."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from modelservice.v1 import model_service_pb2 as pb

from server.api.services import PartCache, ServiceParts, identity_message, service_message
from server.control.read import Listed
from server.control.watch import Watch, WatchEvent
from server.control.watch_cache import Identity
from server.domain.service.commands import Applied
from server.domain.service.inference_service import InferenceService
from server.ports import Cluster

_DAY_SECONDS = 86_400
PAGE_BYTES = 2 * 2**20
# Some 5 ms, where none of them was rendered before.
_RENDERED_AT_ONCE = 50


class Answers:
    """Responses, each with the age of the view that it comes from, in the bytes that are sent.

    Nine parts in ten of the bytes that readers get are services, which change seldom: those parts
    are kept, and only what stands around them is made for each answer. By protobuf's encoding the
    bytes of a message's parts, one after the other, are the bytes of the whole.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        cache = PartCache()
        watched = partial(ServiceParts, lambda m: pb.WatchStatusResponse(service=m), cache)
        self._got = ServiceParts(lambda m: pb.GetResponse(service=m), cache, log_lines=True)
        self._listed = ServiceParts(lambda m: pb.ListResponse(services=[m]), cache, log_lines=False)
        self._watched = watched(log_lines=True)
        self._watched_among = watched(log_lines=False)

    def deployed(self, applied: Applied) -> bytes:
        """The answer to a Deploy."""
        rollout_id = applied.rollout.id if applied.rollout else ""
        service = service_message(applied.service)
        if not rollout_id:
            # That of a dry run would be the name of whatever rollout comes next.
            service.ClearField("rollout_id")
        return pb.DeployResponse(
            service=service,
            action=pb.DeployResponse.Action.Value(f"ACTION_{applied.action.value}"),
            rollout_id=rollout_id,
            view_age=self._view_age(),
        ).SerializeToString()

    def got(self, service: InferenceService) -> bytes:
        """The answer to a Get."""
        around = pb.GetResponse(view_age=self._view_age())
        return self._got.of(service) + around.SerializeToString()

    def deleted(self, service: InferenceService | None) -> bytes:
        """The answer to a Delete; None: there was nothing."""
        return pb.DeleteResponse(
            service=service_message(service) if service else None, view_age=self._view_age()
        ).SerializeToString()

    async def listed(self, listed: Listed) -> bytes:
        """One page, within PAGE_BYTES but of one service at least; between parts of the work
        others have the loop."""
        parts: list[bytes] = []
        room = PAGE_BYTES
        for service in listed.services:
            part = self._listed.of(service)
            room -= len(part)
            if parts and room < 0:
                break
            parts.append(part)
            if len(parts) % _RENDERED_AT_ONCE == 0:
                await asyncio.sleep(0)
        more = listed.more or len(parts) < len(listed.services)
        around = pb.ListResponse(
            next_page_token=listed.token_after(listed.services[len(parts) - 1]) if more else "",
            total_size=listed.total,
            view_age=self._view_age(),
        )
        return b"".join(parts) + around.SerializeToString()

    def watched(self, watch: Watch, event: WatchEvent) -> bytes:
        """One message of a watch; log lines only where it is for one service."""
        around = pb.WatchStatusResponse(
            type=pb.WatchStatusResponse.Type.Value(f"TYPE_{event.type.value}"),
            resume_token=event.resume_token,
            observe_time=_now(),
            view_age=self._view_age(),
        ).SerializeToString()
        if event.service is None:
            return around
        if isinstance(event.service, Identity):
            gone = pb.WatchStatusResponse(service=identity_message(event.service))
            return gone.SerializeToString() + around
        parts = self._watched if watch.target.name else self._watched_among
        return parts.of(event.service) + around

    def _view_age(self) -> Duration | None:
        age = self._cluster.age()
        if age is None:
            return None
        # FromTimedelta would take a tenth of the time that a whole Get has.
        return Duration(
            seconds=age.days * _DAY_SECONDS + age.seconds, nanos=age.microseconds * 1000
        )


def _now() -> Timestamp:
    seconds, nanos = divmod(time.time_ns(), 10**9)
    return Timestamp(seconds=seconds, nanos=nanos)
