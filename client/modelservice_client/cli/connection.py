"""The options that every command which calls a server has."""

from __future__ import annotations

import functools
import inspect
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Concatenate, ParamSpec, get_type_hints

import typer

if TYPE_CHECKING:
    from modelservice_client.cli.session import Session

P = ParamSpec("P")
Command = Callable[..., None]


class Output(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


@dataclass(frozen=True)
class Connection:
    """The options as they were given. Empty texts and None are not given."""

    server: Annotated[
        str, typer.Option(metavar="TEXT", help="host:port of the server; else MODELSERVICE_SERVER.")
    ] = ""
    context: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="A context of the configuration file; else the current one."
        ),
    ] = ""
    namespace: Annotated[
        str,
        typer.Option(
            "--namespace", "-n", metavar="TEXT", help="Else the context's, else the server's own."
        ),
    ] = ""
    plaintext: Annotated[
        bool | None, typer.Option("--plaintext/--tls", help="Default: TLS, except to this machine.")
    ] = None
    ca: Annotated[str, typer.Option(metavar="TEXT", help="A PEM file with the CAs to trust.")] = ""
    cert: Annotated[
        str, typer.Option(metavar="TEXT", help="A PEM file with the client's certificate.")
    ] = ""
    key: Annotated[str, typer.Option(metavar="TEXT", help="A PEM file with its key.")] = ""
    server_name: Annotated[
        str,
        typer.Option(metavar="TEXT", help="The name in the server's certificate, if not the host."),
    ] = ""
    token_file: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="A file with a bearer token; else MODELSERVICE_TOKEN_FILE."
        ),
    ] = ""
    as_user: Annotated[
        str,
        typer.Option(
            "--as", metavar="TEXT", help="A user to act for, where you may impersonate it."
        ),
    ] = ""
    as_groups: Annotated[
        list[str] | None,
        typer.Option(
            "--as-group", metavar="TEXT", help="A group of that user to act in. Repeatable."
        ),
    ] = None
    patience: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, help="Give up after this time without an answer."),
    ] = 60.0
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print the result.")] = (
        Output.TABLE
    )

    def resolved(self) -> Connection:
        """Return the same with what is not given taken from the environment and the context.

        A server that is named by --server or by MODELSERVICE_SERVER gets nothing of a context,
        above all no token, unless --context names it: that would be another server's. Raises
        ConfigError.
        """
        from modelservice_client.cli.contexts import Context, load

        server = self.server or ("" if self.context else os.environ.get("MODELSERVICE_SERVER", ""))
        context = Context() if server and not self.context else load().context(self.context)
        given = {
            known.name: getattr(self, known.name) or getattr(context, known.name)
            for known in fields(Context)
            if known.name != "plaintext"
        }
        plaintext = context.plaintext if self.plaintext is None else self.plaintext
        token_file = given["token_file"] or os.environ.get("MODELSERVICE_TOKEN_FILE", "")
        return Connection(
            **given | {"server": self.server or context.server or server, "token_file": token_file},
            plaintext=plaintext,
            as_user=self.as_user,
            as_groups=self.as_groups,
            patience=self.patience,
            output=self.output,
        )

    def metadata(self) -> list[tuple[str, str]]:
        """Return what names the user to act for, with every call."""
        user = [("impersonate-user", self.as_user)] if self.as_user else []
        return user + [("impersonate-group", group) for group in self.as_groups or ()]

    def source(self) -> str:
        """Return what names the server."""
        if self.server:
            return "--server"
        if not self.context and os.environ.get("MODELSERVICE_SERVER"):
            return "MODELSERVICE_SERVER"
        from modelservice_client.cli.contexts import load

        config = load()
        return f"the context {self.context or config.current} of {config.path}"

    def command(self, *words: str) -> str:
        """Return a command line with the same connection, to be pasted into a shell."""
        flags: list[str] = []
        for name in ("server", "context", "ca", "cert", "key", "server_name", "token_file"):
            if value := getattr(self, name):
                flags += [f"--{name.replace('_', '-')}", value]
        if self.as_user:
            flags += ["--as", self.as_user]
        for group in self.as_groups or ():
            flags += ["--as-group", group]
        if self.plaintext is not None:
            flags.append("--plaintext" if self.plaintext else "--tls")
        return shlex.join(["modelctl", *words, *flags])


def calls_server(function: Callable[Concatenate[Session, P], None]) -> Command:
    """Make a command of a function: it gets a Session of the options of Connection, which are added
    to its own."""
    signature = inspect.signature(function, eval_str=False)
    own = list(signature.parameters.values())[1:]
    hints = get_type_hints(Connection, include_extras=True)
    options = [
        inspect.Parameter(
            known.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=known.default,
            annotation=hints[known.name],
        )
        for known in fields(Connection)
    ]

    @functools.wraps(function)
    def command(*args: P.args, **given: P.kwargs) -> None:
        from modelservice_client.cli.session import Session

        values = {known.name: given.pop(known.name) for known in fields(Connection)}
        with Session(Connection(**values)) as session:  # type: ignore[arg-type]
            function(session, *args, **given)

    keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    command.__signature__ = signature.replace(parameters=[*keyword, *options])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in [*keyword, *options]}
    del command.__wrapped__
    return command
