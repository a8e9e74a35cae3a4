"""Whatever a caller hands back as a token, it is refused as a token and is no bug of ours."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from modelservice.v1 import registry_service_pb2 as pb
from modelservice.v1.model_service_pb2 import ListRequest, WatchStatusRequest
from modelservice.v1.registry_service_pb2_grpc import RegistryServiceStub

from server.domain.opaque_tokens import decode_token
from tests.refusals import refusal_of

from .registry_project import Project
from .requests import deploy

Call = Callable[[str], object]

PARTS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**63, -1, 10**4000]),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.booleans(), max_size=2),
)


@pytest.fixture(scope="module")
def calls(grpc_server: Any) -> Iterator[dict[str, tuple[Call, str]]]:
    """Each call that takes a token, with one that it gave."""
    with grpc.insecure_channel(grpc_server.address) as channel:
        from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

        models, registry = ModelServiceStub(channel), RegistryServiceStub(channel)
        project = Project(registry, "tokens")
        for name in ("a", "b"):
            models.Deploy(deploy(f"token-{name}"))
            project.model(name)
            project.environment(name)
            project.version(name, model="a")

        def listing(method: Any, request: Any, **fields: str) -> tuple[Call, str]:
            def call(token: str) -> object:
                return method(request(**fields, page_size=1, page_token=token))

            return call, call("").next_page_token  # type: ignore[attr-defined]

        def watch(token: str) -> str:
            stream = models.WatchStatus(WatchStatusRequest(name="token-a", resume_token=token))
            try:
                return next(each.resume_token for each in stream if each.resume_token)
            finally:
                stream.cancel()

        of = {"project": "tokens"}
        yield {
            "List": listing(models.List, ListRequest),
            "WatchStatus": (watch, watch("")),
            "models": listing(registry.ListRegisteredModels, pb.ListRegisteredModelsRequest, **of),
            "versions": listing(
                registry.ListModelVersions, pb.ListModelVersionsRequest, **of, model="a"
            ),
            "environments": listing(
                registry.ListServingEnvironments, pb.ListServingEnvironmentsRequest, **of
            ),
        }


REASONS = ("PAGE_TOKEN_INVALID", "RESUME_TOKEN_INVALID")
NAMES = ("List", "WatchStatus", "models", "versions", "environments")
CALLS = pytest.mark.parametrize("name", NAMES)


@CALLS
@settings(max_examples=60)
@given(data=st.data())
def test_a_token_with_other_parts_is_refused(calls: Any, name: str, data: Any) -> None:
    call, token = calls[name]
    parts: list[Any] = list(decode_token(token) or ())
    assert parts
    place = data.draw(st.integers(0, len(parts) - 1))
    parts[place] = data.draw(PARTS)
    text = json.dumps(parts).encode()
    _refused_or_answered(call, base64.urlsafe_b64encode(text).decode())


@CALLS
@pytest.mark.parametrize("other", [True, False, None, 1.0, [], {}])
def test_a_part_that_is_neither_text_nor_number_is_refused(
    calls: Any, name: str, other: object
) -> None:
    call, token = calls[name]
    parts: list[Any] = list(decode_token(token) or ())
    for place in range(len(parts)):
        forged = json.dumps([*parts[:place], other, *parts[place + 1 :]]).encode()
        with pytest.raises(grpc.RpcError) as raised:
            call(base64.urlsafe_b64encode(forged).decode())
        assert refusal_of(raised.value).reason in REASONS


@CALLS
@settings(max_examples=40)
@given(token=st.one_of(st.text(max_size=40), st.binary(max_size=40).map(base64.urlsafe_b64encode)))
@example(token=b"W" * 4000)
def test_a_text_that_never_was_a_token_is_refused(calls: Any, name: str, token: Any) -> None:
    call, _ = calls[name]
    text = token.decode() if isinstance(token, bytes) else token
    _refused_or_answered(call, text.encode(errors="replace").decode())


def _refused_or_answered(call: Call, token: str) -> None:
    reason = None
    try:
        call(token)
    except grpc.RpcError as e:
        reason = refusal_of(e, token.encode()).reason
    assert reason is None or reason in REASONS
