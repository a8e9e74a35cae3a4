"""The spec, from a request and back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from modelservice.v1 import inference_service_pb2 as pb

from server.api.predictors import fill_predictor, predictor_of
from server.domain.errors import FieldInvalid, FieldViolation
from server.domain.service.inference_service import (
    LONGEST_DURATION_SECONDS,
    InferenceServiceSpec,
    Resources,
    Scaling,
    SecretKeyRef,
    ServingOptions,
    Toleration,
)


def spec_of(message: pb.InferenceServiceSpec) -> InferenceServiceSpec:
    """The spec as the domain has it. Raises FieldInvalid for what the domain cannot express."""
    return InferenceServiceSpec(predictor=predictor_of(message), **_options_in(message, "spec"))


def options_of(message: pb.InferenceServiceSpec, path: str) -> ServingOptions:
    """How a predictor is run, of a spec at `path` that has none. Raises FieldInvalid as spec_of,
    and for a predictor."""
    if message.WhichOneof("predictor"):
        raise FieldInvalid([FieldViolation(f"{path}.predictor", "must not be set here")])
    return ServingOptions(**_options_in(message, path))


def spec_message(spec: InferenceServiceSpec) -> pb.InferenceServiceSpec:
    """The spec as callers see it."""
    message = options_message(spec)
    fill_predictor(message, spec.predictor)
    return message


def options_message(options: ServingOptions) -> pb.InferenceServiceSpec:
    """How a predictor is run, as a spec without one."""
    message = pb.InferenceServiceSpec(
        env=options.env,
        secret_env={
            name: pb.SecretKeyRef(secret=r.secret, key=r.key)
            for name, r in options.secret_env.items()
        },
        service_account=options.service_account,
        image_pull_policy=options.image_pull_policy,
        deployment_mode=options.deployment_mode,
        node_selector=options.node_selector,
        tolerations=map(_toleration_message, options.tolerations),
    )
    if options.resources != Resources():
        message.resources.requests.update(options.resources.requests)
        message.resources.limits.update(options.resources.limits)
    if options.scaling != Scaling():
        message.scaling.CopyFrom(_scaling_message(options.scaling))
    if options.request_timeout is not None:
        message.request_timeout.FromTimedelta(options.request_timeout)
    return message


def duration_of(message: Duration, path: str) -> timedelta:
    """The duration, a part of a microsecond rounded away from zero. Raises FieldInvalid."""
    seconds, nanos = message.seconds, message.nanos
    if abs(seconds) > LONGEST_DURATION_SECONDS or abs(nanos) >= 10**9 or seconds * nanos < 0:
        raise FieldInvalid(
            [FieldViolation(path, "must be a duration with seconds and nanos of one sign")]
        )
    microseconds = -(-nanos // 1000) if nanos > 0 else nanos // 1000
    return timedelta(seconds=seconds, microseconds=microseconds)


def _options_in(message: pb.InferenceServiceSpec, path: str) -> dict[str, Any]:
    """The fields of ServingOptions, which a whole spec has as well."""
    timed = message.HasField("request_timeout")
    return {
        "env": dict(message.env),
        "secret_env": {n: SecretKeyRef(r.secret, r.key) for n, r in message.secret_env.items()},
        "resources": Resources(dict(message.resources.requests), dict(message.resources.limits)),
        "scaling": _scaling_of(message.scaling),
        "service_account": message.service_account,
        "image_pull_policy": message.image_pull_policy,
        "deployment_mode": message.deployment_mode,
        "node_selector": dict(message.node_selector),
        "tolerations": tuple(map(_toleration_of, message.tolerations)),
        "request_timeout": duration_of(message.request_timeout, f"{path}.request_timeout")
        if timed
        else None,
    }


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
