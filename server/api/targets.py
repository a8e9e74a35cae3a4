"""Who a request means: names, and nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor

_RESOURCES = ("model", "version", "environment")
_NAMES = ("project", "model", "name", "version", "environment")


@cache
def names_in(descriptor: Descriptor | None) -> frozenset[str]:
    """The fields of a message; asking the message itself for one that it lacks is slow."""
    return frozenset(descriptor.fields_by_name) if descriptor else frozenset()


def targets_of(request: Any, default_namespace: str) -> Mapping[str, str]:
    """`target`: a service as namespace/name, or what a call of the registry is about, from its
    project down. `registered_model`: what a Deploy takes from the registry."""
    descriptor = getattr(request, "DESCRIPTOR", None)
    has = names_in(descriptor)
    if "project" in has:
        return {"target": _path(request, (*_NAMES, "id"))}
    if resource := _resource_of(descriptor):
        return {"target": _path(getattr(request, resource), _NAMES)}
    if "namespace" not in has:
        return {}
    name = request.name if "name" in has else ""
    if "spec" in has and request.spec.WhichOneof("predictor") == "registered_model":
        source = {"registered_model": _path(request.spec.registered_model, _NAMES)}
        # What is left empty is the registry's to fill in, not this server's.
        return source | ({"target": f"{request.namespace}/{name}"} if name else {})
    return {"target": f"{request.namespace or default_namespace}/{name}"}


@cache
def _resource_of(descriptor: Descriptor | None) -> str | None:
    """The field that has what a request is to make or change."""
    fields = descriptor.fields_by_name if descriptor else {}
    return next((n for n in _RESOURCES if n in fields and fields[n].message_type), None)


def _path(message: Any, fields: tuple[str, ...]) -> str:
    has = names_in(message.DESCRIPTOR)
    return "/".join(text for field in fields if field in has and (text := getattr(message, field)))
