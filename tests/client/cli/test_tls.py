"""modelctl and a server with the certificate that docs/operations.md makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.api.test_tls_document import make_certificate
from tests.serving import serving, settings
from tests.transcript import transcript

from .running import modelctl


def test_the_lines_of_the_document_reach_a_server_with_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_certificate(tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = [
        step.command.split()
        for step in transcript("docs/operations.md", "With a CA of your own")
        if step.command.startswith("modelctl ")
    ]
    assert len(commands) == 2
    files = {"tls_cert": str(tmp_path / "tls.crt"), "tls_key": str(tmp_path / "tls.key")}
    with serving(settings(serving=files | {"listen": "localhost:0"})) as served:
        served.wait_until_synced()
        for _, *words in commands:
            run = modelctl(*(word.replace(":50051", f":{served.port}") for word in words))
            assert run.exit_code == 0, run.stderr
