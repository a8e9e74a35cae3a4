"""modelctl's image, as a CI job uses it: built with buildah on Debian, as root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from lab.node import packages
from tests.node import server_image
from tests.serving import serving, settings

from .requirements import say_to, unmet

# Its packages come over the network.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Iterator[server_image.Command]:
    """Runs commands in the image, which `make image TARGET=cli` built."""
    if why := unmet(packages.check):
        assert os.environ.get("CI") != "true", why
        pytest.skip(why)
    packages.install(say_to(request.config))
    # pytest would keep its own folders, and images are large.
    with TemporaryDirectory() as folder, server_image.modelctl(Path(folder)) as run:
        yield run


def test_modelctl_runs_in_its_image_as_nobody(run: server_image.Command) -> None:
    with serving(settings()) as served:
        served.wait_until_synced()
        shell = run("sh", "-euc", f"id -u; modelctl doctor --server {served.address}")
        absent = run("modelctl", "get", "absent", "--server", served.address)
    assert shell.returncode == 0, shell.stdout + shell.stderr
    assert shell.stdout.splitlines()[0] == "65532"
    assert absent.returncode == 69, absent.stderr
    assert "SERVICE_NOT_FOUND" in absent.stderr
