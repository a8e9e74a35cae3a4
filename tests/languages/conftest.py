"""The tools of Go and Node: from pinned versions, built once and kept for other runs."""

from __future__ import annotations

import hashlib
import shutil
from functools import partial
from pathlib import Path

import pytest

from lab import BuildFailed, builds
from tests.cluster.requirements import (
    build_before,
    leave_out,
    pytest_terminal_summary,
    say_to,
    unmet,
)

__all__ = ["pytest_terminal_summary"]
HERE = Path(__file__).parent
NODE = HERE / "node"
TOOLS = builds.GoModule(
    "tools",
    {
        "ghz": "github.com/bojand/ghz/cmd/ghz",
        "grpc-health-probe": "github.com/grpc-ecosystem/grpc-health-probe",
        "protoc-gen-go": "google.golang.org/protobuf/cmd/protoc-gen-go",
        "protoc-gen-go-grpc": "google.golang.org/grpc/cmd/protoc-gen-go-grpc",
    },
    root=HERE / "go",
)


def go_tools(say: builds.Say) -> dict[str, Path]:
    return builds.programs([TOOLS], say)


def node_packages(say: builds.Say) -> Path:
    """The folder node_modules."""
    files = [NODE / "package.json", NODE / "package-lock.json"]

    def install(folder: Path) -> None:
        for file in files:
            shutil.copy(file, folder.parent)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        builds.run_build(command, "Node's packages", folder, say, cwd=folder.parent)

    digest = hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]
    return builds.built_once(f"node-{digest}/node_modules", install, say)


@pytest.fixture(scope="session")
def tools(request: pytest.FixtureRequest) -> dict[str, Path]:
    """Go's tools by name."""
    return go_tools(say_to(request.config))


@pytest.fixture(scope="session")
def node_modules(request: pytest.FixtureRequest) -> Path:
    return node_packages(say_to(request.config))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    leave_out(config, _here(items), partial(unmet, _check))


def pytest_collection_finish(session: pytest.Session) -> None:
    build_before(session, _here(session.items), lambda say: (go_tools(say), node_packages(say)))


def _here(items: list[pytest.Item]) -> list[pytest.Item]:
    return [item for item in items if HERE in item.path.parents]


def _check() -> None:
    builds.check_go()
    if shutil.which("npm") is None:
        raise BuildFailed(
            "the TypeScript of the documents needs Node 20 or later, and no npm is here"
        )
