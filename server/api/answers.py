"""What callers are answered."""

from __future__ import annotations

import time

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from modelservice.v1 import model_service_pb2 as pb

from server.api.services import SerializedServices
from server.control.reading import Listed
from server.control.watching import Watch, WatchEvent
from server.domain.commands import Applied
from server.domain.inference_service import InferenceService
from server.ports import Cluster

_DAY_SECONDS = 86_400
PAGE_BYTES = 2 * 2**20

# Of protobuf's encoding: the wire type of messages, and the parts of a varint's byte.
_LENGTH_DELIMITED = 2
_SEVEN_BITS, _MORE = 0x7F, 0x80


class Answers:
    """Responses, each with the age of the view that it comes from, in the bytes that are sent.

    Nine parts in ten of the bytes are services, which change seldom: those are kept, and only what
    stands around them is made for each answer.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._whole = SerializedServices(log_lines=True)
        self._brief = SerializedServices(log_lines=False)

    def deployed(self, applied: Applied) -> bytes:
        """The answer to a Deploy."""
        around = pb.DeployResponse(
            action=pb.DeployResponse.Action.Value(f"ACTION_{applied.action.value}"),
            rollout_id=applied.rollout.id if applied.rollout else "",
            view_age=self._view_age(),
        )
        service = self._whole.of(applied.service)
        return _field(pb.DeployResponse.SERVICE_FIELD_NUMBER, service) + around.SerializeToString()

    def got(self, service: InferenceService) -> bytes:
        """The answer to a Get."""
        around = pb.GetResponse(view_age=self._view_age())
        message = self._whole.of(service)
        return _field(pb.GetResponse.SERVICE_FIELD_NUMBER, message) + around.SerializeToString()

    def deleted(self, service: InferenceService | None) -> bytes:
        """The answer to a Delete; None: there was nothing."""
        around = pb.DeleteResponse(view_age=self._view_age()).SerializeToString()
        if service is None:
            return around
        return _field(pb.DeleteResponse.SERVICE_FIELD_NUMBER, self._whole.of(service)) + around

    def listed(self, listed: Listed, size: int) -> bytes:
        """One page of at most `size` services and PAGE_BYTES, but one service at least."""
        fields: list[bytes] = []
        room, last, token = PAGE_BYTES, None, ""
        for service in listed.services:
            field = _field(pb.ListResponse.SERVICES_FIELD_NUMBER, self._brief.of(service))
            room -= len(field)
            if last and (room < 0 or len(fields) == size):
                token = listed.token_after(last)
                break
            fields.append(field)
            last = service
        around = pb.ListResponse(
            next_page_token=token, total_size=listed.total, view_age=self._view_age()
        )
        return b"".join(fields) + around.SerializeToString()

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
        services = self._whole if watch.target.name else self._brief
        service = services.of(event.service)
        return _field(pb.WatchStatusResponse.SERVICE_FIELD_NUMBER, service) + around

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


def _field(number: int, message: bytes) -> bytes:
    """A message as a field of another, on the wire; there, fields may come in any order."""
    head = bytearray((number << 3 | _LENGTH_DELIMITED,))
    length = len(message)
    while length > _SEVEN_BITS:
        head.append(length & _SEVEN_BITS | _MORE)
        length >>= 7
    head.append(length)
    return bytes(head) + message
