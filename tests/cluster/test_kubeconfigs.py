"""A kubeconfig means to the server what it means to kubectl, or the server refuses it by name."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from .kubeconfigs import compare_all, compare_process, kubectl_program, table

LEAST_CASES = 40
WHOLE_PROCESSES = [
    "two files with a current-context each",
    "a token file that ends with a line break",
    "a plugin by a relative path",
    "a plugin that fails",
    "as a user with all",
    "proxy-url: socks5",
]


@pytest.fixture
def built_kubectl() -> Path:
    return kubectl_program()


async def test_each_kubeconfig_leads_where_kubectl_goes_and_as_whom(
    built_kubectl: Path, tmp_path: Path
) -> None:
    rows = await compare_all(tmp_path, built_kubectl)

    print(f"\n{table(rows)}")
    assert len(rows) >= LEAST_CASES
    assert not [row for row in rows if row.differs]


async def test_a_whole_server_goes_there_too(built_kubectl: Path, tmp_path: Path) -> None:
    rows = await asyncio.gather(
        *(
            compare_process(name, tmp_path / str(i), built_kubectl)
            for i, name in enumerate(WHOLE_PROCESSES)
        )
    )

    print(f"\n{table(rows)}")
    assert not [row for row in rows if row.differs]
