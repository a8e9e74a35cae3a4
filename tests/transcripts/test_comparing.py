"""Transcripts of one test, as it was and with one answer changed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.transcripts.__main__ import main

ROOT = Path(__file__).parents[2]
TEST = "tests/api::test_a_restart_alone_of_an_absent_service_is_not_found"
PORT_TEST = "tests/contracts::TestMemoryCluster::test_deleting_an_absent_service_is_not_found"
_RECORDED = (
    TEST.replace("::", "/test_deploy.py::", 1),
    PORT_TEST.replace("::", "/test_memory_cluster.py::", 1),
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transcripts")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *_RECORDED]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"TRANSCRIPTS": str(folder)}, check=True)
    return folder


def compared_with(recorded: Path, folder: Path, old: str, new: str) -> int:
    """Compare with what was recorded, but for one change in each test."""
    shutil.copytree(recorded, folder, dirs_exist_ok=True)
    for file in folder.iterdir():
        file.write_text(file.read_text().replace(old, new))
    return main(str(recorded), str(folder))


def test_another_service_uid_or_time_is_no_difference(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compared_with(recorded, tmp_path, "svc-", "svc-9") == 0
    printed = capsys.readouterr().out
    assert "pairs whose texts differ: 0\n" in printed


def test_another_code_is_found(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compared_with(recorded, tmp_path, '"code": "NOT_FOUND"', '"code": "UNKNOWN"') == 1
    printed = capsys.readouterr().out
    [found] = re.findall(f'OTHERWISE {TEST}.*?"code": "UNKNOWN"', printed, re.DOTALL)
    [was] = re.findall(rf'\(before, {TEST}.*?"code": "NOT_FOUND"', printed, re.DOTALL)
    assert found.count("\n") == was.count("\n") == 2, printed


def test_another_reason_is_found_over_grpc_and_at_a_clusters_port(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compared_with(recorded, tmp_path, "SERVICE_NOT_FOUND", "SERVICE_GONE") == 1
    printed = capsys.readouterr().out
    assert f"OTHERWISE {TEST}\n" in printed
    assert f"OTHERWISE {PORT_TEST}\n" in printed


def test_another_message_is_listed_and_is_no_failure(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compared_with(recorded, tmp_path, '"message": "', '"message": "sorry: ') == 0
    printed = capsys.readouterr().out
    assert f"text, first in {TEST}\n- " in printed
    assert "\n+ sorry: " in printed
    assert "pairs that differ otherwise: 0" in printed
