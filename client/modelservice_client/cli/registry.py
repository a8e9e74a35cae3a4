"""Do what the commands about the registry ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from modelservice.v1.inference_service_pb2 import ModelFormat
from modelservice.v1.model_service_pb2 import DeployRequest
from modelservice.v1.registry_pb2 import (
    ModelDeployment,
    ModelVersion,
    RegisteredModel,
    ServingEnvironment,
)
from modelservice.v1.registry_service_pb2 import (
    CreateModelVersionRequest,
    CreateRegisteredModelRequest,
    CreateServingEnvironmentRequest,
    DeleteModelVersionRequest,
    DeleteRegisteredModelRequest,
    DeleteServingEnvironmentRequest,
    GetModelDeploymentRequest,
    GetModelVersionRequest,
    GetRegisteredModelRequest,
    GetServingEnvironmentRequest,
    ListModelDeploymentsRequest,
    ListModelVersionsRequest,
    ListRegisteredModelsRequest,
    ListServingEnvironmentsRequest,
    UpdateModelVersionRequest,
    UpdateRegisteredModelRequest,
    UpdateServingEnvironmentRequest,
)

from modelservice_client import rpcs
from modelservice_client.cli.printing import Cells, age
from modelservice_client.cli.progress import reason_of
from modelservice_client.cli.request_file import Resource, read_resource
from modelservice_client.cli.request_flags import SpecFlags, UsageError, pairs, spec_of, split_name
from modelservice_client.cli.session import Session
from modelservice_client.core.enum_names import enum_name


def list_models(session: Session, project: str) -> None:
    """Print the models of a project."""
    pages = session.pages(rpcs.LIST_REGISTERED_MODELS, ListRegisteredModelsRequest(project=project))
    _many(session, (model for page in pages for model in page.models))


def get_model(session: Session, project: str, name: str) -> None:
    """Print a model."""
    request = GetRegisteredModelRequest(project=project, name=name)
    _one(session, session.call(rpcs.GET_REGISTERED_MODEL, request).model)


def create_model(
    session: Session, file: str, project: str, name: str, description: str, labels: list[str]
) -> None:
    """Register a model."""
    model = _resource(file, RegisteredModel, project=project, name=name)
    _describe(model, description or None, labels)
    request = CreateRegisteredModelRequest(model=model)
    _one(session, session.call(rpcs.CREATE_REGISTERED_MODEL, request).model)


def update_model(
    session: Session,
    file: str,
    project: str,
    name: str,
    description: str | None,
    labels: list[str],
    default_version: str | None,
    etag: str,
) -> None:
    """Change a model."""
    model = _resource(file, RegisteredModel, project=project, name=name)
    paths = _describe(model, description, labels)
    if default_version is not None:
        model.default_version = default_version
        paths.append("default_version")
    model.etag = etag or model.etag
    request = UpdateRegisteredModelRequest(model=model, update_mask=_mask(file, paths))
    _one(session, session.call(rpcs.UPDATE_REGISTERED_MODEL, request).model)


def set_default(session: Session, project: str, name: str, version: str) -> None:
    """Set a model's default version."""
    update_model(session, "", project, name, None, [], version, "")


def delete_model(session: Session, project: str, name: str, allow_missing: bool) -> None:
    """Delete a model."""
    request = DeleteRegisteredModelRequest(project=project, name=name, allow_missing=allow_missing)
    response = session.call(rpcs.DELETE_REGISTERED_MODEL, request)
    _deleted(session, response, f"{project}/{name}")


def list_versions(session: Session, project: str, model: str) -> None:
    """Print the versions of a model."""
    request = ListModelVersionsRequest(project=project, model=model)
    pages = session.pages(rpcs.LIST_MODEL_VERSIONS, request)
    _many(session, (version for page in pages for version in page.versions))


def get_version(session: Session, project: str, model: str, version: str) -> None:
    """Print a version."""
    request = GetModelVersionRequest(project=project, model=model, version=version)
    _one(session, session.call(rpcs.GET_MODEL_VERSION, request).version)


def create_version(
    session: Session,
    file: str,
    project: str,
    model: str,
    version: str,
    storage_uri: str,
    image: str,
    model_format: ModelFormat,
    pending: bool,
    description: str,
    labels: list[str],
) -> None:
    """Add a version to a model."""
    added = _resource(file, ModelVersion, project=project, model=model, version=version)
    _describe(added, description or None, labels)
    _set_artifact(added, storage_uri, image, model_format)
    if added.WhichOneof("artifact") is None:
        raise UsageError("give --storage-uri with --format, or --image, or --file")
    if pending or not added.state:
        added.state = ModelVersion.STATE_PENDING if pending else ModelVersion.STATE_READY
    request = CreateModelVersionRequest(version=added)
    _one(session, session.call(rpcs.CREATE_MODEL_VERSION, request).version)


def update_version(
    session: Session,
    file: str,
    project: str,
    model: str,
    version: str,
    storage_uri: str,
    image: str,
    model_format: ModelFormat,
    description: str | None,
    labels: list[str],
    etag: str,
) -> None:
    """Change a version."""
    changed = _resource(file, ModelVersion, project=project, model=model, version=version)
    paths = _describe(changed, description, labels)
    paths += _set_artifact(changed, storage_uri, image, model_format)
    _update_version(session, changed, _mask(file, paths), etag)


def set_version_state(
    session: Session, project: str, model: str, version: str, archived: bool
) -> None:
    """Make a version READY or ARCHIVED."""
    state = ModelVersion.STATE_ARCHIVED if archived else ModelVersion.STATE_READY
    changed = ModelVersion(project=project, model=model, version=version, state=state)
    _update_version(session, changed, FieldMask(paths=["state"]))


def _update_version(
    session: Session, version: ModelVersion, mask: FieldMask, etag: str = ""
) -> None:
    version.etag = etag or version.etag
    request = UpdateModelVersionRequest(version=version, update_mask=mask)
    _one(session, session.call(rpcs.UPDATE_MODEL_VERSION, request).version)


def _set_artifact(
    version: ModelVersion, storage_uri: str, image: str, model_format: ModelFormat
) -> list[str]:
    """Set what is given, and return the paths of it."""
    if storage_uri and image:
        raise UsageError("give --storage-uri with --format, or --image")
    given = {"storage_uri": storage_uri, "image": image}
    paths = [name for name, value in given.items() if value]
    for name in paths:
        setattr(version, name, given[name])
    if image:
        version.ClearField("format")
    if model_format != ModelFormat():
        version.format.CopyFrom(model_format)
    if image or model_format != ModelFormat():
        paths.append("format")
    return paths


def delete_version(
    session: Session, project: str, model: str, version: str, allow_missing: bool
) -> None:
    """Delete a version."""
    request = DeleteModelVersionRequest(
        project=project, model=model, version=version, allow_missing=allow_missing
    )
    response = session.call(rpcs.DELETE_MODEL_VERSION, request)
    _deleted(session, response, f"{project}/{model}/{version}")


def list_environments(session: Session, project: str) -> None:
    """Print the environments of a project."""
    request = ListServingEnvironmentsRequest(project=project)
    pages = session.pages(rpcs.LIST_SERVING_ENVIRONMENTS, request)
    _many(session, (environment for page in pages for environment in page.environments))


def get_environment(session: Session, project: str, name: str) -> None:
    """Print an environment."""
    request = GetServingEnvironmentRequest(project=project, name=name)
    _one(session, session.call(rpcs.GET_SERVING_ENVIRONMENT, request).environment)


def create_environment(
    session: Session,
    file: str,
    project: str,
    name: str,
    defaults: SpecFlags,
    description: str,
    labels: list[str],
) -> None:
    """Create an environment, in the namespace of --namespace."""
    environment = _resource(file, ServingEnvironment, project=project, name=name)
    environment.namespace = session.given.namespace or environment.namespace
    _describe(environment, description or None, labels)
    _set_defaults(environment, defaults)
    request = CreateServingEnvironmentRequest(environment=environment)
    _one(session, session.call(rpcs.CREATE_SERVING_ENVIRONMENT, request).environment)


def update_environment(
    session: Session,
    file: str,
    project: str,
    name: str,
    defaults: SpecFlags,
    description: str | None,
    labels: list[str],
    etag: str,
) -> None:
    """Change an environment."""
    environment = _resource(file, ServingEnvironment, project=project, name=name)
    paths = _describe(environment, description, labels) + _set_defaults(environment, defaults)
    environment.etag = etag or environment.etag
    request = UpdateServingEnvironmentRequest(
        environment=environment, update_mask=_mask(file, paths)
    )
    _one(session, session.call(rpcs.UPDATE_SERVING_ENVIRONMENT, request).environment)


def _set_defaults(environment: ServingEnvironment, flags: SpecFlags) -> list[str]:
    """Set the defaults that are given, and return the path of them."""
    if flags == SpecFlags():
        return []
    environment.defaults.CopyFrom(spec_of(flags, environment.defaults))
    return ["defaults"]


def delete_environment(session: Session, project: str, name: str, allow_missing: bool) -> None:
    """Delete an environment."""
    request = DeleteServingEnvironmentRequest(
        project=project, name=name, allow_missing=allow_missing
    )
    response = session.call(rpcs.DELETE_SERVING_ENVIRONMENT, request)
    _deleted(session, response, f"{project}/{name}")


def list_deployments(
    session: Session, project: str, model: str, version: str, environment: str, service: str
) -> None:
    """Print the records of a project's deployments."""
    namespace, service = split_name(service, session.given.namespace)
    request = ListModelDeploymentsRequest(
        project=project,
        model=model,
        version=version,
        environment=environment,
        namespace=namespace,
        service=service,
    )
    pages = session.pages(rpcs.LIST_MODEL_DEPLOYMENTS, request)
    _many(session, (record for page in pages for record in page.deployments))


def get_deployment(session: Session, project: str, record: str) -> None:
    """Print the record of a deployment."""
    request = GetModelDeploymentRequest(project=project, id=record)
    _one(session, session.call(rpcs.GET_MODEL_DEPLOYMENT, request).deployment)


def deploy_request(
    session: Session,
    project: str,
    model: str,
    environment: str,
    version: str,
    name: str,
    flags: SpecFlags,
    request: DeployRequest,
) -> None:
    """Make the request one for a version of a registered model."""
    request.namespace, request.name = split_name(name, session.given.namespace)
    request.spec.CopyFrom(spec_of(flags))
    registered = request.spec.registered_model
    registered.project, registered.model = project, model
    registered.environment, registered.version = environment, version


def state_of(message: Any) -> str:
    """Return the name of a version's or a deployment's state, without its prefix."""
    return enum_name(type(message).State, message.state, "STATE_")


def _model_row(model: Any) -> Cells:
    return model.name, model.default_version, age(model.create_time), model.description


def _version_row(version: Any) -> Cells:
    artifact = version.storage_uri or version.image
    return (
        version.version,
        state_of(version),
        version.format.name,
        age(version.create_time),
        artifact,
    )


def _environment_row(environment: Any) -> Cells:
    return (
        environment.name,
        environment.namespace,
        age(environment.create_time),
        environment.description,
    )


def _deployment_row(record: Any) -> Cells:
    reason = record.error_reason or (
        reason_of(record.failure) if record.HasField("failure") else ""
    )
    return (
        record.id,
        f"{record.model}/{record.version}",
        state_of(record) + (f" ({reason})" if reason else ""),
        age(record.create_time),
        f"{record.environment}: {record.namespace}/{record.service}",
    )


# Of each resource: the columns, a row, the parts of its name.
_TABLES: dict[type[Message], tuple[Sequence[str], Callable[[Any], Cells], Sequence[str]]] = {
    RegisteredModel: (
        ("NAME", "DEFAULT", "AGE", "DESCRIPTION"),
        _model_row,
        ("project", "name"),
    ),
    ModelVersion: (
        ("VERSION", "STATE", "FORMAT", "AGE", "ARTIFACT"),
        _version_row,
        ("project", "model", "version"),
    ),
    ServingEnvironment: (
        ("NAME", "NAMESPACE", "AGE", "DESCRIPTION"),
        _environment_row,
        ("project", "name"),
    ),
    ModelDeployment: (
        ("ID", "MODEL", "STATE", "AGE", "DEPLOYED TO"),
        _deployment_row,
        ("project", "id"),
    ),
}


def _resource(file: str, kind: type[Resource], **name: str) -> Resource:
    """Return the resource of a file, or an empty one, with this name. Raises UsageError where the
    file has another name."""
    resource = read_resource(file, kind) if file else kind()
    for field, value in name.items():
        found = getattr(resource, field)
        if found not in ("", value):
            raise UsageError(f"{field} must be {value}, got {found[:64]} in {file}")
        setattr(resource, field, value)
    return resource


def _describe(resource: Any, description: str | None, labels: list[str]) -> list[str]:
    """Set the description and the labels that are given, and return the paths of them."""
    paths = []
    if description is not None:
        resource.description = description
        paths.append("description")
    if labels:
        resource.labels.clear()
        resource.labels.update(pairs("--label", labels))
        paths.append("labels")
    return paths


def _mask(file: str, paths: list[str]) -> FieldMask:
    """Return the fields to replace: with a file all of them, so that it can leave some out."""
    if not file and not paths:
        raise UsageError("nothing to change: give the fields to change, or --file")
    return FieldMask(paths=["*"] if file else paths)


def _many(session: Session, resources: Iterable[Message]) -> None:
    found = list(resources)
    kind = type(found[0]) if found else RegisteredModel
    columns, row, _ = _TABLES[kind]
    session.printer.many(found, columns, row, _name)


def _one(session: Session, resource: Message) -> None:
    session.printer.one(resource, _name(resource), lambda: _many(session, [resource]))


def _name(resource: Message) -> str:
    _, _, parts = _TABLES[type(resource)]
    return "/".join(getattr(resource, part) for part in parts)


def _deleted(session: Session, response: Message, name: str) -> None:
    session.printer.one(response, name, lambda: session.screen.show(f"{name} is deleted"))
