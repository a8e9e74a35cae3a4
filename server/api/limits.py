"""How much a request may carry: counted on the message, before anything of it is converted.

Parsing a request of 1 MiB takes gRPC some 30 ms; a loop of ours over all that it may carry would
keep every other caller waiting for a second. So each repeated field and map has a limit here, and
what is converted and validated after it is small.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from server.domain.errors import FieldViolation, refuse_violations
from server.domain.kubernetes.names import count_problem, violation_at
from server.domain.registry import registry_validation
from server.domain.service import resource_validation, spec_validation, validation

# Every state, and a few named twice.
MOST_STATES = 32
# Every field that an update can change, and a few named twice.
MOST_MASK_PATHS = 32

# Of each repeated field and map that a request can have, by its full name.
MOST_ENTRIES = {
    "modelservice.v1.DeployRequest.labels": validation.MOST_LABELS,
    "modelservice.v1.DeployRequest.annotations": validation.MOST_ANNOTATIONS,
    "modelservice.v1.ListRequest.states": MOST_STATES,
    "modelservice.v1.InferenceServiceSpec.env": spec_validation.MOST_VARIABLES,
    "modelservice.v1.InferenceServiceSpec.secret_env": spec_validation.MOST_VARIABLES,
    "modelservice.v1.InferenceServiceSpec.node_selector": spec_validation.MOST_NODE_LABELS,
    "modelservice.v1.InferenceServiceSpec.tolerations": spec_validation.MOST_TOLERATIONS,
    "modelservice.v1.ContainerPredictor.command": spec_validation.MOST_ARGUMENTS,
    "modelservice.v1.ContainerPredictor.args": spec_validation.MOST_ARGUMENTS,
    "modelservice.v1.ModelPredictor.args": spec_validation.MOST_ARGUMENTS,
    "modelservice.v1.Resources.requests": resource_validation.MOST_RESOURCES,
    "modelservice.v1.Resources.limits": resource_validation.MOST_RESOURCES,
    "modelservice.v1.RegisteredModel.labels": registry_validation.MOST_LABELS,
    "modelservice.v1.ModelVersion.labels": registry_validation.MOST_LABELS,
    "modelservice.v1.ServingEnvironment.labels": registry_validation.MOST_LABELS,
    "modelservice.v1.ListModelDeploymentsRequest.states": MOST_STATES,
    "google.protobuf.FieldMask.paths": MOST_MASK_PATHS,
}
# Of messages whose own entries nest, in bytes.
MOST_BYTES = {"google.protobuf.Struct": registry_validation.MOST_METADATA_BYTES}


def check_limits(request: Message) -> None:
    """Refuse a request that carries too much. Raises FieldInvalid with each field's path."""
    refuse_violations(_violations(request, ""))


class _Limited(NamedTuple):
    """What of a message type has to be looked at: `counted` has the limit of each field."""

    counted: tuple[tuple[str, int], ...]
    nested: tuple[str, ...]


def _violations(message: Message, prefix: str) -> Iterator[FieldViolation]:
    counted, nested = _limited(message.DESCRIPTOR)
    for name, most in counted:
        problem = count_problem(len(getattr(message, name)), most)
        yield from violation_at(f"{prefix}{name}", problem)
    for name in nested:
        if not message.HasField(name):
            continue
        inner = getattr(message, name)
        most_bytes = MOST_BYTES.get(inner.DESCRIPTOR.full_name)
        if most_bytes is None:
            yield from _violations(inner, f"{prefix}{name}.")
        else:
            problem = count_problem(inner.ByteSize(), most_bytes, " bytes")
            yield from violation_at(f"{prefix}{name}", problem)


@cache
def _limited(descriptor: Descriptor) -> _Limited:
    fields = descriptor.fields
    return _Limited(
        tuple((f.name, MOST_ENTRIES[f.full_name]) for f in fields if f.is_repeated),
        tuple(f.name for f in fields if _holds_limited(f)),
    )


def _holds_limited(field: FieldDescriptor) -> bool:
    inner = field.message_type
    if field.is_repeated or inner is None:
        return False
    return inner.full_name in MOST_BYTES or any(_limited(inner))
