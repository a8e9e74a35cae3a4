"""Call the RPCs that have one answer, repeated while that is safe and can help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

from google.protobuf.message import Message
from modelservice.v1.inference_service_pb2 import InferenceServiceSpec
from modelservice.v1.model_service_pb2 import DeployRequest, DeployResponse

from modelservice_client.core.errors import ModelServiceError, NotReachable
from modelservice_client.core.retry import Policy
from modelservice_client.core.rpcs import Rpc
from modelservice_client.core.steps import Pause, Routine, Send

Req = TypeVar("Req", bound=Message)
Res = TypeVar("Res", bound=Message)


class DeployFields(TypedDict, total=False):
    """The fields of a DeployRequest, as keyword arguments; its comments say what they mean."""

    namespace: str
    name: str
    spec: InferenceServiceSpec
    labels: dict[str, str]
    annotations: dict[str, str]
    etag: str
    request_id: str
    validate_only: bool
    restart: bool
    force: bool
    create_only: bool


def deploy_request(
    request: DeployRequest | None, fields: DeployFields, new_id: Callable[[], str]
) -> DeployRequest:
    """Return a copy of the request with these fields in place of its own, and with a request_id."""
    asked = DeployRequest()
    if request is not None:
        asked.CopyFrom(request)
    for name in fields:
        asked.ClearField(name)  # type: ignore[arg-type]
    asked.MergeFrom(DeployRequest(**fields))
    if not asked.request_id:
        asked.request_id = new_id()
    return asked


def call(
    policy: Policy,
    rpc: Rpc[Req, Res],
    request: Req,
    timeout: float | None,
    *,
    waits: bool = False,
) -> Routine[Res]:
    """Make a call, and repeat it until it succeeds, fails for good, or `timeout` seconds are over.

    One that is the end of a wait `waits`: at the end of the time it fails with Timeout. A request
    that is not repeatable is repeated only where the server says that it did nothing.
    """
    retry = policy.begin(rpc.method, timeout, waits=waits)
    writes = rpc.writes and not getattr(request, "validate_only", False)
    while True:
        retry.begin_attempt()
        try:
            response: Res = yield Send(rpc, request, retry.attempt_seconds())
            return response
        except ModelServiceError as error:
            error.earlier_attempt_lost = retry.lost
            if writes and _may_be_done(error):
                if not rpc.repeatable:
                    raise
                retry.lost = True
                request = _repeated(request)
            pause = retry.pause_after(error)
        yield Pause(pause)


def write(
    policy: Policy, rpc: Rpc[Req, DeployResponse], request: Req, timeout: float | None
) -> Routine[DeployResponse]:
    """Make a Deploy, or another call that is answered as one; an error has the request_id."""
    try:
        return (yield from call(policy, rpc, request, timeout))
    except ModelServiceError as error:
        error.request_id = str(getattr(request, "request_id", ""))
        raise


def on_failure_id(request_id: str) -> str:
    """Return the request_id of the rollback of a Deploy that failed: the same for each attempt, and
    within the 64 characters of an id."""
    return f"{request_id}-on-failure"[-64:]


# After these something may have been written, unless the details say `written` "false".
_OUTCOME_UNKNOWN = ("WRITE_OUTCOME_UNKNOWN", "REGISTRY_UNAVAILABLE", "AUDIT_UNAVAILABLE")


def _may_be_done(error: ModelServiceError) -> bool:
    """Whether the attempt that failed so may have been done all the same."""
    if isinstance(error, NotReachable):
        return error.was_sent
    return error.reason in _OUTCOME_UNKNOWN and error.details.get("written") != "false"


def _repeated(request: Req) -> Req:
    """Return the request to send after an attempt that may have been done: what is deleted then is
    no error."""
    if "allow_missing" not in request.DESCRIPTOR.fields_by_name:
        return request
    repeated: Any = type(request)()
    repeated.CopyFrom(request)
    repeated.allow_missing = True
    return repeated  # type: ignore[no-any-return]


def first_page(request: Req) -> Req:
    """Return a copy of a request to list, for its pages."""
    first = type(request)()
    first.CopyFrom(request)
    return first


def turn_page(request: Any, page: Any) -> bool:
    """Turn the request to the page after this one; False after the last one."""
    request.page_token = page.next_page_token
    return bool(page.next_page_token)
