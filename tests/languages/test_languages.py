"""The Go and the TypeScript of docs/languages.md, on stubs made as buf.gen.yaml says.

buf's own registry cannot be reached here: the same plugins, in the same versions, come from this
machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.adapters.local.server_process import server
from tests.cluster.deploy_script import Run
from tests.outage import BAD, GOOD, outage
from tests.patience import PATIENCE_SECONDS
from tests.transcript import blocks

from .conftest import HERE, NODE, TOOLS

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]
ROOT = HERE.parents[1]
DOCUMENT = "docs/languages.md"
BUF = Path(sys.executable).with_name("buf")


@pytest.fixture(scope="module")
def plugins(tools: dict[str, Path], node_modules: Path) -> dict[str, Path]:
    """The programs of buf's remote plugins. There is none for Java."""
    return {
        "protocolbuffers/go": tools["protoc-gen-go"],
        "grpc/go": tools["protoc-gen-go-grpc"],
        "bufbuild/es": node_modules / ".bin/protoc-gen-es",
    }


class Programs(NamedTuple):
    """The commands of a language's two programs."""

    short: list[Path]
    long: list[Path]


def programs_of(heading: str, language: str, folder: Path, ending: str) -> list[Path]:
    """The two programs as files: the short one deploys a model of the test's format."""
    short, long = blocks(DOCUMENT, heading, language)
    assert '"sklearn"' in short
    short = short.replace('"sklearn"', '"test"').replace('"iris"', f'"short-{ending}"')
    files = [folder / f"short/main.{ending}", folder / f"long/main.{ending}"]
    for file, text in zip(files, (short, long), strict=True):
        file.parent.mkdir()
        file.write_text(text)
    return files


@pytest.fixture(scope="module")
def go_programs(plugins: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Programs:
    folder = tmp_path_factory.mktemp("go")
    generate(folder, plugins, "go")
    shutil.copytree(HERE / "go/example", folder, dirs_exist_ok=True)
    files = programs_of("Go", "go", folder, "go")
    # With the flags of the tools' build, whose packages are then there.
    run(["go", "vet", "-trimpath", "./short", "./long"], folder)
    assert run(["gofmt", "-l", *files], folder) == ""
    run(["go", "build", "-trimpath", "-o", "built/", "./short", "./long"], folder)
    return Programs([folder / "built/short"], [folder / "built/long"])


@pytest.fixture(scope="module")
def typescript_programs(
    plugins: dict[str, Path], node_modules: Path, tmp_path_factory: pytest.TempPathFactory
) -> Programs:
    folder = tmp_path_factory.mktemp("typescript")
    generate(folder, plugins, "es")
    # What the document's second command generates, from a package of ours.
    packages = Path(sysconfig.get_path("purelib"))
    details = ["--path", packages / "google/rpc/error_details.proto"]
    generate(folder, plugins, "es", packages, *details)
    for file in ("package.json", "tsconfig.json"):
        shutil.copy(NODE / file, folder)
    (folder / "node_modules").symlink_to(node_modules)
    for file in programs_of("TypeScript", "typescript", folder, "ts"):
        # Beside the stubs, where the document has them.
        file.rename(folder / f"{file.parent.name}.ts")
    run([node_modules / ".bin/tsc"], folder)
    node = Path(str(shutil.which("node")))
    return Programs([node, folder / "build/short.js"], [node, folder / "build/long.js"])


def generate(folder: Path, plugins: dict[str, Path], language: str, *options: str | Path) -> None:
    """Run `buf generate` with a language's plugins of buf.gen.yaml."""
    template = templated()
    template["plugins"] = [
        {"local": str(plugins[name])} | plugin
        for (name, _), plugin in remote_plugins(template)
        if name.endswith(f"/{language}")
    ]
    if options:
        del template["inputs"]
    command = [BUF, "generate", *options, "--template", json.dumps(template), "--output", folder]
    run(command, ROOT)


def templated() -> dict[str, Any]:
    template: dict[str, Any] = yaml.safe_load((ROOT / "buf.gen.yaml").read_text())
    return template


def remote_plugins(
    template: dict[str, Any],
) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """The name and version of each plugin, and what else is said of it."""
    for plugin in template["plugins"]:
        found = re.fullmatch(r"buf\.build/([\w/-]+):v([\d.]+)", plugin["remote"])
        assert found, plugin
        yield (found[1], found[2]), {k: v for k, v in plugin.items() if k != "remote"}


def run(command: list[str | Path], folder: Path) -> str:
    """Run a command to its end; what it printed."""
    environment = os.environ | {"CGO_ENABLED": "0"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def test_the_versions_of_plugins_are_those_that_are_run_here() -> None:
    versions = dict(name for name, _ in remote_plugins(templated()))
    go_mod = (TOOLS.folder / "go.mod").read_text()
    packages = json.loads((NODE / "package.json").read_text())
    assert f"google.golang.org/protobuf v{versions['protocolbuffers/go']} " in go_mod
    assert f"google.golang.org/grpc/cmd/protoc-gen-go-grpc v{versions['grpc/go']} " in go_mod
    assert packages["devDependencies"]["@bufbuild/protoc-gen-es"] == versions["bufbuild/es"]
    assert packages["dependencies"]["@bufbuild/protobuf"] == versions["bufbuild/es"]


def test_each_program_waits_out_a_restart_and_names_the_cause_of_a_failure(
    go_programs: Programs, typescript_programs: Programs, tmp_path: Path
) -> None:
    runs: dict[str, list[Run]] = {GOOD: [], BAD: []}
    try:
        with outage(tmp_path) as server:
            for model, of_model in runs.items():
                for language, program in (
                    ("go", go_programs.long),
                    ("ts", typescript_programs.long),
                ):
                    name = f"{language}-{Path(model).stem}"
                    request = tmp_path / f"{name}.json"
                    request.write_text(json.dumps(server.request(name, model)))
                    command = [*program, server.address, str(request)]
                    of_model.append(Run(name, command, "", tmp_path / "bin", {}))
            for each in [*runs[GOOD], *runs[BAD]]:
                each.until("downloading the model")
            server.happen()
            for good in runs[GOOD]:
                assert good.code() == 0, good.errors
                assert good.out[-1].startswith("ready: http://127.0.0.1:")
                assert good.err == []
            for bad in runs[BAD]:
                assert bad.code() == 1
                reason, failure = bad.err
                assert reason.startswith("FailedPrecondition ROLLOUT_FAILED ")
                assert re.match(r"(REASON_)?MODEL_LOAD .* exited with 3 .* remedy: \w+", failure)
    finally:
        for each in [*runs[GOOD], *runs[BAD]]:
            each.process.kill()
            each.process.wait(PATIENCE_SECONDS)


def test_each_short_program_deploys_waits_and_names_the_cause_of_a_failure(
    go_programs: Programs, typescript_programs: Programs, tmp_path: Path
) -> None:
    models = {"good": {}, "bad": {"exit": 3}}
    for name, orders in models.items():
        (tmp_path / name).write_text(json.dumps(orders))
    with server(tmp_path) as running:
        address = running.running.address
        for program in (go_programs.short, typescript_programs.short):
            printed = run([*program, address, tmp_path / "good"], tmp_path).splitlines()
            assert printed[-1] == "ready: true"
            ended, reason, failure = run(
                [*program, address, tmp_path / "bad"], tmp_path
            ).splitlines()[-3:]
            assert (ended, reason) == ("ready: false", "ROLLOUT_FAILED")
            assert re.match(r"(REASON_)?MODEL_LOAD .* exited with 3 .* remedy: \w+", failure)
