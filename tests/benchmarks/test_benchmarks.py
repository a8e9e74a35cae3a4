"""The benchmarks run, at sizes that say nothing of the server's speed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from .comparing import Comparison, table
from .encrypting import measure_identity, measure_tls
from .listing_deployments import measure_deployments
from .load import LoadFailed, Served, load
from .peers import ROOT, bare_server
from .reading import measure_get, measure_list
from .streaming import measure_streams, measure_streams_of_many

pytestmark = pytest.mark.processes

METHOD = "/modelservice.v1.ModelService/Get"


def asked_for_a_moment(address: str) -> Served:
    return asyncio.run(load(address, METHOD, b"", seconds=0.2))


def test_get_is_measured_beside_a_bare_server(tmp_path: Path) -> None:
    rates, costs = measure_get(print, services=2, rounds=1, seconds=0.2, folder=tmp_path)
    assert rates.ratio > 0
    assert costs.ratio > 0


def test_get_with_tls_is_measured_beside_plaintext(tmp_path: Path) -> None:
    rates, costs = measure_tls(print, rounds=1, seconds=0.2, folder=tmp_path)
    assert rates.ratio > 0
    assert costs.ratio > 0


def test_get_with_identity_is_measured_beside_get_without(tmp_path: Path) -> None:
    measured = measure_identity(print, rounds=1, seconds=0.2, folder=tmp_path)
    assert len(measured) == 6
    assert all(comparison.ratio > 0 for comparison in measured)


def test_a_whole_list_is_measured_beside_one_page_of_it(tmp_path: Path) -> None:
    listing = measure_list(print, services=5, rounds=3, page_size=2, folder=tmp_path)
    assert listing.ratio > 0


def test_a_page_of_deployments_is_measured_for_each_filter(tmp_path: Path) -> None:
    measured = measure_deployments(print, many=200, few=100, rounds=1, folder=tmp_path)
    assert all(comparison.ratio > 0 for comparison in measured)
    assert len(measured) % 9 == 0


def test_streams_are_measured_beside_a_bare_server(tmp_path: Path) -> None:
    measured = measure_streams(print, streams=20, changes=2, stalled=2, storms=1, folder=tmp_path)
    assert len(measured) == 4
    assert all(comparison.ratio > 0 for comparison in measured)


def test_streams_of_many_services_are_measured_beside_a_bare_server(tmp_path: Path) -> None:
    [memory] = measure_streams_of_many(print, services=5, streams=30, folder=tmp_path)
    assert len(memory.ours) == len(memory.bare) == 1


def test_the_load_knows_the_size_of_the_answers(tmp_path: Path) -> None:
    with bare_server(tmp_path, {"Get": b"x" * 40_000}) as peer:
        served = asked_for_a_moment(peer.address)
    assert served.calls > 0
    assert served.message_bytes == 40_000


def test_calls_that_are_refused_are_no_measurement(tmp_path: Path) -> None:
    with bare_server(tmp_path, {"Other": b""}) as peer, pytest.raises(LoadFailed):
        asked_for_a_moment(peer.address)


def test_the_table_has_the_aim_beside_the_median_of_the_rounds_ratios() -> None:
    met = Comparison("Get", "calls/s", [70, 8, 900], [100, 10, 100], "bare", aim_least=0.7)
    missed = Comparison("List", "ms", [50], [2], "bare", aim_most=20)
    _, first, second = table([met, missed]).splitlines()
    assert first.split()[-4:] == ["0.80", ">=", "0.7", "met"]
    assert second.split()[-4:] == ["25.00", "<=", "20", "missed"]


def test_all_figures_are_in_a_file(tmp_path: Path) -> None:
    figures = json.loads(json.dumps(Comparison("List", "ms", [50], [2], "bare").figures))
    assert (figures["ours_median"], figures["bare_median"], figures["ratio"]) == (50, 2, 25)


def test_an_aim_may_be_so_much_more_than_the_bare_server_takes() -> None:
    met = Comparison("memory", "KiB", [27], [24], "bare", aim_more=4)
    missed = Comparison("memory", "KiB", [29], [24], "bare", aim_more=4)
    assert [c.figures["verdict"] for c in (met, missed)] == ["met", "missed"]


def test_the_command_tells_what_it_measures() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "--help"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"  {part}" in told for part in ("get", "list", "deploy", "start"))
