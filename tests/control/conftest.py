from __future__ import annotations

import pytest

from server.adapters.sql import engines, sql_registry, transaction
from server.ports import Registry
from tests.control.registry_control import Registering


@pytest.fixture
def registering(registry: Registry) -> Registering:
    """The registry's four parts over a real database."""
    return Registering(registry)


@pytest.fixture(params=["sqlite_url", pytest.param("postgresql_url", marks=pytest.mark.processes)])
def patient_url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a database that is never taken for gone or locked, however slow this machine is."""
    for module in (transaction, engines):
        monkeypatch.setattr(module, "SILENCE_SECONDS", 60.0)
    monkeypatch.setattr(sql_registry, "RETRY_SECONDS", 60.0)
    url: str = request.getfixturevalue(request.param)
    return url
