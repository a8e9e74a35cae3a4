"""The help of modelctl, quick and with an example in each command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from modelservice_client.cli.app import app

from .running import modelctl

ROOT = Path(__file__).parents[3]


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*words, name))


COMMANDS = list(commands(typer.main.get_command(app)))


def params(words: tuple[str, ...]) -> list[Any]:
    """The arguments and options of a command."""
    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    found: list[Any] = command.params
    return found


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_help_shows_an_example_of_its_command(words: tuple[str, ...]) -> None:
    run = modelctl(*words, "--help")
    assert run.exit_code == 0
    examples = run.stdout.partition("Examples:\n")[2]
    assert " ".join(["modelctl", *words]) in examples
    assert all(len(line) <= 100 for line in run.stdout.splitlines())


INTEGERS = [
    (words, param)
    for words in COMMANDS
    for param in params(words)
    if param.type_descriptor and param.type_descriptor.annotation is int
]


@pytest.mark.parametrize(
    ("words", "option"), INTEGERS, ids=[" ".join((*words, o.name)) for words, o in INTEGERS]
)
def test_a_number_that_no_field_holds_is_wrong_usage(words: tuple[str, ...], option: Any) -> None:
    flag = option.opts[0]
    names = ["x" for other in params(words) if other.param_type_name == "argument"]
    predictor = ["--image", "a:1"] if any(o.name == "image" for o in params(words)) else []
    for wrong in ("-1", str(2**63), str(10**30)):
        run = modelctl(*words, *names, *predictor, "--server", "127.0.0.1:1", flag, wrong)
        assert run.exit_code == 2
        assert re.search(rf"'{flag}': must be from 0 to \d+, got {wrong}\n", run.stderr)


def test_help_imports_nothing_that_only_commands_need() -> None:
    code = (
        "import sys; from modelservice_client.cli.app import app;"
        "print([m for m in ('rich', 'yaml') if m in sys.modules])"
    )
    path = os.pathsep.join(str(ROOT / part) for part in ("generated", "client"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_the_version_is_that_of_the_distribution() -> None:
    run = modelctl("--version")
    assert run.exit_code == 0
    assert re.fullmatch(r"modelctl (\d+\.\d+\.\d+\S*|unknown)\n", run.stdout)
