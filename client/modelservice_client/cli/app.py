"""The commands of modelctl about services.

Each command imports what it does when it runs, so that `--help` and completion are quick. Typer
reads the annotations, which therefore are no strings here.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from modelservice_client.cli import config_commands, options, registry_commands, rollout_commands
from modelservice_client.cli.connection import calls_server

if TYPE_CHECKING:
    from modelservice_client.cli.session import Session

app = typer.Typer(
    name="modelctl",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(rollout_commands.app)
app.add_typer(registry_commands.app, name="registry")
app.add_typer(config_commands.app, name="config")


def _print_version(wanted: bool) -> None:
    if wanted:
        from modelservice_client.credentials import own_version

        typer.echo(f"modelctl {own_version()}")
        raise typer.Exit


@app.callback()
def modelctl(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Show it and exit."),
    ] = False,
) -> None:
    """Deploy models with ModelService and follow their rollouts.

    Results are printed to standard output, progress, warnings and errors to standard error. Exit
    codes are 64 and the gRPC code: 73 the rollout failed, 74 it was superseded, 69 it is gone, 68
    the timeout passed, 67 the request is invalid, 71 you may not do it, 80 your token is not valid,
    78 the server went away; and 81 the rollout failed and was rolled back, 1 for no connection, 2
    for wrong usage, 130 after Ctrl-C, which leaves rollouts alone.

    \b
    Examples:
      modelctl config set local --server localhost:50051
      modelctl deploy iris --format sklearn --storage-uri gs://bucket/iris
      modelctl list --all-namespaces
    """


@app.command()
@calls_server
def deploy(
    session: "Session",
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The service, or NAMESPACE/NAME; else the file's.")
    ] = "",
    file: Annotated[
        str,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="A DeployRequest as YAML or JSON; - is standard input. Flags take precedence.",
        ),
    ] = "",
    format: options.Format = "",  # noqa: A002
    format_version: options.FormatVersion = "",
    storage_uri: options.StorageUri = "",
    runtime: Annotated[
        str, typer.Option(metavar="TEXT", help="A serving runtime; else one is selected.")
    ] = "",
    protocol: Annotated[str, typer.Option(metavar="TEXT", help="v1, v2, grpc-v1 or grpc-v2.")] = "",
    image: options.Image = "",
    port: Annotated[int | None, options.number("The port of --image.")] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="An argument of the server. Repeatable."),
    ] = None,
    env: options.Env = None,
    secret_env: options.SecretEnv = None,
    request: options.Requests = None,
    limit: options.Limits = None,
    replicas: options.Replicas = None,
    min_replicas: options.MinReplicas = None,
    max_replicas: options.MaxReplicas = None,
    target: options.Target = None,
    metric: options.Metric = "",
    service_account: options.ServiceAccount = "",
    mode: options.Mode = "",
    request_timeout: options.RequestTimeout = None,
    ready_timeout: options.ReadyTimeout = None,
    rollout_strategy: options.RolloutStrategy = "",
    label: options.Labels = None,
    annotation: options.Annotations = None,
    request_id: options.RequestId = "",
    etag: options.Etag = "",
    force: options.Force = False,
    create_only: Annotated[
        bool, typer.Option("--create-only", help="Fail if the service exists.")
    ] = False,
    validate_only: options.ValidateOnly = False,
    wait: options.Wait = True,
    rollback_on_failure: options.RollbackOnFailure = False,
    timeout: options.ReadySeconds = None,
) -> None:
    """Deploy a model, and wait for its rollout.

    It ends once the rollout is ready or has failed. The whole spec is replaced. A file may also be
    what `get -o yaml` printed. With --rollback-on-failure the rollback has --timeout anew.

    \b
    Examples:
      modelctl deploy iris --format sklearn --storage-uri gs://bucket/iris
      modelctl deploy iris --image example.org/iris:2 --replicas 3 --limit memory=4Gi
      modelctl deploy -f service.yaml --env STAGE=test --no-wait
      modelctl deploy -f service.yaml --rollback-on-failure
    """
    from modelservice_client.cli import services
    from modelservice_client.cli.request_flags import SpecFlags

    flags = SpecFlags(
        format=format,
        format_version=format_version,
        storage_uri=storage_uri,
        runtime=runtime,
        protocol=protocol,
        image=image,
        port=port,
        args=arg or [],
        env=env or [],
        secret_env=secret_env or [],
        requests=request or [],
        limits=limit or [],
        replicas=replicas,
        min_replicas=min_replicas,
        max_replicas=max_replicas,
        target=target,
        metric=metric,
        service_account=service_account,
        mode=mode,
        request_timeout=request_timeout,
        ready_timeout=ready_timeout,
        rollout_strategy=rollout_strategy,
    )
    asked = services.deploy_request(session, file, name, flags, label or [], annotation or [])
    asked.request_id = request_id or asked.request_id
    asked.etag = etag or asked.etag
    asked.force |= force
    asked.create_only |= create_only
    asked.validate_only |= validate_only
    services.deploy(session, asked, wait, timeout, rollback_on_failure)


@app.command()
@calls_server
def status(
    session: "Session",
    name: options.Name,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Until the rollout is ready or has failed.")
    ] = False,
    rollout_id: Annotated[
        str, typer.Option(metavar="TEXT", help="This rollout, and not the newest one.")
    ] = "",
    timeout: options.ReadySeconds = None,
) -> None:
    """Show a service, its state and its failure.

    With --watch it ends like `deploy`, with the same exit codes.

    \b
    Examples:
      modelctl status iris
      modelctl status iris --watch
    """
    from modelservice_client.cli import services

    services.status(session, name, watch, rollout_id, timeout)


@app.command()
@calls_server
def get(
    session: "Session",
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Services, as NAME or NAMESPACE/NAME.")
    ],
) -> None:
    """Print services as they are stored.

    \b
    Examples:
      modelctl get iris
      modelctl get iris -o yaml > iris.yaml
    """
    from modelservice_client.cli import services

    services.get(session, names)


@app.command(name="list")
@calls_server
def list_(
    session: "Session",
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="All that the server serves.")
    ] = False,
    selector: Annotated[
        str,
        typer.Option(
            "--selector", "-l", metavar="SELECTOR", help="As team=vision,tier in (a,b),!canary."
        ),
    ] = "",
    state: Annotated[
        list[str] | None, typer.Option(metavar="STATE", help="Such as FAILED. Repeatable.")
    ] = None,
) -> None:
    """List the services of a namespace, or of all.

    \b
    Examples:
      modelctl list -A --state FAILED --state DEGRADED
      modelctl list -n models -l team=vision -o name
    """
    from modelservice_client.cli import services

    services.list_services(session, all_namespaces, selector, state or [])


@app.command()
@calls_server
def delete(
    session: "Session",
    name: options.Name,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is gone.")] = True,
    timeout: options.TimeoutSeconds = 600.0,
    etag: options.Etag = "",
    force: options.Force = False,
    allow_missing: options.AllowMissing = False,
    validate_only: options.ValidateOnly = False,
) -> None:
    """Delete a service, and wait until its pods are gone.

    \b
    Examples:
      modelctl delete iris
      modelctl delete iris --allow-missing --no-wait
    """
    from modelservice_client.cli import services

    services.delete(session, name, wait, timeout, etag, force, allow_missing, validate_only)


@app.command()
@calls_server
def restart(
    session: "Session",
    name: options.Name,
    request_id: options.RequestId = "",
    wait: options.Wait = True,
    timeout: options.ReadySeconds = None,
) -> None:
    """Replace a service's pods, and wait for the new ones.

    \b
    Examples:
      modelctl restart iris
    """
    from modelservice_client.cli import services

    services.restart(session, name, request_id, wait, timeout)


@app.command()
@calls_server
def doctor(session: "Session") -> None:
    """Check the connection, TLS and the health of a server.

    \b
    Examples:
      modelctl doctor --server modelservice.example:443 --ca ca.pem
    """
    from modelservice_client.cli.doctor import doctor

    doctor(session)
