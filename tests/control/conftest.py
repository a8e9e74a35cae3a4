from __future__ import annotations

import pytest

from server.ports import Registry
from tests.control.registered import Registering


@pytest.fixture
def registering(registry: Registry) -> Registering:
    """The registry's four parts over a real database."""
    return Registering(registry)
