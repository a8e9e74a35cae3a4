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
from typing import Any

import pytest
import yaml

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


@pytest.fixture(scope="module")
def go_program(plugins: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("go")
    generate(folder, plugins, "go")
    shutil.copytree(HERE / "go/example", folder, dirs_exist_ok=True)
    [program] = blocks(DOCUMENT, "Go", "go")
    (folder / "main.go").write_text(program)
    # With the flags of the tools' build, whose packages are then there.
    run(["go", "vet", "-trimpath", "."], folder)
    assert run(["gofmt", "-l", "main.go"], folder) == ""
    run(["go", "build", "-trimpath", "-o", "deploy", "."], folder)
    return [folder / "deploy"]


@pytest.fixture(scope="module")
def typescript_program(
    plugins: dict[str, Path], node_modules: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    folder = tmp_path_factory.mktemp("typescript")
    generate(folder, plugins, "es")
    # What the document's second command generates, from a package of ours.
    packages = Path(sysconfig.get_path("purelib"))
    details = ["--path", packages / "google/rpc/error_details.proto"]
    generate(folder, plugins, "es", packages, *details)
    for file in ("package.json", "tsconfig.json"):
        shutil.copy(NODE / file, folder)
    (folder / "node_modules").symlink_to(node_modules)
    [program] = blocks(DOCUMENT, "TypeScript", "typescript")
    (folder / "deploy.ts").write_text(program)
    run([node_modules / ".bin/tsc"], folder)
    return [Path(str(shutil.which("node"))), folder / "build/deploy.js"]


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
    go_program: list[Path], typescript_program: list[Path], tmp_path: Path
) -> None:
    runs: dict[str, list[Run]] = {GOOD: [], BAD: []}
    try:
        with outage(tmp_path) as server:
            for model, of_model in runs.items():
                for language, program in (("go", go_program), ("ts", typescript_program)):
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
