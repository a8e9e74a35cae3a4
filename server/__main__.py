"""`python -m server`: the environment, the settings, the server."""

from __future__ import annotations

import signal
import sys

TERMINATED = 128 + signal.SIGTERM
if __name__ == "__main__":
    # Before all else is imported, which takes seconds: in a container this is process 1, and the
    # kernel keeps from it the signals that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))

# ruff: noqa: E402 - see above
import argparse
import asyncio
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import structlog

from server import __version__, logs, settings

WRONG_SETTING = 2
FAILED = 1
INTERRUPTED = 130


def main(arguments: Sequence[str]) -> int:
    """Serve until a signal; the exit code."""
    _parser().parse_args(arguments)
    try:
        loaded = settings.load()
        _require_cluster(loaded)
    except settings.SettingsInvalid as e:
        return _say(str(e), WRONG_SETTING)
    logs.configure(loaded.log)
    try:
        return _serve(loaded)
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m server",
        description="ModelService: deploys models on KServe or on this machine, and tells how their"
        " rollouts go.",
        epilog="\n".join(_settings_lines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"modelservice {__version__}")
    return parser


def _settings_lines() -> Sequence[str]:
    described = list(settings.described())
    width = max(len(variable) for variable, _ in described)
    lines = [f"  {variable:{width}}  {meaning}" for variable, meaning in described]
    return ["settings, read from the environment [default]:", *lines]


def _require_cluster(loaded: settings.Settings) -> None:
    if loaded.kserve.enabled and not loaded.kubernetes.in_cluster:
        loaded.kubernetes.kubeconfig_paths()


def _serve(loaded: settings.Settings) -> int:
    # gRPC prints what we say ourselves.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    _find_stubs()
    # After the settings, so that a wrong one is told at once: these imports take a second.
    from server import app  # noqa: PLC0415
    from server.api.listening import AddressUnusable  # noqa: PLC0415

    try:
        asyncio.run(app.run(loaded))
    except settings.SettingsInvalid as e:
        return _say(str(e), WRONG_SETTING)
    except (AddressUnusable, app.ClusterUnusable) as e:
        return _say(str(e), FAILED)
    except Exception as e:
        structlog.get_logger(__name__).error("the server failed", exc_info=e)
        return FAILED
    return 0


def _find_stubs() -> None:
    """In a checkout the stubs lie beside the server; installed they are a distribution."""
    if find_spec("modelservice") is None:
        sys.path.append(str(Path(__file__).resolve().parents[1] / "generated"))


def _say(what: str, code: int) -> int:
    print("modelservice:", " ".join(what.split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
