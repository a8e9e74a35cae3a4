"""The commands of modelctl about the registry."""

from typing import TYPE_CHECKING, Annotated

import typer

from modelservice_client.cli import options
from modelservice_client.cli.connection import calls_server

if TYPE_CHECKING:
    from modelservice_client.cli.session import Session


def _group(help_text: str) -> typer.Typer:
    return typer.Typer(rich_markup_mode=None, no_args_is_help=True, help=help_text)


app = _group("""Register models by name, and deploy their versions.

    \b
    Examples:
      modelctl registry model create fraud scorer
      modelctl registry version create fraud scorer 2 --format sklearn --storage-uri gs://bucket/2
      modelctl registry environment create fraud staging -n models-staging
      modelctl registry deploy fraud scorer staging --version 2
    """)
models = _group("""Registered models.

    \b
    Examples:
      modelctl registry model list fraud
    """)
versions = _group("""Versions of registered models.

    \b
    Examples:
      modelctl registry version list fraud scorer
    """)
environments = _group("""Places to deploy registered models to: a namespace with defaults.

    \b
    Examples:
      modelctl registry environment list fraud
    """)
deployments = _group("""The records of deployments.

    \b
    Examples:
      modelctl registry deployment list fraud --environment staging
    """)
app.add_typer(models, name="model")
app.add_typer(versions, name="version")
app.add_typer(environments, name="environment")
app.add_typer(deployments, name="deployment")

Project = Annotated[str, typer.Argument(metavar="PROJECT", help="The project.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="The version's name.")]
Environment = Annotated[str, typer.Argument(metavar="ENVIRONMENT", help="The environment's name.")]


@app.command()
@calls_server
def deploy(
    session: "Session",
    project: Project,
    model: Model,
    environment: Environment,
    version: Annotated[str, typer.Option(metavar="TEXT", help="Else the model's default.")] = "",
    name: Annotated[
        str, typer.Option(metavar="TEXT", help="The service; else MODEL-ENVIRONMENT.")
    ] = "",
    env: options.Env = None,
    secret_env: options.SecretEnv = None,
    request: options.Requests = None,
    limit: options.Limits = None,
    replicas: options.Replicas = None,
    min_replicas: options.MinReplicas = None,
    max_replicas: options.MaxReplicas = None,
    request_id: options.RequestId = "",
    force: options.Force = False,
    validate_only: options.ValidateOnly = False,
    wait: options.Wait = True,
    rollback_on_failure: options.RollbackOnFailure = False,
    timeout: options.ReadySeconds = None,
) -> None:
    """Deploy a version of a registered model to an environment, and wait.

    What no flag sets is the environment's default.

    \b
    Examples:
      modelctl registry deploy fraud scorer staging --version 2
    """
    from modelservice.v1.model_service_pb2 import DeployRequest

    from modelservice_client.cli import registry, services
    from modelservice_client.cli.request_flags import SpecFlags

    flags = SpecFlags(
        env=env or [],
        secret_env=secret_env or [],
        requests=request or [],
        limits=limit or [],
        replicas=replicas,
        min_replicas=min_replicas,
        max_replicas=max_replicas,
    )
    asked = DeployRequest(request_id=request_id, force=force, validate_only=validate_only)
    registry.deploy_request(session, project, model, environment, version, name, flags, asked)
    services.deploy(session, asked, wait, timeout, rollback_on_failure)


@models.command(name="list")
@calls_server
def list_models(session: "Session", project: Project) -> None:
    """List the models of a project.

    \b
    Examples:
      modelctl registry model list fraud
    """
    from modelservice_client.cli import registry

    registry.list_models(session, project)


@models.command(name="get")
@calls_server
def get_model(session: "Session", project: Project, name: Model) -> None:
    """Print a model.

    \b
    Examples:
      modelctl registry model get fraud scorer -o yaml
    """
    from modelservice_client.cli import registry

    registry.get_model(session, project, name)


@models.command(name="create")
@calls_server
def create_model(
    session: "Session",
    project: Project,
    name: Model,
    file: options.ResourceFile = "",
    description: options.Description = "",
    label: options.Labels = None,
) -> None:
    """Register a model.

    \b
    Examples:
      modelctl registry model create fraud scorer --description "scores payments"
    """
    from modelservice_client.cli import registry

    registry.create_model(session, file, project, name, description, label or [])


@models.command(name="update")
@calls_server
def update_model(
    session: "Session",
    project: Project,
    name: Model,
    file: options.ResourceFile = "",
    description: options.NewDescription = None,
    label: options.NewLabels = None,
    default_version: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Deployed where none is named; an empty one unsets it."),
    ] = None,
    etag: options.Etag = "",
) -> None:
    """Change a model.

    Flags change their fields alone. A file replaces all fields that can change, and fails if the
    model has changed since it was printed.

    \b
    Examples:
      modelctl registry model update fraud scorer --description "scores card payments"
      modelctl registry model update fraud scorer -f scorer.yaml
    """
    from modelservice_client.cli import registry

    registry.update_model(
        session, file, project, name, description, label or [], default_version, etag
    )


@models.command()
@calls_server
def set_default(session: "Session", project: Project, name: Model, version: Version) -> None:
    """Set the version that is deployed where none is named.

    \b
    Examples:
      modelctl registry model set-default fraud scorer 2
    """
    from modelservice_client.cli import registry

    registry.set_default(session, project, name, version)


@models.command(name="delete")
@calls_server
def delete_model(
    session: "Session", project: Project, name: Model, allow_missing: options.AllowMissing = False
) -> None:
    """Delete a model with all its versions, while no service uses them.

    \b
    Examples:
      modelctl registry model delete fraud scorer
    """
    from modelservice_client.cli import registry

    registry.delete_model(session, project, name, allow_missing)


@versions.command(name="list")
@calls_server
def list_versions(session: "Session", project: Project, model: Model) -> None:
    """List the versions of a model.

    \b
    Examples:
      modelctl registry version list fraud scorer
    """
    from modelservice_client.cli import registry

    registry.list_versions(session, project, model)


@versions.command(name="get")
@calls_server
def get_version(session: "Session", project: Project, model: Model, version: Version) -> None:
    """Print a version.

    \b
    Examples:
      modelctl registry version get fraud scorer 2 -o yaml
    """
    from modelservice_client.cli import registry

    registry.get_version(session, project, model, version)


@versions.command(name="create")
@calls_server
def create_version(
    session: "Session",
    project: Project,
    model: Model,
    version: Version,
    file: options.ResourceFile = "",
    storage_uri: options.StorageUri = "",
    image: options.Image = "",
    format: options.Format = "",  # noqa: A002
    format_version: options.FormatVersion = "",
    pending: Annotated[
        bool, typer.Option("--pending", help="Its files are still being written.")
    ] = False,
    description: options.Description = "",
    label: options.Labels = None,
) -> None:
    """Add a version to a model.

    \b
    Examples:
      modelctl registry version create fraud scorer 2 --format sklearn --storage-uri gs://bucket/2
    """
    from modelservice.v1.inference_service_pb2 import ModelFormat

    from modelservice_client.cli import registry

    registry.create_version(
        session,
        file,
        project,
        model,
        version,
        storage_uri,
        image,
        ModelFormat(name=format, version=format_version),
        pending,
        description,
        label or [],
    )


@versions.command(name="update")
@calls_server
def update_version(
    session: "Session",
    project: Project,
    model: Model,
    version: Version,
    file: options.ResourceFile = "",
    storage_uri: options.StorageUri = "",
    image: options.Image = "",
    format: options.Format = "",  # noqa: A002
    format_version: options.FormatVersion = "",
    description: options.NewDescription = None,
    label: options.NewLabels = None,
    etag: options.Etag = "",
) -> None:
    """Change a version; where its files are and their format while it is pending.

    Flags change their fields alone. A file replaces all fields that can change, and fails if the
    version has changed since it was printed.

    \b
    Examples:
      modelctl registry version update fraud scorer 2 --label approved=yes
      modelctl registry version update fraud scorer 2 -f version.yaml
    """
    from modelservice.v1.inference_service_pb2 import ModelFormat

    from modelservice_client.cli import registry

    registry.update_version(
        session,
        file,
        project,
        model,
        version,
        storage_uri,
        image,
        ModelFormat(name=format, version=format_version),
        description,
        label or [],
        etag,
    )


@versions.command()
@calls_server
def ready(session: "Session", project: Project, model: Model, version: Version) -> None:
    """Let a version be deployed that was pending or archived.

    \b
    Examples:
      modelctl registry version ready fraud scorer 2
    """
    from modelservice_client.cli import registry

    registry.set_version_state(session, project, model, version, archived=False)


@versions.command()
@calls_server
def archive(session: "Session", project: Project, model: Model, version: Version) -> None:
    """Keep a version from being deployed.

    \b
    Examples:
      modelctl registry version archive fraud scorer 1
    """
    from modelservice_client.cli import registry

    registry.set_version_state(session, project, model, version, archived=True)


@versions.command(name="delete")
@calls_server
def delete_version(
    session: "Session",
    project: Project,
    model: Model,
    version: Version,
    allow_missing: options.AllowMissing = False,
) -> None:
    """Delete a version, while no service uses it.

    \b
    Examples:
      modelctl registry version delete fraud scorer 1
    """
    from modelservice_client.cli import registry

    registry.delete_version(session, project, model, version, allow_missing)


@environments.command(name="list")
@calls_server
def list_environments(session: "Session", project: Project) -> None:
    """List the environments of a project.

    \b
    Examples:
      modelctl registry environment list fraud
    """
    from modelservice_client.cli import registry

    registry.list_environments(session, project)


@environments.command(name="get")
@calls_server
def get_environment(session: "Session", project: Project, name: Environment) -> None:
    """Print an environment.

    \b
    Examples:
      modelctl registry environment get fraud staging -o yaml
    """
    from modelservice_client.cli import registry

    registry.get_environment(session, project, name)


@environments.command(name="create")
@calls_server
def create_environment(
    session: "Session",
    project: Project,
    name: Environment,
    file: options.ResourceFile = "",
    env: options.Env = None,
    secret_env: options.SecretEnv = None,
    request: options.Requests = None,
    limit: options.Limits = None,
    replicas: options.Replicas = None,
    min_replicas: options.MinReplicas = None,
    max_replicas: options.MaxReplicas = None,
    service_account: options.ServiceAccount = "",
    mode: options.Mode = "",
    description: options.Description = "",
    label: options.Labels = None,
) -> None:
    """Create an environment, in the namespace of --namespace or of its own name.

    Flags such as --env and --limit are the defaults of what is deployed there.

    \b
    Examples:
      modelctl registry environment create fraud staging -n models-staging --limit memory=2Gi
    """
    from modelservice_client.cli import registry
    from modelservice_client.cli.request_flags import SpecFlags

    defaults = SpecFlags(
        env=env or [],
        secret_env=secret_env or [],
        requests=request or [],
        limits=limit or [],
        replicas=replicas,
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        service_account=service_account,
        mode=mode,
    )
    registry.create_environment(session, file, project, name, defaults, description, label or [])


@environments.command(name="update")
@calls_server
def update_environment(
    session: "Session",
    project: Project,
    name: Environment,
    file: options.ResourceFile = "",
    env: options.Env = None,
    secret_env: options.SecretEnv = None,
    request: options.Requests = None,
    limit: options.Limits = None,
    replicas: options.Replicas = None,
    min_replicas: options.MinReplicas = None,
    max_replicas: options.MaxReplicas = None,
    service_account: options.ServiceAccount = "",
    mode: options.Mode = "",
    description: options.NewDescription = None,
    label: options.NewLabels = None,
    etag: options.Etag = "",
) -> None:
    """Change an environment. Services get its defaults at their next deploy.

    Flags such as --env and --limit replace all defaults. A file replaces all fields that can
    change, and fails if the environment has changed since it was printed.

    \b
    Examples:
      modelctl registry environment update fraud staging --limit memory=4Gi --replicas 2
      modelctl registry environment get fraud staging -o yaml > staging.yaml
      modelctl registry environment update fraud staging -f staging.yaml
    """
    from modelservice_client.cli import registry
    from modelservice_client.cli.request_flags import SpecFlags

    defaults = SpecFlags(
        env=env or [],
        secret_env=secret_env or [],
        requests=request or [],
        limits=limit or [],
        replicas=replicas,
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        service_account=service_account,
        mode=mode,
    )
    registry.update_environment(
        session, file, project, name, defaults, description, label or [], etag
    )


@environments.command(name="delete")
@calls_server
def delete_environment(
    session: "Session",
    project: Project,
    name: Environment,
    allow_missing: options.AllowMissing = False,
) -> None:
    """Delete an environment, while no service is deployed to it.

    \b
    Examples:
      modelctl registry environment delete fraud staging
    """
    from modelservice_client.cli import registry

    registry.delete_environment(session, project, name, allow_missing)


@deployments.command(name="list")
@calls_server
def list_deployments(
    session: "Session",
    project: Project,
    model: Annotated[str, typer.Option(metavar="TEXT", help="Of this model.")] = "",
    version: Annotated[str, typer.Option(metavar="TEXT", help="Of this version.")] = "",
    environment: Annotated[str, typer.Option(metavar="TEXT", help="To this environment.")] = "",
    service: Annotated[str, typer.Option(metavar="TEXT", help="Of this service.")] = "",
) -> None:
    """List what was deployed, newest first.

    \b
    Examples:
      modelctl registry deployment list fraud --model scorer --environment staging
    """
    from modelservice_client.cli import registry

    registry.list_deployments(session, project, model, version, environment, service)


@deployments.command(name="get")
@calls_server
def get_deployment(
    session: "Session",
    project: Project,
    record: Annotated[str, typer.Argument(metavar="ID", help="The record's id.")],
) -> None:
    """Print the record of a deployment.

    \b
    Examples:
      modelctl registry deployment get fraud ID -o yaml
    """
    from modelservice_client.cli import registry

    registry.get_deployment(session, project, record)
