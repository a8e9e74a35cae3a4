"""The certificate that docs/operations.md makes with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.patience import PATIENCE_SECONDS
from tests.serving import serving, settings
from tests.transcript import transcript


def make_certificate(folder: Path) -> None:
    """Run the document's lines in a folder."""
    steps = [
        step
        for step in transcript("docs/operations.md", "With a CA of your own")
        if step.command.startswith("openssl ")
    ]
    assert len(steps) == 2
    for step in steps:
        done = subprocess.run(
            ["bash", "-euc", step.command], cwd=folder, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, (step.command, done.stderr)


def test_the_certificate_that_the_document_makes_is_served(tmp_path: Path) -> None:
    make_certificate(tmp_path)
    files = {"tls_cert": str(tmp_path / "tls.crt"), "tls_key": str(tmp_path / "tls.key")}
    ca = grpc.ssl_channel_credentials((tmp_path / "ca.crt").read_bytes())
    with serving(settings(serving=files | {"listen": "localhost:0"})) as served:
        for authority in ("localhost", "modelservice.modelservice"):
            named = [("grpc.ssl_target_name_override", authority)]
            with grpc.secure_channel(f"localhost:{served.port}", ca, named) as channel:
                live = HealthCheckRequest(service="live")
                checked = HealthStub(channel).Check(live, timeout=PATIENCE_SECONDS)
                assert checked.status == HealthCheckResponse.SERVING
