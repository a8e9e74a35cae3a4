"""The commands of modelctl about its configuration file."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from modelservice_client.cli.contexts import Config

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="""Name servers, and choose the one to use.

    \b
    Examples:
      modelctl config set local --server localhost:50051
      modelctl config use local
    """,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The context's name.")]


@app.command(name="set")
def set_context(
    name: Name,
    server: Annotated[
        str | None, typer.Option(metavar="TEXT", help="host:port of the server.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", metavar="TEXT", help="The namespace to use.")
    ] = None,
    plaintext: Annotated[
        bool | None, typer.Option("--plaintext/--tls", help="Default: TLS, except to this machine.")
    ] = None,
    ca: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A PEM file with the CAs to trust.")
    ] = None,
    cert: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A PEM file: the client's certificate.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A PEM file with its key.")
    ] = None,
    server_name: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The name in the server's certificate.")
    ] = None,
    token_file: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A file with a bearer token.")
    ] = None,
) -> None:
    """Add or change a context. The first one becomes the current one.

    An empty value unsets an option.

    \b
    Examples:
      modelctl config set local --server localhost:50051
      modelctl config set prod --server modelservice.example:443 --token-file /run/token -n models
    """
    from dataclasses import replace

    from modelservice_client.cli.contexts import Context, expanded

    files = {"ca": ca, "cert": cert, "key": key, "token_file": token_file}
    given: dict[str, object] = {"server": server, "namespace": namespace}
    given |= {"server_name": server_name, "plaintext": plaintext}
    with _config() as config:
        given |= {o: str(expanded(path).absolute()) if path else path for o, path in files.items()}
        changes = {option: value for option, value in given.items() if value is not None}
        config.contexts[name] = replace(config.contexts.get(name, Context()), **changes)  # type: ignore[arg-type]
        if not config.contexts[name].server:
            _fail("a context needs --server host:port")
        config.current = config.current or name
        config.save()


@app.command()
def use(name: Name) -> None:
    """Make a context the current one.

    \b
    Examples:
      modelctl config use prod
    """
    with _config() as config:
        config.context(name)
        config.current = name
        config.save()


@app.command()
def remove(name: Name) -> None:
    """Remove a context.

    \b
    Examples:
      modelctl config remove local
    """
    with _config() as config:
        config.context(name)
        del config.contexts[name]
        if config.current == name:
            config.current = ""
        config.save()


@app.command()
def show() -> None:
    """Show the contexts, with * at the current one, and where their file is.

    \b
    Examples:
      modelctl config show
    """
    from modelservice_client.cli.screen import Screen, listing

    screen = Screen()
    with _config() as config:
        screen.note(str(config.path))
        rows = [
            ("*" if name == config.current else "", name, context.namespace, context.server)
            for name, context in config.contexts.items()
        ]
        if rows:
            columns = ("", "NAME", "NAMESPACE", "SERVER")
            screen.show(listing(columns, rows, screen.out))
        else:
            screen.note("none")


@contextmanager
def _config() -> Iterator["Config"]:
    """Read the file; print what is wrong with it."""
    from modelservice_client.cli.contexts import ConfigError, load

    try:
        yield load()
    except ConfigError as error:
        _fail(str(error))


def _fail(text: str) -> NoReturn:
    from modelservice_client.cli.screen import Screen

    Screen().error(text, "wrong usage")
    raise typer.Exit(2)
