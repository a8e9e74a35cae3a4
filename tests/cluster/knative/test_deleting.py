"""A deletion that does not get on says what it waits for, in Knative mode too."""

from __future__ import annotations

import pytest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Lab
from tests.cluster.held_deletions import assert_named


@pytest.mark.soak  # What differs from Standard mode are names, which the unit tests have.
def test_a_deletion_that_is_held_up_names_what_is_left(
    lab: Lab, stub: ModelServiceStub, namespace: str
) -> None:
    assert_named(lab, stub, namespace)
