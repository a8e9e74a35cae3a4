"""The real application over a cluster in memory, and a client of each kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest

from tests.client.faces import FACES, Face, client
from tests.serving import Served, serving, settings


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("registry")
    with serving(settings(registry=f"sqlite:///{folder}/registry.db")) as served:
        served.wait_until_synced()
        yield served


@pytest.fixture(params=list(FACES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def face(kind: str, served: Served) -> AsyncIterator[Face]:
    async with client(kind, served.address) as face:
        yield face


@pytest.fixture
def open_rollouts(served: Served) -> Iterator[None]:
    """Rollouts do not become ready by themselves."""
    served.memory.ready_after = None
    yield
    served.memory.ready_after = timedelta(0)
