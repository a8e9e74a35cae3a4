"""Convert requests to commands of the domain.

Each function is pure: it reads the message alone, and raises FieldInvalid for what no command can
express. Namespaces stay as given; control fills in the default and authorizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta

from google.protobuf.descriptor import EnumDescriptor
from modelservice.v1 import inference_service_pb2 as services_pb
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1 import rollout_service_pb2 as rollouts_pb

from server.api.specs import duration_of, spec_of
from server.control.read import ListQuery
from server.control.rollouts import RevisionQuery, Rollback
from server.control.watch_stream import Until, Watch
from server.domain.errors import FieldInvalid, FieldViolation
from server.domain.kubernetes.names import escaped
from server.domain.kubernetes.selectors import Selector
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import State
from server.domain.service.commands import Delete, Deploy
from server.domain.service.inference_service import ServiceKey

HEARTBEAT_MIN = timedelta(seconds=1)
HEARTBEAT_MAX = timedelta(seconds=30)
PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1000

_STATES = services_pb.InferenceServiceStatus.State.DESCRIPTOR
_UNTIL = {
    pb.WatchStatusRequest.UNTIL_UNSPECIFIED: Until.FOREVER,
    pb.WatchStatusRequest.UNTIL_READY: Until.READY,
    pb.WatchStatusRequest.UNTIL_GONE: Until.GONE,
    pb.WatchStatusRequest.UNTIL_STOPPED: Until.STOPPED,
}


def deploy_of(request: pb.DeployRequest) -> Deploy:
    """Convert a DeployRequest."""
    return Deploy(
        key=ServiceKey(request.namespace, request.name),
        spec=spec_of(request.spec) if request.HasField("spec") else None,
        labels=dict(request.labels),
        annotations=dict(request.annotations),
        etag=request.etag,
        request_id=request.request_id,
        validate_only=request.validate_only,
        restart=request.restart,
        force=request.force,
        create_only=request.create_only,
    )


def stop_of(request: rollouts_pb.StopRequest) -> Deploy:
    """Convert a StopRequest."""
    return _stop_or_start_of(request, stop=True)


def start_of(request: rollouts_pb.StartRequest) -> Deploy:
    """Convert a StartRequest."""
    return _stop_or_start_of(request, stop=False)


def _stop_or_start_of(
    request: rollouts_pb.StopRequest | rollouts_pb.StartRequest, *, stop: bool
) -> Deploy:
    return Deploy(
        key=ServiceKey(request.namespace, request.name),
        spec=None,
        stop=stop,
        only_rollout=rollout_of(request.rollout_id),
        etag=request.etag,
        request_id=request.request_id,
        validate_only=request.validate_only,
        force=request.force,
    )


def revision_query_of(request: rollouts_pb.ListRevisionsRequest) -> RevisionQuery:
    """Convert a ListRevisionsRequest."""
    return RevisionQuery(
        key=ServiceKey(request.namespace, request.name),
        page_size=page_size_of(request.page_size),
        page_token=request.page_token,
    )


def rollback_of(request: rollouts_pb.RollbackRequest) -> Rollback:
    """Convert a RollbackRequest."""
    return Rollback(
        key=ServiceKey(request.namespace, request.name),
        revision=request.revision,
        etag=request.etag,
        request_id=request.request_id,
        validate_only=request.validate_only,
        force=request.force,
        only_rollout=rollout_of(request.rollout_id),
    )


def delete_of(request: pb.DeleteRequest) -> Delete:
    """Convert a DeleteRequest."""
    return Delete(
        key=ServiceKey(request.namespace, request.name),
        etag=request.etag,
        force=request.force,
        validate_only=request.validate_only,
    )


def rollout_of(text: str) -> Rollout | None:
    """Parse a rollout_id; None where it is empty."""
    if not text:
        return None
    try:
        return Rollout.parse(text)
    except ValueError:
        why = f"must be a rollout_id from a response, got {escaped(text)}"
        raise _invalid("rollout_id", why) from None


def list_query_of(request: pb.ListRequest) -> ListQuery:
    """Convert a ListRequest."""
    return ListQuery(
        target=ServiceKey(request.namespace, ""),
        selector=_selector_of(request.label_selector),
        page_size=page_size_of(request.page_size),
        states=frozenset(map(State, states_of(request.states, _STATES))),
        page_token=request.page_token,
    )


def page_size_of(requested: int) -> int:
    """Return the page size for a request's `page_size`."""
    if requested < 0:
        raise _invalid("page_size", f"must not be negative, got {requested}")
    return min(requested or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


def states_of(numbers: Iterable[int], states: EnumDescriptor) -> Iterator[str]:
    """Return the names of a request's `states`, without the enum's prefix."""
    for index, number in enumerate(numbers):
        if not number or number not in states.values_by_number:
            why = f"must be a known state, got {number}"
            raise _invalid(f"states[{index}]", why)
        yield states.values_by_number[number].name.removeprefix("STATE_")


def watch_of(request: pb.WatchStatusRequest) -> Watch:
    """Convert a WatchStatusRequest."""
    _check_watch(request)
    return Watch(
        target=ServiceKey(request.namespace, request.name),
        selector=_selector_of(request.label_selector),
        until=_UNTIL[request.until],
        rollout=rollout_of(request.rollout_id),
        resume_token=request.resume_token,
        heartbeat=_heartbeat_of(request),
    )


def _check_watch(request: pb.WatchStatusRequest) -> None:
    if request.until not in _UNTIL:
        why = "must be UNTIL_READY, UNTIL_GONE, UNTIL_STOPPED or unset"
        raise _invalid("until", f"{why}, got {request.until}")
    if request.until and not request.name:
        raise _invalid("name", "must be set when until is set")
    if request.label_selector and request.name:
        raise _invalid("label_selector", "must be empty when name is set")


def _heartbeat_of(request: pb.WatchStatusRequest) -> timedelta:
    if not request.HasField("heartbeat_interval"):
        return HEARTBEAT_MAX
    interval = duration_of(request.heartbeat_interval, "heartbeat_interval")
    if interval < HEARTBEAT_MIN:
        got = f"{interval.total_seconds():g}"
        raise _invalid("heartbeat_interval", f"must be at least 1 s, got {got} s")
    return min(interval, HEARTBEAT_MAX)


def _selector_of(text: str) -> Selector:
    try:
        return Selector.parse(text)
    except ValueError as e:
        raise _invalid("label_selector", str(e)) from None


def _invalid(path: str, why: str) -> FieldInvalid:
    return FieldInvalid([FieldViolation(path, why)])
