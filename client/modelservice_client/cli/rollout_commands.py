"""The commands of modelctl about the rollouts of a service."""

from typing import TYPE_CHECKING, Annotated

import typer

from modelservice_client.cli import options
from modelservice_client.cli.connection import calls_server

if TYPE_CHECKING:
    from modelservice_client.cli.session import Session

app = typer.Typer(rich_markup_mode=None)


@app.command()
@calls_server
def history(session: "Session", name: options.Name) -> None:
    """List the revisions of a service and their outcomes.

    The newest one comes first.

    \b
    Examples:
      modelctl history iris
      modelctl history iris -o yaml
    """
    from modelservice_client.cli import rollouts

    rollouts.history(session, name)


@app.command()
@calls_server
def rollback(
    session: "Session",
    name: options.Name,
    revision: Annotated[
        int,
        options.number("As `history` lists it; else the last that was ready.", options.INT64),
    ] = 0,
    rollout_id: options.OnlyRollout = "",
    etag: options.Etag = "",
    request_id: options.RequestId = "",
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Also an archived version, or if another client created the service."
        ),
    ] = False,
    validate_only: options.ValidateOnly = False,
    wait: options.Wait = True,
    timeout: options.ReadySeconds = None,
) -> None:
    """Go back to an earlier revision of a service, and wait.

    It deploys that revision again, and ends like `deploy`.

    \b
    Examples:
      modelctl rollback iris
      modelctl rollback iris --revision 3
      modelctl rollback iris --validate-only -o yaml
    """
    from modelservice_client.cli import rollouts

    given = rollouts.Conditions(rollout_id, etag, request_id, force, validate_only)
    rollouts.rollback(session, name, revision, given, wait, timeout)


@app.command()
@calls_server
def stop(
    session: "Session",
    name: options.Name,
    rollout_id: options.OnlyRollout = "",
    etag: options.Etag = "",
    request_id: options.RequestId = "",
    force: options.Force = False,
    validate_only: options.ValidateOnly = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until its pods are gone.")
    ] = True,
    timeout: options.TimeoutSeconds = 600.0,
) -> None:
    """Stop a service, and wait until its pods are gone. `start` starts it as it was.

    \b
    Examples:
      modelctl stop iris
      modelctl stop iris --no-wait
    """
    from modelservice_client.cli import rollouts

    given = rollouts.Conditions(rollout_id, etag, request_id, force, validate_only)
    rollouts.stop(session, name, given, wait, timeout)


@app.command()
@calls_server
def start(
    session: "Session",
    name: options.Name,
    rollout_id: options.OnlyRollout = "",
    etag: options.Etag = "",
    request_id: options.RequestId = "",
    force: options.Force = False,
    validate_only: options.ValidateOnly = False,
    wait: options.Wait = True,
    timeout: options.ReadySeconds = None,
) -> None:
    """Start a stopped service as it was, and wait until it is ready.

    \b
    Examples:
      modelctl start iris
    """
    from modelservice_client.cli import rollouts

    given = rollouts.Conditions(rollout_id, etag, request_id, force, validate_only)
    rollouts.start(session, name, given, wait, timeout)
