"""Values of enums that a newer server sends are shown, and break nothing."""

from __future__ import annotations

from grpc_health.v1.health_pb2 import HealthCheckResponse
from modelservice.v1.inference_service_pb2 import Failure, InferenceServiceStatus
from modelservice.v1.model_service_pb2 import DeployResponse
from modelservice.v1.registry_pb2 import ModelDeployment, ModelVersion
from modelservice_client.cli.registry import state_of
from modelservice_client.core.enum_names import enum_name


def test_a_value_is_named_without_its_prefix() -> None:
    assert enum_name(InferenceServiceStatus.State, 2, "STATE_") == "PROGRESSING"
    assert enum_name(HealthCheckResponse.ServingStatus, 1, "") == "SERVING"


def test_a_value_that_this_release_does_not_know_is_shown_as_its_number() -> None:
    assert enum_name(Failure.Reason, 999, "REASON_") == "999"
    assert enum_name(DeployResponse.Action, 999, "ACTION_") == "999"
    assert state_of(ModelVersion(state=999)) == "999"
    assert state_of(ModelDeployment(state=999)) == "999"
