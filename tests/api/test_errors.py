"""Errors: every reason by its code, with details that any client can take."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from modelservice.v1.errors_pb2 import ErrorReason as Contract

from server.api.errors import code_of, status_of
from server.domain import errors
from server.domain.errors import ErrorReason, ServiceError
from server.domain.registry.registry_errors import RegistryRefused
from server.domain.service.inference_service import ServiceKey
from tests.refusals import refusal_of

from .requests import deploy, watching

PROTO = Path("proto/modelservice/v1/errors.proto")


def error_of(reason: ErrorReason, message: str = "m", **metadata: str) -> ServiceError:
    kind = type("AnError", (ServiceError,), {"reason": reason})
    return kind(message, **metadata)


def test_the_domain_and_the_contract_have_the_same_reasons() -> None:
    names = {name.removeprefix("ERROR_REASON_") for name, _ in Contract.items()}
    assert names - {"UNSPECIFIED"} == {reason.value for reason in ErrorReason}


def documented() -> dict[str, tuple[str, bool]]:
    """By reason: the code that its comment in the protos begins with, and whether it is retried."""
    commented = r"// ([A-Z_]+)(, with RetryInfo)?: .*\n(?:  // .*\n)*  ERROR_REASON_(\w+) ="
    found = re.findall(commented, PROTO.read_text())
    return {reason: (code, bool(retry)) for code, retry, reason in found}


@pytest.mark.parametrize("reason", ErrorReason)
def test_a_reason_has_the_code_that_its_comment_names(reason: ErrorReason) -> None:
    assert code_of(error_of(reason)).name == documented()[reason.value][0]


@pytest.mark.parametrize("reason", ErrorReason)
def test_every_reason_reaches_the_caller(stub, memory, name, reason) -> None:
    memory.fail_next_write(error_of(reason, "what happened", verb="patch"))
    with pytest.raises(grpc.RpcError) as raised:
        stub.Deploy(deploy(name))
    refusal = refusal_of(raised.value)
    assert refusal.reason == reason.value
    assert refusal.message == "what happened"
    assert refusal.metadata == {"verb": "patch"}
    assert (refusal.code.name, refusal.retry_after > timedelta(0)) == documented()[reason.value]
    assert refusal.pushback == (refusal.retry_after or None)


@pytest.mark.parametrize("reason", ErrorReason)
def test_every_reason_ends_a_stream_with_the_same_delay_for_grpcs_own_retries(
    stub, grpc_server, monkeypatch, name, reason
) -> None:
    def fail() -> timedelta | None:
        raise error_of(reason)

    monkeypatch.setattr(grpc_server.memory, "age", fail)
    with watching(stub, name=name) as stream:
        _, error = stream.rest()
    refusal = refusal_of(error)
    assert refusal.reason == reason.value
    assert (refusal.code.name, refusal.pushback is not None) == documented()[reason.value]
    assert refusal.pushback == (refusal.retry_after or None)


def test_an_error_that_does_not_pass_has_no_delay(stub, memory, name) -> None:
    memory.fail_next_write(RegistryRefused("the database refuses this server"))
    with pytest.raises(grpc.RpcError) as raised:
        stub.Deploy(deploy(name))
    refusal = refusal_of(raised.value)
    assert refusal.reason == "REGISTRY_UNAVAILABLE"
    assert (refusal.retry_after, refusal.pushback) == (timedelta(0), None)


def test_an_error_of_any_size_reaches_the_caller(stub, memory, name) -> None:
    error = errors.FieldConflict("日" * 5000, fields="f" * 5000, owner="日" * 5000)
    memory.fail_next_write(error)
    with pytest.raises(grpc.RpcError) as raised:
        stub.Deploy(deploy(name))
    refusal = refusal_of(raised.value)
    assert refusal.code == grpc.StatusCode.FAILED_PRECONDITION
    assert refusal.reason == "FIELD_CONFLICT"
    assert refusal.metadata["fields"].startswith("fff")


def test_many_wrong_fields_are_reported_as_far_as_they_fit(stub, name) -> None:
    request = deploy(name, labels={f"{'日' * 20}{number}": "!" for number in range(100)})
    with pytest.raises(grpc.RpcError) as raised:
        stub.Deploy(request)
    refusal = refusal_of(raised.value)
    assert refusal.reason == "FIELD_INVALID"
    assert len(refusal.fields) > 5
    assert all(field.startswith("labels[") for field in refusal.fields)


def test_texts_that_no_message_can_carry_do_not_break_an_error() -> None:
    error = error_of(ErrorReason.POLICY_REFUSED, "half a pair: \ud800", webhook="\ud800")
    assert status_of(error).message == "half a pair: ?"


def test_a_namespace_beyond_those_served_is_refused_by_name(stub) -> None:
    error = errors.NamespaceNotServed("else")
    assert status_of(error).code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert errors.ServiceNotFound(ServiceKey("a", "b")).metadata == {"namespace": "a", "name": "b"}
