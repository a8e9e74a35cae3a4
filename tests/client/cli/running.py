"""Runs of modelctl in this process."""

from __future__ import annotations

from typing import Any

from modelservice_client.cli.app import app
from typer.testing import CliRunner

_runner = CliRunner()


def modelctl(*words: str, stdin: str | None = None, **env: str) -> Any:
    """Run a command; nothing is a terminal. The result has exit_code, stdout and stderr."""
    result = _runner.invoke(app, list(words), input=stdin, env=env, prog_name="modelctl")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
