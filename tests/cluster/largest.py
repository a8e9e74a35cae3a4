"""The largest services that a Deploy may ask for."""

from __future__ import annotations

from modelservice.v1.inference_service_pb2 import ContainerPredictor, InferenceServiceSpec
from modelservice.v1.model_service_pb2 import DeployRequest

LARGEST_BYTES = 700_000


def largest(namespace: str, name: str, mark: str = "") -> DeployRequest:
    """A Deploy of some LARGEST_BYTES, half a MiB of it variables; `mark` makes it another one."""
    env = {f"V{i}": f"{namespace}/{name}{mark}".ljust(100_000, "x") for i in range(5)}
    spec = InferenceServiceSpec(container=ContainerPredictor(image="example.org/large:1"), env=env)
    notes = {"note": name.ljust(200_000, "y")}
    return DeployRequest(namespace=namespace, name=name, spec=spec, annotations=notes)


def smallest(namespace: str, name: str) -> DeployRequest:
    """The same service with nothing that is large."""
    spec = InferenceServiceSpec(container=ContainerPredictor(image="example.org/large:1"))
    return DeployRequest(namespace=namespace, name=name, spec=spec)
