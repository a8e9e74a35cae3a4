"""Serving environments through a stub."""

from __future__ import annotations

import itertools

from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode
from hypothesis import HealthCheck, given, settings
from modelservice.v1 import registry_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import (
    ContainerPredictor,
    InferenceServiceSpec,
    Resources,
    Scaling,
)
from modelservice.v1.registry_pb2 import ServingEnvironment

from server.api.specs import options_message
from server.domain.service.canonical_spec import canonical_options
from tests.refusals import refused
from tests.strategies import specs

INVALID = StatusCode.INVALID_ARGUMENT
_numbers = itertools.count(1)


def test_an_environment_is_answered_and_read_as_it_was_given(project) -> None:
    defaults = InferenceServiceSpec(
        env={"LOG": "debug"},
        resources=Resources(limits={"memory": "4Gi"}),
        scaling=Scaling(min_replicas=0),
        request_timeout=Duration(seconds=30),
    )
    environment = project.environment(
        namespace="team-a", defaults=defaults, description="for tests", labels={"a": "1"}
    )
    assert (environment.project, environment.name) == (project.name, "staging")
    assert environment.namespace == "team-a"
    assert environment.defaults == defaults
    assert environment.defaults.scaling.HasField("min_replicas")
    assert (environment.description, environment.labels) == ("for tests", {"a": "1"})
    assert environment.id
    assert environment.etag
    assert project.get_environment() == environment


def test_an_environment_without_a_namespace_takes_its_own_name(project) -> None:
    environment = project.environment()
    assert environment.namespace == "staging"
    assert not environment.HasField("defaults")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(specs())
def test_defaults_come_back_as_they_were_given(project, spec) -> None:
    given = options_message(canonical_options(spec))
    made = project.environment(f"env-{next(_numbers)}", defaults=options_message(spec))
    assert made.defaults == given
    assert project.get_environment(made.name).defaults == given


def test_defaults_have_no_predictor_and_are_checked_as_a_spec_is(project, registry_stub) -> None:
    for defaults, path in (
        (InferenceServiceSpec(container=ContainerPredictor()), "environment.defaults.predictor"),
        (InferenceServiceSpec(env={"A=B": ""}), 'environment.defaults.env["A=B"]'),
        (
            InferenceServiceSpec(request_timeout=Duration(seconds=1, nanos=-1)),
            "environment.defaults.request_timeout",
        ),
    ):
        environment = ServingEnvironment(project=project.name, name="staging", defaults=defaults)
        request = pb.CreateServingEnvironmentRequest(environment=environment)
        create = registry_stub.CreateServingEnvironment
        assert refused(INVALID, "FIELD_INVALID", create, request).fields == [path]


def test_an_update_replaces_the_defaults_as_a_whole(project, registry_stub) -> None:
    first = InferenceServiceSpec(env={"A": "1"}, scaling=Scaling(min_replicas=2))
    project.environment(defaults=first)
    second = InferenceServiceSpec(env={"B": "2"})
    update = registry_stub.UpdateServingEnvironment
    assert update(project.environment_update(defaults=second)).environment.defaults == second
    emptied = update(project.environment_update("defaults")).environment
    assert not emptied.HasField("defaults")


def test_the_namespace_never_changes(project, registry_stub) -> None:
    environment = project.environment(namespace="team-a", description="one")
    refused(
        StatusCode.FAILED_PRECONDITION,
        "ENVIRONMENT_NAMESPACE_FIXED",
        registry_stub.UpdateServingEnvironment,
        project.environment_update(namespace="team-b"),
    )
    request = pb.UpdateServingEnvironmentRequest(environment=environment)
    assert registry_stub.UpdateServingEnvironment(request).environment == environment


def test_a_deleted_environment_is_gone(project, registry_stub) -> None:
    project.environment()
    delete = pb.DeleteServingEnvironmentRequest(project=project.name, name="staging", etag="stale")
    call = registry_stub.DeleteServingEnvironment
    refused(StatusCode.ABORTED, "ETAG_MISMATCH", call, delete)
    delete.etag = project.get_environment().etag
    call(delete)
    delete.etag = ""
    refused(StatusCode.NOT_FOUND, "ENVIRONMENT_NOT_FOUND", call, delete)
    delete.allow_missing = True
    call(delete)
