"""From Deploy to a prediction, to another one, to nothing: on a real node, through the stub."""

from __future__ import annotations

import pytest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import NodeLab
from lab.images import models

from .lifecycle import Life
from .predicting import own_container, sklearn_on_claim


@pytest.fixture
def claim(node_lab: NodeLab, namespace: str) -> None:
    """The models, in the claim `models` of the test's namespace."""
    node_lab.put_models(models(print), namespace)


@pytest.mark.usefixtures("claim")
def test_a_scikit_learn_model_on_a_claim(
    node_lab: NodeLab, stub: ModelServiceStub, namespace: str
) -> None:
    seen = Life(node_lab, stub, namespace, "iris", sklearn_on_claim("iris")).lead()
    # MLServer stops as soon as it is told to, up to a second before the proxy hears of it.
    assert seen.failing_for() < 10.0


def test_an_image_of_ones_own(node_lab: NodeLab, stub: ModelServiceStub, namespace: str) -> None:
    seen = Life(node_lab, stub, namespace, "own", own_container("own")).lead()
    # This server goes on answering until the last proxy knows that it leaves.
    assert seen.failures() == []
