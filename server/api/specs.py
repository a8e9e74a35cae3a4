"""The spec, from a request and back."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from modelservice.v1 import inference_service_pb2 as pb

from server.domain.errors import FieldInvalid, FieldViolation
from server.domain.inference_service import (
    ContainerPredictor,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    Predictor,
    Resources,
    Scaling,
    SecretKeyRef,
    Toleration,
)

# The range that the JSON mapping of Duration has; timedelta holds it.
_LONGEST_SECONDS = 315_576_000_000


def spec_of(message: pb.InferenceServiceSpec) -> InferenceServiceSpec:
    """The spec as the domain has it. Raises FieldInvalid for what the domain cannot express."""
    return InferenceServiceSpec(
        predictor=_predictor_of(message),
        env=dict(message.env),
        secret_env={name: SecretKeyRef(r.secret, r.key) for name, r in message.secret_env.items()},
        resources=Resources(dict(message.resources.requests), dict(message.resources.limits)),
        scaling=_scaling_of(message.scaling),
        service_account=message.service_account,
        image_pull_policy=message.image_pull_policy,
        deployment_mode=message.deployment_mode,
        node_selector=dict(message.node_selector),
        tolerations=tuple(map(_toleration_of, message.tolerations)),
        request_timeout=_request_timeout_of(message),
    )


def spec_message(spec: InferenceServiceSpec) -> pb.InferenceServiceSpec:
    """The spec as callers see it."""
    message = pb.InferenceServiceSpec(
        env=spec.env,
        secret_env={
            name: pb.SecretKeyRef(secret=r.secret, key=r.key) for name, r in spec.secret_env.items()
        },
        service_account=spec.service_account,
        image_pull_policy=spec.image_pull_policy,
        deployment_mode=spec.deployment_mode,
        node_selector=spec.node_selector,
        tolerations=map(_toleration_message, spec.tolerations),
    )
    _fill_predictor(message, spec.predictor)
    if spec.resources != Resources():
        message.resources.requests.update(spec.resources.requests)
        message.resources.limits.update(spec.resources.limits)
    if spec.scaling != Scaling():
        message.scaling.CopyFrom(_scaling_message(spec.scaling))
    if spec.request_timeout is not None:
        message.request_timeout.FromTimedelta(spec.request_timeout)
    return message


def duration_of(message: Duration, path: str) -> timedelta:
    """The duration, a part of a microsecond rounded away from zero. Raises FieldInvalid."""
    seconds, nanos = message.seconds, message.nanos
    if abs(seconds) > _LONGEST_SECONDS or abs(nanos) >= 10**9 or seconds * nanos < 0:
        raise FieldInvalid([FieldViolation(path, "is not a valid duration")])
    microseconds = -(-nanos // 1000) if nanos > 0 else nanos // 1000
    return timedelta(seconds=seconds, microseconds=microseconds)


def _predictor_of(message: pb.InferenceServiceSpec) -> Predictor:
    match message.WhichOneof("predictor"):
        case "container":
            c = message.container
            return ContainerPredictor(c.image, tuple(c.command), tuple(c.args), c.port)
        case "model":
            m = message.model
            return ModelPredictor(
                format=ModelFormat(m.format.name, m.format.version),
                storage_uri=m.storage_uri,
                runtime=m.runtime,
                protocol_version=m.protocol_version,
                args=tuple(m.args),
            )
    raise FieldInvalid([FieldViolation("spec.predictor", "give one: container or model")])


def _request_timeout_of(message: pb.InferenceServiceSpec) -> timedelta | None:
    if not message.HasField("request_timeout"):
        return None
    return duration_of(message.request_timeout, "spec.request_timeout")


def _fill_predictor(message: pb.InferenceServiceSpec, predictor: Predictor) -> None:
    match predictor:
        case ContainerPredictor(image, command, args, port):
            message.container.CopyFrom(
                pb.ContainerPredictor(image=image, command=command, args=args, port=port)
            )
        case ModelPredictor(model_format, storage_uri, runtime, protocol_version, args):
            message.model.CopyFrom(
                pb.ModelPredictor(
                    format=pb.ModelFormat(name=model_format.name, version=model_format.version),
                    storage_uri=storage_uri,
                    runtime=runtime,
                    protocol_version=protocol_version,
                    args=args,
                )
            )


def _scaling_of(message: pb.Scaling) -> Scaling:
    return Scaling(
        min_replicas=message.min_replicas if message.HasField("min_replicas") else None,
        max_replicas=message.max_replicas if message.HasField("max_replicas") else None,
        target=message.target if message.HasField("target") else None,
        metric=message.metric,
    )


def _scaling_message(scaling: Scaling) -> pb.Scaling:
    return pb.Scaling(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        target=scaling.target,
        metric=scaling.metric,
    )


def _toleration_of(message: pb.Toleration) -> Toleration:
    seconds = message.HasField("toleration_seconds")
    return Toleration(
        key=message.key,
        operator=message.operator,
        value=message.value,
        effect=message.effect,
        toleration_seconds=message.toleration_seconds if seconds else None,
    )


def _toleration_message(toleration: Toleration) -> pb.Toleration:
    return pb.Toleration(
        key=toleration.key,
        operator=toleration.operator,
        value=toleration.value,
        effect=toleration.effect,
        toleration_seconds=toleration.toleration_seconds,
    )
