"""What callers are answered."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from modelservice.v1 import inference_service_pb2 as services_pb
from modelservice.v1 import model_service_pb2 as pb

from server.api.services import ServiceMessages
from server.control.reading import Listed
from server.control.watching import Watch, WatchEvent
from server.domain.commands import Applied
from server.domain.inference_service import InferenceService
from server.ports import Cluster

PAGE_BYTES = 2 * 2**20
# Of a service in a page, beside the service itself: its tag and its length.
_ENTRY_BYTES = 6


class Answers:
    """Responses, each with the age of the view that it comes from."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._whole = ServiceMessages(log_lines=True)
        self._brief = ServiceMessages(log_lines=False)

    def deployed(self, applied: Applied) -> pb.DeployResponse:
        """The answer to a Deploy."""
        return pb.DeployResponse(
            service=self._whole.of(applied.service),
            action=pb.DeployResponse.Action.Value(f"ACTION_{applied.action.value}"),
            rollout_id=applied.rollout.id if applied.rollout else "",
            view_age=self._view_age(),
        )

    def got(self, service: InferenceService) -> pb.GetResponse:
        """The answer to a Get."""
        return pb.GetResponse(service=self._whole.of(service), view_age=self._view_age())

    def deleted(self, service: InferenceService | None) -> pb.DeleteResponse:
        """The answer to a Delete; None: there was nothing."""
        message = self._whole.of(service) if service else None
        return pb.DeleteResponse(service=message, view_age=self._view_age())

    def listed(self, listed: Listed, size: int) -> pb.ListResponse:
        """One page of at most `size` services and PAGE_BYTES, but one service at least."""
        messages: list[services_pb.InferenceService] = []
        room, last, token = PAGE_BYTES, None, ""
        for service in listed.services:
            message = self._brief.of(service)
            room -= message.ByteSize() + _ENTRY_BYTES
            if last and (room < 0 or len(messages) == size):
                token = listed.token_after(last)
                break
            messages.append(message)
            last = service
        return pb.ListResponse(
            services=messages,
            next_page_token=token,
            total_size=listed.total,
            view_age=self._view_age(),
        )

    def watched(self, watch: Watch, event: WatchEvent) -> pb.WatchStatusResponse:
        """One message of a watch; log lines only where it is for one service."""
        messages = self._whole if watch.target.name else self._brief
        return pb.WatchStatusResponse(
            type=pb.WatchStatusResponse.Type.Value(f"TYPE_{event.type.value}"),
            service=messages.of(event.service) if event.service else None,
            resume_token=event.resume_token,
            observe_time=_now(),
            view_age=self._view_age(),
        )

    def _view_age(self) -> Duration | None:
        age = self._cluster.age()
        if age is None:
            return None
        message = Duration()
        message.FromTimedelta(age)
        return message


def _now() -> Timestamp:
    message = Timestamp()
    message.FromDatetime(datetime.now(UTC))
    return message
