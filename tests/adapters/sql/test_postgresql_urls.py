"""What a URL of PostgreSQL needs beside it: missing at the start it keeps a server from starting,
missing later it is an outage."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.credentials import write_loopback_certificate
from server.adapters.sql.factory import UrlInvalid, migrate, opened_registry
from tests.adapters.sql.statements import add, healed, refused
from tests.postgresql import END_OTHERS, execute

AWAY = "does not answer, nothing was stored"


async def test_a_file_that_the_url_needs_and_that_goes_is_told_until_it_is_back(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = tmp_path / ".postgresql" / "root.crt"
    certificate.parent.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    certificate.write_bytes(write_loopback_certificate(tmp_path / "made"))
    async with opened_registry(f"{postgresql_url}&sslmode=verify-ca") as registry:
        await add(registry)
        gone = certificate.rename(tmp_path / "gone")
        await execute(postgresql_url, END_OTHERS)
        with refused("refuses this server, nothing was stored"):
            await add(registry)
        assert not registry.reachable()
        gone.rename(certificate)
        await healed(registry)


async def test_a_file_that_the_url_needs_keeps_a_server_from_starting_without_it(
    postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    usual = re.escape(f"{tmp_path}/.postgresql/root.crt")
    wanted = (
        rf"^sslrootcert: {usual}, which sslmode=verify-ca needs where no other is named, cannot"
        " be read: No such file or directory; .*name its file as sslrootcert, or give"
        " sslrootcert=system"
    )
    with pytest.raises(UrlInvalid, match=wanted):
        await migrate(f"{postgresql_url}&sslmode=verify-ca")
    with pytest.raises(UrlInvalid, match=wanted):
        async with opened_registry(f"{postgresql_url}&sslmode=verify-ca"):
            pass


async def test_no_host_that_may_be_written_is_an_outage(postgresql_url: str) -> None:
    async with opened_registry(f"{postgresql_url}&target_session_attrs=standby") as registry:
        assert not registry.reachable()
        with refused(AWAY):
            await add(registry)
