"""Convert registered models, versions, environments and deployments to messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from modelservice.v1 import registry_pb2 as pb

from server.api.requests import PAGE_SIZE_DEFAULT
from server.api.responses import PAGE_BYTES
from server.api.services import failure_message, time_message
from server.api.specs import format_message, options_message
from server.control.registry.pages import ItemPage
from server.domain.registry.deployment import ModelDeployment
from server.domain.registry.registered import ModelVersion, RegisteredModel, ServingEnvironment
from server.domain.service.inference_service import ServingOptions

Item = TypeVar("Item")
M = TypeVar("M", bound=Message)


async def page_of(
    read: Callable[[int, str], Awaitable[ItemPage[Item]]],
    message: Callable[[Item], M],
    size: int,
    token: str,
) -> tuple[list[M], str]:
    """Return the messages of a page and the token of the next one. A page has at most `size`
    messages and PAGE_BYTES, but one message at least.

    `read` returns at most a number of items from a token on.
    """
    messages: list[M] = []
    room = PAGE_BYTES
    while True:
        # A thousand at once could be hundreds of MiB, for a response of two.
        page = await read(min(size - len(messages), PAGE_SIZE_DEFAULT), token)
        for count, item in enumerate(page.items):
            converted = message(item)
            room -= converted.ByteSize()
            if messages and room < 0:
                return messages, page.token_after(count)
            messages.append(converted)
        token = page.token_after(len(page.items))
        if not token or len(messages) == size:
            return messages, token


def model_message(model: RegisteredModel) -> pb.RegisteredModel:
    """Convert a registered model."""
    return pb.RegisteredModel(
        project=model.key.project,
        name=model.key.name,
        id=model.id,
        description=model.description,
        default_version=model.default_version,
        labels=model.labels,
        etag=model.etag,
        create_time=time_message(model.create_time),
        update_time=time_message(model.update_time),
    )


def version_message(version: ModelVersion) -> pb.ModelVersion:
    """Convert a version of a model."""
    message = pb.ModelVersion(
        project=version.key.project,
        model=version.key.model,
        version=version.key.version,
        id=version.id,
        format=format_message(version.format) if version.format else None,
        state=pb.ModelVersion.State.Value(f"STATE_{version.state.value}"),
        description=version.description,
        labels=version.labels,
        metadata=_struct(version) if version.metadata else None,
        etag=version.etag,
        create_time=time_message(version.create_time),
        update_time=time_message(version.update_time),
    )
    if version.image:
        message.image = version.image
    else:
        message.storage_uri = version.storage_uri
    return message


def environment_message(environment: ServingEnvironment) -> pb.ServingEnvironment:
    """Convert a serving environment."""
    defaults = environment.defaults
    return pb.ServingEnvironment(
        project=environment.key.project,
        name=environment.key.name,
        id=environment.id,
        namespace=environment.namespace,
        defaults=options_message(defaults) if defaults != ServingOptions() else None,
        description=environment.description,
        labels=environment.labels,
        etag=environment.etag,
        create_time=time_message(environment.create_time),
        update_time=time_message(environment.update_time),
    )


def deployment_message(deployment: ModelDeployment) -> pb.ModelDeployment:
    """Convert the record of a deployment, its failure with log lines."""
    rollout, failure = deployment.rollout, deployment.failure
    return pb.ModelDeployment(
        project=deployment.project,
        id=deployment.id,
        model=deployment.model,
        version=deployment.version,
        environment=deployment.environment,
        namespace=deployment.service.namespace,
        service=deployment.service.name,
        service_uid=rollout.uid if rollout else "",
        rollout_id=rollout.id if rollout else "",
        desired_state=pb.ModelDeployment.DesiredState.Value(
            f"DESIRED_STATE_{deployment.desired_state.value}"
        ),
        state=pb.ModelDeployment.State.Value(f"STATE_{deployment.state.value}"),
        url=deployment.url,
        failure=failure_message(failure) if failure else None,
        error_reason=deployment.error_reason,
        error_message=deployment.error_message,
        caller=deployment.caller,
        create_time=time_message(deployment.create_time),
        update_time=time_message(deployment.update_time),
        ready_time=time_message(deployment.ready_time),
        end_time=time_message(deployment.end_time),
    )


def listed_deployment_message(deployment: ModelDeployment) -> pb.ModelDeployment:
    """Convert a record in a list: without log lines."""
    message = deployment_message(deployment)
    # Touching the failure of a record that has none would give it an empty one.
    if message.HasField("failure"):
        message.failure.ClearField("log_lines")
    return message


def _struct(version: ModelVersion) -> Struct:
    message = Struct()
    message.update(version.metadata)
    return message
