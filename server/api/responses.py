"""Responses of ModelService, in the bytes that are sent."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from weakref import ref

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from modelservice.v1 import inference_service_pb2 as services_pb
from modelservice.v1 import model_service_pb2 as pb

from server import failpoints
from server.api.services import identity_message, seconds_and_nanos, service_message
from server.control.call import Call
from server.control.read import ListPage
from server.control.watch_cache import ServiceIdentity
from server.control.watch_stream import EventType, WatchEvent
from server.domain.service.commands import Applied
from server.domain.service.inference_service import InferenceService
from server.ports import Cluster

PAGE_BYTES = 2 * 2**20
CACHE_BYTES = 64 * 2**20
# Some 5 ms, where none of them is in the cache.
_ENCODED_AT_ONCE = 50


class Responses:
    """Makes each response, with the age of the watch cache that it comes from.

    Nine tenths of the bytes that readers get are services, which change seldom. So a service's
    bytes are cached, and only the other fields are encoded for each response: the encoding of a
    protobuf message is that of its fields, one after the other.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        cache = EncodingCache()
        watch = partial(ServiceEncoder, lambda m: pb.WatchStatusResponse(service=m), cache)
        self._get = ServiceEncoder(lambda m: pb.GetResponse(service=m), cache, log_lines=True)
        self._list = ServiceEncoder(lambda m: pb.ListResponse(services=[m]), cache, log_lines=False)
        self._watch_one = watch(log_lines=True)
        self._watch_many = watch(log_lines=False)
        # Reused: to make both messages anew would take as long as the rest of a GetResponse.
        self._got = pb.GetResponse(view_age=Duration())

    def deploy(self, call: Call, applied: Applied) -> bytes:
        """Encode a DeployResponse, and note in the call what was done."""
        rollout_id = applied.rollout.id if applied.rollout else ""
        noted = {"rollout_id": rollout_id} if rollout_id else {}
        call.note_result(action=applied.action.value, **noted)
        failpoints.reached("before-answer")
        service = service_message(applied.service)
        if not rollout_id:
            # A dry run makes no rollout; the next one would get this id.
            service.ClearField("rollout_id")
        return pb.DeployResponse(
            service=service,
            action=pb.DeployResponse.Action.Value(f"ACTION_{applied.action.value}"),
            rollout_id=rollout_id,
            view_age=self._view_age(),
            warnings=[
                pb.DeployResponse.Warning(field=w.field, message=w.message)
                for w in applied.warnings
            ],
        ).SerializeToString()

    def get(self, service: InferenceService) -> bytes:
        """Encode a GetResponse."""
        return self._get.encode(service) + self._encoded_age()

    def delete(self, service: InferenceService | None) -> bytes:
        """Encode a DeleteResponse; None: the service was missing."""
        return pb.DeleteResponse(
            service=service_message(service) if service else None, view_age=self._view_age()
        ).SerializeToString()

    async def list(self, page: ListPage) -> bytes:
        """Encode a ListResponse of at most PAGE_BYTES, but one service at least. Other calls have
        the event loop in between."""
        services: list[bytes] = []
        room = PAGE_BYTES
        for service in page.services:
            encoded = self._list.encode(service)
            room -= len(encoded)
            if services and room < 0:
                break
            services.append(encoded)
            if len(services) % _ENCODED_AT_ONCE == 0:
                await asyncio.sleep(0)
        more = page.more or len(services) < len(page.services)
        rest = pb.ListResponse(
            next_page_token=page.token_after(page.services[len(services) - 1]) if more else "",
            total_size=page.total,
            view_age=self._view_age(),
        )
        return b"".join(services) + rest.SerializeToString()

    def watch(self, event: WatchEvent, *, of_one: bool) -> bytes:
        """Encode a WatchStatusResponse; log lines are only in a watch of one service.

        An event that many streams share is encoded once.
        """
        encoded = event.encoded or self._encode_event(event, of_one=of_one)
        if event.is_shared:
            event.encoded = encoded
        return encoded

    def _encode_event(self, event: WatchEvent, *, of_one: bool) -> bytes:
        rest = pb.WatchStatusResponse(
            type=pb.WatchStatusResponse.Type.Value(f"TYPE_{event.type.value}"),
            resume_token=event.resume_token,
            observe_time=_now(),
            view_age=self._view_age(),
        ).SerializeToString()
        if event.service is None:
            return rest
        if isinstance(event.service, ServiceIdentity):
            gone = identity_message(event.service)
            if event.type is EventType.LEFT:
                gone.ClearField("rollout_id")
            return pb.WatchStatusResponse(service=gone).SerializeToString() + rest
        encoder = self._watch_one if of_one else self._watch_many
        return encoder.encode(event.service) + rest

    def _view_age(self) -> Duration | None:
        age = self._cluster.age()
        if age is None:
            return None
        seconds, nanos = seconds_and_nanos(age)
        return Duration(seconds=seconds, nanos=nanos)

    def _encoded_age(self) -> bytes:
        """Return the bytes of a GetResponse with the age alone."""
        age = self._cluster.age()
        if age is None:
            return b""
        into = self._got.view_age
        into.seconds, into.nanos = seconds_and_nanos(age)
        return self._got.SerializeToString()


def _now() -> Timestamp:
    seconds, nanos = divmod(time.time_ns(), 10**9)
    return Timestamp(seconds=seconds, nanos=nanos)


class ServiceEncoder:
    """Encodes the services of one kind of response, once for each state of a service.

    `response` puts a service into an otherwise empty response.
    """

    def __init__(
        self,
        response: Callable[[services_pb.InferenceService], Message],
        cache: EncodingCache,
        *,
        log_lines: bool,
    ) -> None:
        self._response = response
        self._cache = cache
        self._log_lines = log_lines

    def encode(self, service: InferenceService) -> bytes:
        """Return the bytes of a response with this service alone."""
        encoded = self._cache.get(self, service)
        if encoded is None:
            message = service_message(service)
            # Touching the failure of a service that has none would give it an empty one.
            if not self._log_lines and message.status.HasField("failure"):
                message.status.failure.ClearField("log_lines")
            encoded = self._response(message).SerializeToString()
            self._cache.put(self, service, encoded)
        return encoded


class _Entry(NamedTuple):
    service: ref[InferenceService]
    encoded: bytes


class EncodingCache:
    """Caches bytes for as long as their service objects live, up to CACHE_BYTES, by last use.

    Service objects are frozen and the watch cache keeps one for each state, so the identity of the
    object shows whether the bytes are current. A state is cached in two forms at most: with the
    text of containers and without it.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[object, int], _Entry] = OrderedDict()
        self._bytes = 0

    def get(self, owner: object, service: InferenceService) -> bytes | None:
        """Return the owner's bytes of this state of the service, if they are cached."""
        place = (owner, id(service))
        entry = self._entries.get(place)
        if entry is None or entry.service() is not service:
            return None
        self._entries.move_to_end(place)
        return entry.encoded

    def put(self, owner: object, service: InferenceService, encoded: bytes) -> None:
        """Cache the owner's bytes of this state of the service."""
        place = (owner, id(service))
        self._drop(place)
        self._entries[place] = _Entry(ref(service, partial(self._forget, place)), encoded)
        self._bytes += len(encoded)
        while self._bytes > CACHE_BYTES:
            self._drop(next(iter(self._entries)))

    def _forget(self, place: tuple[object, int], gone: ref[InferenceService]) -> None:
        entry = self._entries.get(place)
        if entry and entry.service is gone:
            self._drop(place)

    def _drop(self, place: tuple[object, int]) -> None:
        if entry := self._entries.pop(place, None):
            self._bytes -= len(entry.encoded)
