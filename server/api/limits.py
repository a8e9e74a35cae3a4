"""Limits of a request's repeated fields and maps, checked before the request is converted.

A loop over all the entries that 1 MiB has room for would block every other caller for a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from server.domain.errors import FieldViolation, refuse_violations
from server.domain.kubernetes.names import Count, count_violations
from server.domain.registry import registry_validation
from server.domain.service import resource_validation, spec_validation, validation

# Room for every state, and a few duplicates.
MOST_STATES = 32
# Room for every field that an update can change, and a few duplicates.
MOST_MASK_PATHS = 32

# By the full name of each repeated field and map of the requests.
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
# Messages whose entries nest are limited in bytes.
MOST_BYTES = {"google.protobuf.Struct": registry_validation.MOST_METADATA_BYTES}


def check_limits(request: Message) -> None:
    """Check the limits of a request. Raises FieldInvalid with each field's path."""
    # Requests that only read mostly have no such field.
    if any(_limited(request.DESCRIPTOR)):
        refuse_violations(_violations(request, ""))


class _Limited(NamedTuple):
    """The fields of a message type that have limits: `counted` with their own, `nested` inside."""

    counted: tuple[tuple[str, int], ...]
    nested: tuple[str, ...]


def _violations(message: Message, prefix: str) -> Iterator[FieldViolation]:
    counted, nested = _limited(message.DESCRIPTOR)
    yield from count_violations(
        Count(f"{prefix}{name}", len(getattr(message, name)), most) for name, most in counted
    )
    for name in nested:
        if not message.HasField(name):
            continue
        inner = getattr(message, name)
        most_bytes = MOST_BYTES.get(inner.DESCRIPTOR.full_name)
        if most_bytes is None:
            yield from _violations(inner, f"{prefix}{name}.")
        else:
            size = Count(f"{prefix}{name}", inner.ByteSize(), most_bytes, " bytes")
            yield from count_violations([size])


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
