"""`python -m server`: the environment, the settings, the server."""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":

    def _end(number: int, _: object) -> None:
        os._exit(128 + number)

    # Before the imports, which take seconds: process 1 of a container does not get the signals that
    # it does not handle. An exception would be lost in a destructor or a callback of the imports.
    signal.signal(signal.SIGTERM, _end)
    # Shells let what they run in the background ignore it.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, _end)
    # Where it is ignored, Linux keeps no exit code of a child, and Python takes 0 for it.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)

import argparse
import asyncio
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import structlog

from server import __version__, logs, settings
from server.domain.rollout.container_output import without_controls

WRONG_SETTING = 2
FAILED = 1
_NEW_TOKEN = "new-token"  # noqa: S105


def main(arguments: Sequence[str]) -> int:
    """Serve until a signal, migrate the database, or make a token. Return the exit code."""
    parsed = _parser().parse_args(arguments)
    if parsed.command == _NEW_TOKEN:
        return _new_token(parsed.user)
    act = _migrate if parsed.command == "migrate" else _serve
    try:
        loaded = settings.load()
        logs.configure(loaded.log)
        return act(loaded)
    except settings.SettingsInvalid as e:
        return _print_error(str(e), WRONG_SETTING)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m server",
        description="ModelService: deploys models on KServe or on this machine, and reports the"
        " status of their rollouts.",
        epilog="\n".join(_settings_lines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"modelservice {__version__}")
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")
    commands.add_parser(
        "migrate",
        help="migrate the registry's database to this release, and exit",
        description="Migrates the database of MODELSERVICE_DATABASE_URL to the schema of this"
        " release. Run it before servers of this release start; with SQLite they do it themselves."
        " All data is kept, and a second run changes nothing.",
    )
    new_token = commands.add_parser(
        _NEW_TOKEN,
        help="make a token of MODELSERVICE_TOKENS_FILE, and exit",
        description="Makes a token. Prints it on standard error, and its entry of"
        " MODELSERVICE_TOKENS_FILE, which has only its SHA-256, on standard output. Roles are added"
        " by hand; docs/identity.md has them.",
    )
    new_token.add_argument("user", help="name of the user who has the token")
    return parser


def _new_token(user: str) -> int:
    from server.adapters.token_file import new_token  # noqa: PLC0415 - see _serve

    try:
        token, entry = new_token(user)
    except ValueError as e:
        return _print_error(f"USER: {e}", WRONG_SETTING)
    print(token, file=sys.stderr)
    print(entry, end="")
    return 0


def _settings_lines() -> Sequence[str]:
    described = list(settings.described())
    width = max(len(variable) for variable, _ in described)
    lines = [f"  {variable:{width}}  {meaning}" for variable, meaning in described]
    return ["settings, read from the environment [default]:", *lines]


def _require_cluster(loaded: settings.Settings) -> None:
    if loaded.kserve.enabled and not loaded.kubernetes.in_cluster:
        loaded.kubernetes.kubeconfig_paths()


def _migrate(loaded: settings.Settings) -> int:
    from server.adapters.sql import factory  # noqa: PLC0415 - see _serve

    if not (url := loaded.registry_url()):
        raise settings.SettingsInvalid("MODELSERVICE_DATABASE_URL: there is nothing to migrate")
    try:
        schema = asyncio.run(factory.migrate(url))
    except factory.UrlInvalid as e:
        raise settings.SettingsInvalid(f"MODELSERVICE_DATABASE_URL: {e}") from None
    except factory.RegistryUnusable as e:
        return _print_error(str(e), FAILED)
    print(f"the registry's database has schema {schema}")
    return 0


def _serve(loaded: settings.Settings) -> int:
    _require_cluster(loaded)
    # The server logs errors of gRPC itself.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    _find_stubs()
    # After the settings, since these imports take a second and a wrong setting needs none of them.
    from server import app  # noqa: PLC0415
    from server.api.transport.listening import AddressUnusable  # noqa: PLC0415
    from server.event_loop import run  # noqa: PLC0415

    try:
        run(app.run(loaded))
    except settings.SettingsInvalid:
        raise
    except AddressUnusable as e:
        return _print_error(str(e), WRONG_SETTING)
    except (app.ClusterUnusable, app.RegistryUnusable) as e:
        return _print_error(str(e), FAILED)
    except Exception as e:
        structlog.get_logger(__name__).error("the server failed", exc_info=e)
        return FAILED
    return 0


def _find_stubs() -> None:
    """Add the stubs of a checkout to the path; installed, they are a distribution."""
    if find_spec("modelservice") is None:
        sys.path.append(str(Path(__file__).resolve().parents[1] / "generated"))


def _print_error(message: str, code: int) -> int:
    print("modelservice:", " ".join(without_controls(message).split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
