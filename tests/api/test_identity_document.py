"""The token and the file of docs/identity.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from server.adapters.token_file import Role, parse
from tests.alone import ROOT, clean_environment
from tests.patience import PATIENCE_SECONDS
from tests.serving import serving, settings
from tests.transcript import blocks, transcript

from .token_files import digest, identity

DOCUMENT = "docs/identity.md"
HEADING = "A file of tokens"


@pytest.mark.processes
def test_the_token_of_the_document_lets_its_user_in(tmp_path: Path) -> None:
    make, call = (step.command for step in transcript(DOCUMENT, HEADING))
    run(make.replace(".venv/bin/python", f"cd {ROOT}; {sys.executable}"), tmp_path)
    token = (tmp_path / "token").read_text().strip()
    (made,) = parse((tmp_path / "tokens.toml").read_bytes()).callers
    (shown,) = blocks(DOCUMENT, HEADING, "toml")
    file = tmp_path / "tokens.toml"
    file.write_text(shown.replace("SHA-256 OF A TOKEN", made))
    tokens = parse(file.read_bytes())
    assert tokens.callers[digest(token)].groups == ("risk", "system:authenticated")
    assert tokens.groups["risk"].projects == {"risk": Role.DEPLOYER}
    with serving(settings(identity=identity(file))) as served:
        served.wait_until_synced()
        run(call.replace("localhost:50051", served.address), tmp_path)


def run(command: str, folder: Path) -> None:
    environment = clean_environment()
    paths = [str(ROOT), str(ROOT / "client"), str(ROOT / "generated")]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    # The documents write their files where they are called.
    script = re.sub(r"(?<=[ >])token(?=$|s\.toml)", f"{folder}/token", command)
    script = re.sub("^modelctl", f"{sys.executable} -m modelservice_client.cli", script)
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env=environment | {"HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, (script, done.stdout, done.stderr)
