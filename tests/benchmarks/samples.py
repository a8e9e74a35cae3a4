"""What the benchmarks deploy: services of about 2 KiB each, as they are told."""

from __future__ import annotations

import re

from modelservice.v1 import inference_service_pb2 as services_pb
from modelservice.v1 import model_service_pb2 as pb

NAMESPACE = "model-serving"
_VARIABLES = 24
_VALUE_LENGTH = 40
# In a variable, so that the bytes of each state tell it from the others.
MARKER = re.compile(rb"change-\d{5}")


def deploy_request(name: str, namespace: str = NAMESPACE) -> pb.DeployRequest:
    """A model with labels and a good many variables, such as a pipeline deploys."""
    spec = services_pb.InferenceServiceSpec(
        model=services_pb.ModelPredictor(
            format=services_pb.ModelFormat(name="sklearn"),
            storage_uri=f"gs://models.example.com/{name}/1.0/model",
        ),
        env={f"SETTING_{n:02}": f"{n:02}".ljust(_VALUE_LENGTH, "x") for n in range(_VARIABLES)},
        resources=services_pb.Resources(requests={"cpu": "100m", "memory": "128Mi"}),
    )
    labels = {"team": "forecasting", "stage": "production", "example.com/model": name}
    return pb.DeployRequest(namespace=namespace, name=name, spec=spec, labels=labels)


def marker(number: int) -> bytes:
    """The marker of a change."""
    return f"change-{number:05}".encode()


def change_request(name: str, number: int) -> pb.DeployRequest:
    """Another rollout of the same model, known by its marker."""
    request = deploy_request(name)
    request.spec.env["CHANGE"] = marker(number).decode()
    return request


def names(count: int, prefix: str = "model") -> list[str]:
    """So many names, in the order in which they are listed."""
    return [f"{prefix}-{n:05}" for n in range(count)]
