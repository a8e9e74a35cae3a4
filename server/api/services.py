"""A service as callers see it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from weakref import ref

from google.protobuf.message import Message
from modelservice.v1 import inference_service_pb2 as pb

from server.api.specs import spec_message
from server.api.statuses import status_message, time_message
from server.control.watch_cache import Identity
from server.domain.service.inference_service import InferenceService, ServiceKey

KEPT_BYTES = 64 * 2**20


class PartCache:
    """Bytes that were made of service objects, kept as long as these are, up to KEPT_BYTES in all;
    those used longest ago go first.

    A service object is frozen and the view keeps one per state, so that identity says whether the
    bytes still hold.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[object, ServiceKey], _Kept] = OrderedDict()
        self._bytes = 0

    def get(self, owner: object, service: InferenceService) -> bytes | None:
        """What the owner keeps of the service as it is."""
        kept = self._kept.get((owner, service.key))
        if kept is None or kept.service() is not service:
            return None
        self._kept.move_to_end((owner, service.key))
        return kept.part

    def keep(self, owner: object, service: InferenceService, part: bytes) -> None:
        """Keep the owner's part in the place of an earlier one."""
        place = (owner, service.key)
        self._drop(place)
        self._kept[place] = _Kept(ref(service, partial(self._forget, place)), part)
        self._bytes += len(part)
        while self._bytes > KEPT_BYTES:
            self._drop(next(iter(self._kept)))

    def _forget(self, place: tuple[object, ServiceKey], gone: ref[InferenceService]) -> None:
        kept = self._kept.get(place)
        if kept and kept.service is gone:
            self._drop(place)

    def _drop(self, place: tuple[object, ServiceKey]) -> None:
        if kept := self._kept.pop(place, None):
            self._bytes -= len(kept.part)


class _Kept(NamedTuple):
    service: ref[InferenceService]
    part: bytes


class ServiceParts:
    """Each service's part of one kind of response, in bytes, made once for each of its states.

    `response` puts a service into an otherwise empty response.
    """

    def __init__(
        self,
        response: Callable[[pb.InferenceService], Message],
        cache: PartCache,
        *,
        log_lines: bool,
    ) -> None:
        self._response = response
        self._cache = cache
        self._log_lines = log_lines

    def of(self, service: InferenceService) -> bytes:
        """The part for a service as it is."""
        part = self._cache.get(self, service)
        if part is None:
            part = self._made(service)
            self._cache.keep(self, service, part)
        return part

    def _made(self, service: InferenceService) -> bytes:
        message = service_message(service)
        # Touching the failure of a service that has none would give it an empty one.
        if not self._log_lines and message.status.HasField("failure"):
            message.status.failure.ClearField("log_lines")
        return self._response(message).SerializeToString()


def identity_message(identity: Identity) -> pb.InferenceService:
    """What is said of a service that its reader no longer sees: which it is, and its rollout."""
    return pb.InferenceService(
        namespace=identity.key.namespace,
        name=identity.key.name,
        uid=identity.uid,
        rollout_id=identity.rollout.id,
    )


def service_message(service: InferenceService) -> pb.InferenceService:
    """The service with its spec and status."""
    return pb.InferenceService(
        namespace=service.key.namespace,
        name=service.key.name,
        uid=service.uid,
        spec=spec_message(service.spec) if service.spec else None,
        status=status_message(service.status),
        labels=service.labels,
        annotations=service.annotations,
        generation=service.generation,
        rollout_id=service.rollout.id,
        etag=service.etag,
        create_time=time_message(service.create_time),
        delete_time=time_message(service.delete_time),
        unmanaged=service.unmanaged,
        deployment_id=service.deployment_id,
    )
