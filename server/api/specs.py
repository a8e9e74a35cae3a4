"""Convert specs and predictors, in both directions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from modelservice.v1 import inference_service_pb2 as pb

from server.domain.errors import FieldInvalid, FieldViolation
from server.domain.service.inference_service import (
    LONGEST_DURATION_SECONDS,
    RECREATE,
    ROLLING,
    ContainerPredictor,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    Predictor,
    RegisteredModelPredictor,
    Resources,
    RolloutStrategy,
    Scaling,
    SecretKeyRef,
    ServingOptions,
    Toleration,
)

_STRATEGIES = {
    pb.RolloutStrategy.TYPE_ROLLING: ROLLING,
    pb.RolloutStrategy.TYPE_RECREATE: RECREATE,
}


def spec_of(message: pb.InferenceServiceSpec) -> InferenceServiceSpec:
    """Convert a spec from its message. Raises FieldInvalid for what the domain cannot express."""
    return InferenceServiceSpec(predictor=predictor_of(message), **_options_in(message, "spec"))


def options_of(message: pb.InferenceServiceSpec, path: str) -> ServingOptions:
    """Convert a spec at `path` without a predictor. Raises FieldInvalid as spec_of does, and for a
    predictor."""
    if message.WhichOneof("predictor"):
        raise FieldInvalid(
            [FieldViolation(f"{path}.predictor", "must be empty: a Deploy sets the predictor")]
        )
    return ServingOptions(**_options_in(message, path))


def spec_message(spec: InferenceServiceSpec) -> pb.InferenceServiceSpec:
    """Convert a spec to its message."""
    message = options_message(spec)
    fill_predictor(message, spec.predictor)
    return message


def options_message(options: ServingOptions) -> pb.InferenceServiceSpec:
    """Convert serving options to a spec without a predictor."""
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
    if options.ready_timeout is not None:
        message.ready_timeout.FromTimedelta(options.ready_timeout)
    if options.rollout_strategy is not None:
        message.rollout_strategy.CopyFrom(_strategy_message(options.rollout_strategy))
    return message


def duration_of(message: Duration, path: str) -> timedelta:
    """Convert a duration, rounded to microseconds away from zero. Raises FieldInvalid."""
    seconds, nanos = message.seconds, message.nanos
    if abs(seconds) > LONGEST_DURATION_SECONDS:
        most = LONGEST_DURATION_SECONDS
        why = f"must be at most {most} s long, got {seconds} s"
        raise FieldInvalid([FieldViolation(path, why)])
    if abs(nanos) >= 10**9 or seconds * nanos < 0:
        why = f"must have nanos below 10^9 and of the sign of seconds, got {nanos} and {seconds} s"
        raise FieldInvalid([FieldViolation(path, why)])
    microseconds = -(-nanos // 1000) if nanos > 0 else nanos // 1000
    return timedelta(seconds=seconds, microseconds=microseconds)


def _options_in(message: pb.InferenceServiceSpec, path: str) -> dict[str, Any]:
    """Return the fields of ServingOptions, which a whole spec has as well."""
    timed = message.HasField("request_timeout")
    awaited = message.HasField("ready_timeout")
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
        "ready_timeout": duration_of(message.ready_timeout, f"{path}.ready_timeout")
        if awaited
        else None,
        "rollout_strategy": _strategy_of(message.rollout_strategy, f"{path}.rollout_strategy")
        if message.HasField("rollout_strategy")
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


def _strategy_of(message: pb.RolloutStrategy, path: str) -> RolloutStrategy:
    if message.type not in _STRATEGIES:
        why = f"must be TYPE_ROLLING or TYPE_RECREATE, got {message.type}"
        raise FieldInvalid([FieldViolation(f"{path}.type", why)])
    return RolloutStrategy(_STRATEGIES[message.type], message.max_surge, message.max_unavailable)


def _strategy_message(strategy: RolloutStrategy) -> pb.RolloutStrategy:
    return pb.RolloutStrategy(
        type=pb.RolloutStrategy.Type.Value(f"TYPE_{strategy.type}"),
        max_surge=strategy.max_surge,
        max_unavailable=strategy.max_unavailable,
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


def predictor_of(message: pb.InferenceServiceSpec) -> Predictor:
    """Convert the predictor of a spec. The resolution of a registered model is output only, and not
    read. Raises FieldInvalid where there is no predictor."""
    match message.WhichOneof("predictor"):
        case "container":
            c = message.container
            return ContainerPredictor(c.image, tuple(c.command), tuple(c.args), c.port)
        case "model":
            m = message.model
            return ModelPredictor(
                format=format_of(m.format),
                storage_uri=m.storage_uri,
                runtime=m.runtime,
                protocol_version=m.protocol_version,
                args=tuple(m.args),
            )
        case "registered_model":
            r = message.registered_model
            return RegisteredModelPredictor(r.project, r.model, r.environment, r.version)
    raise FieldInvalid(
        [FieldViolation("spec.predictor", "must be set: container, model or registered_model")]
    )


def fill_predictor(message: pb.InferenceServiceSpec, predictor: Predictor) -> None:
    """Set the predictor of a spec's message."""
    match predictor:
        case ContainerPredictor():
            message.container.CopyFrom(_container_message(predictor))
        case ModelPredictor():
            message.model.CopyFrom(_model_message(predictor))
        case RegisteredModelPredictor():
            message.registered_model.CopyFrom(_registered_model_message(predictor))


def format_of(message: pb.ModelFormat) -> ModelFormat:
    """Convert a model format from its message."""
    return ModelFormat(message.name, message.version)


def format_message(model_format: ModelFormat) -> pb.ModelFormat:
    """Convert a model format to its message."""
    return pb.ModelFormat(name=model_format.name, version=model_format.version)


def _container_message(container: ContainerPredictor) -> pb.ContainerPredictor:
    return pb.ContainerPredictor(
        image=container.image,
        command=container.command,
        args=container.args,
        port=container.port,
    )


def _model_message(model: ModelPredictor) -> pb.ModelPredictor:
    return pb.ModelPredictor(
        format=format_message(model.format),
        storage_uri=model.storage_uri,
        runtime=model.runtime,
        protocol_version=model.protocol_version,
        args=model.args,
    )


def _registered_model_message(
    registered: RegisteredModelPredictor,
) -> pb.RegisteredModelPredictor:
    message = pb.RegisteredModelPredictor(
        project=registered.project,
        model=registered.model,
        version=registered.version,
        environment=registered.environment,
    )
    match registered.resolved:
        case ContainerPredictor() as container:
            message.resolved_container.CopyFrom(_container_message(container))
        case ModelPredictor() as model:
            message.resolved_model.CopyFrom(_model_message(model))
    return message
