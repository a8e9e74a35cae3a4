"""A service as callers see it."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import Message
from modelservice.v1 import inference_service_pb2 as pb

from server.api.specs import spec_message
from server.api.statuses import status_message, time_message
from server.domain.inference_service import InferenceService, ServiceKey

REMEMBERED_SERVICES = 20_000


class ServiceParts:
    """Each service's part of a response, in bytes, made once for each of its states.

    A service object is frozen and the view keeps one per state, so that identity says whether the
    bytes still hold. `response` puts a service into an otherwise empty response.
    """

    def __init__(
        self, response: Callable[[pb.InferenceService], Message], *, log_lines: bool
    ) -> None:
        self._response = response
        self._log_lines = log_lines
        self._made: dict[ServiceKey, tuple[InferenceService, bytes]] = {}

    def of(self, service: InferenceService) -> bytes:
        """The part for a service as it is."""
        made = self._made.get(service.key)
        if made and made[0] is service:
            return made[1]
        message = service_message(service)
        # Touching the failure of a service that has none would give it an empty one.
        if not self._log_lines and message.status.HasField("failure"):
            message.status.failure.ClearField("log_lines")
        return self._remembered(service, self._response(message).SerializeToString())

    def _remembered(self, service: InferenceService, part: bytes) -> bytes:
        # Taken out first, so that the oldest made is the first in the dictionary.
        self._made.pop(service.key, None)
        if len(self._made) >= REMEMBERED_SERVICES:
            del self._made[next(iter(self._made))]
        self._made[service.key] = (service, part)
        return part


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
