"""The Python of the documents, and the client behind it, pass pyright; mypy is in tests/stubs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_SECONDS
from tests.stubs.test_clients_doc import written

from .test_languages import ROOT

pytestmark = pytest.mark.processes
CLIENT = ROOT / "client/modelservice_client"


def pyright(node_modules: Path, folder: Path, mode: str, files: list[Path]) -> str:
    """What pyright prints of files in one of its modes."""
    configuration = {
        "typeCheckingMode": mode,
        "pythonVersion": "3.11",
        "extraPaths": [str(ROOT / "generated"), str(ROOT / "client")],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(configuration))
    program = [str(shutil.which("node")), node_modules / "pyright/index.js"]
    done = subprocess.run(
        [*program, "--pythonpath", sys.executable, *files],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    return done.stdout + done.stderr


def test_the_code_of_the_documents_passes_pyright_at_its_strictest(
    node_modules: Path, tmp_path: Path
) -> None:
    files = list(written(tmp_path).values())
    assert pyright(node_modules, tmp_path, "strict", files).startswith("0 errors, 0 warnings")


def test_the_client_passes_pyright(node_modules: Path, tmp_path: Path) -> None:
    printed = pyright(node_modules, tmp_path, "standard", [CLIENT])
    assert printed.startswith("0 errors, 0 warnings"), printed
