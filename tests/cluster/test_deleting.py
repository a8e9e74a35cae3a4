"""A deletion that does not get on says what it waits for."""

from __future__ import annotations

from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Lab

from .held_deletions import assert_named


def test_a_deletion_that_is_held_up_names_what_is_left(
    lab: Lab, stub: ModelServiceStub, namespace: str
) -> None:
    assert_named(lab, stub, namespace)
