"""Requests of every kind: right ones, nearly right ones, and garbage."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from hypothesis import strategies as st
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1 import registry_service_pb2 as registry_pb
from modelservice.v1 import rollout_service_pb2 as rollouts_pb
from modelservice.v1.inference_service_pb2 import RegisteredModelPredictor

from server.api.specs import spec_message
from server.domain.rollout.rollout_id import Rollout
from server.domain.service.commands import Deploy
from tests.strategies import deploys

SERVICES = (
    pb.DESCRIPTOR.services_by_name["ModelService"],
    rollouts_pb.DESCRIPTOR.services_by_name["RolloutService"],
    registry_pb.DESCRIPTOR.services_by_name["RegistryService"],
)
METHODS = {method.name: method for service in SERVICES for method in service.methods}


class Request(NamedTuple):
    method: str
    content: bytes


# Few names, so that requests meet services that others made.
_WORDS = st.sampled_from(
    [
        *("", "-", "a", "b", "team-a", "model-serving", "sklearn", "cpu", "memory", "500m", "1Gi"),
        *("true", "Exists", "NoExecute", "v2", "Always", "Standard", "Knative", "STORAGE_URI"),
        *("example.org/m:1", "gs://b/m", "team=a,!x", "y in (z)", "kubernetes.io/x"),
        *(Rollout("uid", 1).id, Rollout("", -1).id, "bm90IGEgdG9rZW4", "W10", "e30"),
        *("serving.kserve.io/stop", "x" * 300, "x" * 9000),
    ]
)
_TEXTS = st.one_of(_WORDS, _WORDS, st.text(st.characters(codec="utf-8"), max_size=20))
# What no request of the registry is right without.
_NEEDED = frozenset({"project", "name", "model", "version", "environment"})
# What makes a request right more often than not.
_LIKELY = {
    "namespace": ("", "team-a"),
    "name": ("a", "b"),
    "project": ("p",),
    "model": ("a", "b"),
    "version": ("1", "2"),
    "default_version": ("", "1"),
    "environment": ("a", "b"),
    "service": ("", "a-b"),
    "storage_uri": ("gs://b/m",),
    "image": ("example.org/m:1",),
    "paths": ("*", "description", "labels", "state", "storage_uri", "image", "defaults"),
    "label_selector": ("", "team=a,!x", "y in (z)"),
    "rollout_id": ("", Rollout("uid", 1).id),
    "page_token": ("",),
    "resume_token": ("",),
    "etag": ("",),
}
_LIKELY_TEXTS = {field: st.sampled_from(texts) for field, texts in _LIKELY.items()}
# Made once, since Hypothesis looks at every new strategy anew.
_OF_TEN = st.integers(0, 9)
_OF_FIVE = st.integers(0, 4)
_COUNTS = st.integers(0, 3)
_BOOLEANS = st.booleans()
_KEYS = st.lists(_TEXTS, max_size=3)
_INTEGERS = {
    FieldDescriptor.TYPE_INT32: st.sampled_from([0, 1, 2, 100, 65536, -1, 2**31 - 1, -(2**31)]),
    FieldDescriptor.TYPE_INT64: st.sampled_from([0, 1, 30, -1, 2**63 - 1, -(2**63)]),
    FieldDescriptor.TYPE_ENUM: st.sampled_from([0, 1, 2, 3, 77, -5, 2**31 - 1]),
}
_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)


def _struct(content: dict[str, Any]) -> Struct:
    made = Struct()
    made.update(content)
    return made


_STRUCTS = st.dictionaries(_TEXTS, _JSON, max_size=3).map(_struct)


@st.composite
def filled(draw: st.DrawFn, message: type[Message]) -> Message:
    """A message with anything in its fields."""
    made = message()
    for field in message.DESCRIPTOR.fields:
        if draw(_OF_TEN) < (9 if field.name in _NEEDED else 5):
            _fill(draw, made, field)
    return made


_filled = cache(filled)


def _fill(draw: st.DrawFn, message: Message, field: FieldDescriptor) -> None:
    is_map = bool(field.message_type and field.message_type.GetOptions().map_entry)
    if is_map:
        value_field = field.message_type.fields_by_name["value"]
        target = getattr(message, field.name)
        for key in draw(_KEYS):
            if value_field.message_type:
                target[key].CopyFrom(_value(draw, value_field))
            else:
                target[key] = _value(draw, value_field)
    elif field.is_repeated:
        count = draw(_COUNTS)
        getattr(message, field.name).extend(_value(draw, field) for _ in range(count))
    elif field.message_type:
        getattr(message, field.name).CopyFrom(_value(draw, field))
    else:
        setattr(message, field.name, _value(draw, field))


def _value(draw: st.DrawFn, field: FieldDescriptor) -> Any:
    if field.message_type:
        kind = field.message_type._concrete_class
        return draw(_STRUCTS if kind is Struct else _filled(kind))
    if field.type == FieldDescriptor.TYPE_STRING:
        likely = _LIKELY_TEXTS.get(field.name)
        is_likely = likely is not None and draw(_OF_FIVE)
        return draw(likely) if is_likely else draw(_TEXTS)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return draw(_BOOLEANS)
    return draw(_INTEGERS[field.type])


def _right(deploy: Deploy) -> pb.DeployRequest:
    return pb.DeployRequest(
        namespace=deploy.key.namespace,
        name=deploy.key.name,
        spec=spec_message(deploy.spec),
        labels=deploy.labels,
        annotations=deploy.annotations,
        request_id=deploy.request_id,
        validate_only=deploy.validate_only,
        restart=deploy.restart,
        force=deploy.force,
        create_only=deploy.create_only,
    )


_RIGHT = deploys().map(_right)


@st.composite
def _nearly_right(draw: st.DrawFn) -> pb.DeployRequest:
    """A right Deploy with one field of anything."""
    request = draw(_RIGHT)
    message = draw(st.sampled_from([request, request.spec, request.spec.resources]))
    field = draw(st.sampled_from(tuple(message.DESCRIPTOR.fields)))
    message.ClearField(field.name)
    _fill(draw, message, field)
    return request


def _from_registry(deploy: Deploy, model: str, version: str) -> pb.DeployRequest:
    """A right Deploy of what is registered."""
    request = _right(deploy)
    request.namespace = request.name = ""
    request.spec.registered_model.CopyFrom(
        RegisteredModelPredictor(project="p", model=model, version=version, environment="b")
    )
    return request


_method_of = {method.input_type: name for name, method in METHODS.items()}


def _sent(messages: st.SearchStrategy[Any]) -> st.SearchStrategy[Request]:
    return messages.map(lambda m: Request(_method_of[m.DESCRIPTOR], m.SerializeToString()))


REQUESTS: dict[str, st.SearchStrategy[Request]] = {
    "a right Deploy": _sent(_RIGHT),
    "a nearly right Deploy": _sent(_nearly_right()),
    "a Deploy from the registry": _sent(
        st.builds(_from_registry, deploys(), st.sampled_from("ab"), st.sampled_from(["", "1"]))
    ),
    **{
        f"any {name}": _sent(filled(method.input_type._concrete_class))
        for name, method in METHODS.items()
    },
    "any bytes": st.builds(Request, st.sampled_from(tuple(METHODS)), st.binary(max_size=60)),
}
