"""Whatever is asked, only what the contract documents comes back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial

import grpc
import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelservice.v1.errors_pb2 import ErrorReason as Contract
from modelservice.v1.model_service_pb2 import ListRequest

from server.control import read
from server.domain.errors import ErrorReason, ServiceError
from tests.patience import PATIENCE_SECONDS
from tests.refusals import refusal_of

from .generated_requests import METHODS, REQUESTS, Request
from .registry_project import Project

# Of each kind of request.
EXAMPLES = 20 * hypothesis.settings.default.max_examples // len(REQUESTS)

ANYWHERE = {
    "FIELD_INVALID",
    "NAMESPACE_NOT_SERVED",
    "KSERVE_MISSING",
    "SERVER_LACKS_RIGHTS",
    "TOO_MANY_REQUESTS",
    "VIEW_NOT_READY",
    "SERVER_CREDENTIALS_REFUSED",
    "SERVER_STOPPING",
}
ANYWHERE_IN_THE_REGISTRY = {
    "FIELD_INVALID",
    "REGISTRY_DISABLED",
    "REGISTRY_UNAVAILABLE",
    "AUDIT_UNAVAILABLE",
    "SERVER_STOPPING",
    "TOO_MANY_REQUESTS",
}
WRITES = {
    "SERVICE_NOT_FOUND",
    "ETAG_MISMATCH",
    "CONCURRENT_WRITE",
    "NOT_MANAGED",
    "POLICY_REFUSED",
    "CLUSTER_UNAVAILABLE",
    "WEBHOOK_UNAVAILABLE",
    "WRITE_OUTCOME_UNKNOWN",
    "AUDIT_UNAVAILABLE",
}
STOPS = WRITES | {
    "SPEC_INVALID",
    "REQUEST_ID_REUSED",
    "ROLLOUT_GONE",
    "ROLLOUT_SUPERSEDED",
    "SERVICE_DELETING",
    "FIELD_CONFLICT",
    "NAMESPACE_TERMINATING",
    "RESERVED_NAMESPACE",
    "UNSUPPORTED_BY_CLUSTER",
    "UPDATES_DISABLED",
}
DOCUMENTED = {
    "Deploy": WRITES
    | {
        "SPEC_INVALID",
        "REQUEST_ID_REUSED",
        "NAMESPACE_NOT_FOUND",
        "ALREADY_EXISTS",
        "SERVICE_DELETING",
        "FIELD_CONFLICT",
        "MODE_IMMUTABLE",
        "NAMESPACE_TERMINATING",
        "RESERVED_NAMESPACE",
        "UNSUPPORTED_BY_CLUSTER",
        "UPDATES_DISABLED",
        "QUOTA_EXCEEDED",
        "MEMORY_EXCEEDED",
        "MODEL_NOT_FOUND",
        "VERSION_NOT_FOUND",
        "ENVIRONMENT_NOT_FOUND",
        "VERSION_NOT_READY",
        "VERSION_ARCHIVED",
        "NO_DEPLOYABLE_VERSION",
        "ENVIRONMENT_NAMESPACE_FIXED",
        "REGISTRY_DISABLED",
        "REGISTRY_UNAVAILABLE",
    },
    "Get": {"SERVICE_NOT_FOUND", "ROLLOUT_GONE", "VIEW_BEHIND"},
    "List": {"PAGE_TOKEN_INVALID"},
    "Delete": WRITES,
    "WatchStatus": {
        "TOO_MANY_STREAMS",
        "RESUME_TOKEN_INVALID",
        "SERVICE_NOT_FOUND",
        "VIEW_BEHIND",
        "ROLLOUT_FAILED",
        "SERVICE_STOPPED",
        "SERVICE_NOT_STOPPING",
        "ROLLOUT_SUPERSEDED",
        "ROLLOUT_GONE",
    },
    "ListRevisions": {"PAGE_TOKEN_INVALID", "SERVICE_NOT_FOUND", "CLUSTER_UNAVAILABLE"},
    "Rollback": STOPS
    | {
        "REVISION_NOT_FOUND",
        "NO_READY_REVISION",
        "ALREADY_EXISTS",
        "MODE_IMMUTABLE",
        "QUOTA_EXCEEDED",
        "MEMORY_EXCEEDED",
        "MODEL_NOT_FOUND",
        "VERSION_NOT_FOUND",
        "ENVIRONMENT_NOT_FOUND",
        "VERSION_NOT_READY",
        "VERSION_ARCHIVED",
        "ENVIRONMENT_NAMESPACE_FIXED",
        "REGISTRY_DISABLED",
        "REGISTRY_UNAVAILABLE",
    },
    "Stop": STOPS,
    "Start": STOPS,
    "CreateRegisteredModel": {"ALREADY_EXISTS"},
    "GetRegisteredModel": {"MODEL_NOT_FOUND"},
    "ListRegisteredModels": {"PAGE_TOKEN_INVALID"},
    "UpdateRegisteredModel": {
        "MODEL_NOT_FOUND",
        "VERSION_NOT_FOUND",
        "ETAG_MISMATCH",
        "VERSION_NOT_READY",
        "VERSION_ARCHIVED",
    },
    "DeleteRegisteredModel": {"MODEL_NOT_FOUND", "ETAG_MISMATCH", "IN_USE"},
    "CreateModelVersion": {"MODEL_NOT_FOUND", "ALREADY_EXISTS"},
    "GetModelVersion": {"MODEL_NOT_FOUND", "VERSION_NOT_FOUND"},
    "ListModelVersions": {"MODEL_NOT_FOUND", "PAGE_TOKEN_INVALID"},
    "UpdateModelVersion": {"MODEL_NOT_FOUND", "VERSION_NOT_FOUND", "ETAG_MISMATCH"},
    "DeleteModelVersion": {"MODEL_NOT_FOUND", "VERSION_NOT_FOUND", "ETAG_MISMATCH", "IN_USE"},
    "CreateServingEnvironment": {"ALREADY_EXISTS"},
    "GetServingEnvironment": {"ENVIRONMENT_NOT_FOUND"},
    "ListServingEnvironments": {"PAGE_TOKEN_INVALID"},
    "UpdateServingEnvironment": {
        "ENVIRONMENT_NOT_FOUND",
        "ETAG_MISMATCH",
        "ENVIRONMENT_NAMESPACE_FIXED",
    },
    "DeleteServingEnvironment": {"ENVIRONMENT_NOT_FOUND", "ETAG_MISMATCH", "IN_USE"},
    "GetModelDeployment": {"DEPLOYMENT_NOT_FOUND"},
    "ListModelDeployments": {"PAGE_TOKEN_INVALID"},
}
FAULTS = st.one_of(
    st.none(),
    st.none(),
    st.just("away"),
    st.sampled_from(sorted(DOCUMENTED["Deploy"] & DOCUMENTED["Delete"])),
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    """A rollout that is not in the view is looked for in the cluster at once."""
    monkeypatch.setattr(read, "CATCH_UP_SECONDS", 0.01)


@pytest.fixture(autouse=True)
def the_server_survives_it_all(stub, memory) -> Iterator[None]:
    yield
    assert stub.List(ListRequest(namespace="-")).view_age.ToTimedelta() < timedelta(seconds=5)


@pytest.fixture(autouse=True)
def something_registered(registry_stub) -> None:
    """What requests name most: others of them delete it."""
    project = Project(registry_stub, "p")
    for name in ("a", "b"):
        makes = [partial(project.model, name), partial(project.environment, name)]
        makes += [partial(project.version, number, name) for number in ("1", "2")]
        for make in makes:
            with suppress(grpc.RpcError):
                make()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", REQUESTS)
@hypothesis.settings(
    max_examples=EXAMPLES,
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
)
@given(data=st.data(), fault=FAULTS)
def test_only_documented_codes_come_back(grpc_channel, memory, kind, data, fault) -> None:
    request = data.draw(REQUESTS[kind])
    if fault == "away":
        memory.away()
    elif fault and request.method in ("Deploy", "Delete"):
        memory.fail_next_write(_error(ErrorReason(fault)))
    try:
        _call(grpc_channel, request)
    except grpc.RpcError as error:
        _check(request, error)
    finally:
        memory.back()
        memory.fail_next_write(None)


def _call(channel: grpc.Channel, request: Request) -> None:
    path = f"/{METHODS[request.method].containing_service.full_name}/{request.method}"
    if request.method == "WatchStatus":
        stream = channel.unary_stream(path)(request.content, timeout=PATIENCE_SECONDS)
        next(stream, None)
        stream.cancel()
    else:
        channel.unary_unary(path)(request.content, timeout=PATIENCE_SECONDS)


def _check(request: Request, error: grpc.RpcError) -> None:
    method = request.method
    refusal = refusal_of(error, request.content)
    of_registry = METHODS[method].containing_service.name == "RegistryService"
    anywhere = ANYWHERE_IN_THE_REGISTRY if of_registry else ANYWHERE
    assert refusal.reason in anywhere | DOCUMENTED[method], refusal
    number = Contract.Value(f"ERROR_REASON_{refusal.reason}")
    assert refusal.code.value[0] == number // 100
    assert refusal.message


def _error(reason: ErrorReason) -> ServiceError:
    return type("AnError", (ServiceError,), {"reason": reason})("what happened")
