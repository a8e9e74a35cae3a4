"""What to run, from a spec and back."""

from __future__ import annotations

from modelservice.v1 import inference_service_pb2 as pb

from server.domain.errors import FieldInvalid, FieldViolation
from server.domain.service.inference_service import (
    ContainerPredictor,
    ModelFormat,
    ModelPredictor,
    Predictor,
    RegisteredModelPredictor,
)


def predictor_of(message: pb.InferenceServiceSpec) -> Predictor:
    """The predictor of a spec; what a registered model was resolved to is output only. Raises
    FieldInvalid where there is none."""
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
    """Put a predictor into a spec."""
    match predictor:
        case ContainerPredictor():
            message.container.CopyFrom(_container_message(predictor))
        case ModelPredictor():
            message.model.CopyFrom(_model_message(predictor))
        case RegisteredModelPredictor():
            message.registered_model.CopyFrom(_registered_model_message(predictor))


def format_of(message: pb.ModelFormat) -> ModelFormat:
    """The format of a model's files."""
    return ModelFormat(message.name, message.version)


def format_message(model_format: ModelFormat) -> pb.ModelFormat:
    """The format as callers see it."""
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
