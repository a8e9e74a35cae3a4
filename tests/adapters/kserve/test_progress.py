"""How far a replica has read a collection, and what other replicas can conclude from it."""

from __future__ import annotations

from typing import Any

import pytest

from server.adapters.kserve.informers.progress import (
    Progress,
    decode_position,
    encode_position,
    parse_version,
)
from server.adapters.kserve.informers.watch_stream import WatchEvent


def at(version: object) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": str(version)}}


def test_a_list_is_read_to_its_own_version_and_shows_the_newest_object() -> None:
    assert Progress().listed("90", [at(12), at(70), at(31)]) == Progress(newest=70, read_to=90)


def test_a_deletion_counts_as_much_as_a_change() -> None:
    progress = Progress().listed("90", [at(70)])
    for event, newest in (("ADDED", 91), ("MODIFIED", 95), ("DELETED", 99)):
        progress = progress.read(WatchEvent(event, at(newest)))
        assert progress == Progress(newest, newest)


def test_a_bookmark_shows_how_far_the_watch_is_and_asks_nothing_of_other_replicas() -> None:
    progress = Progress().listed("90", [at(70)]).read(WatchEvent("BOOKMARK", at(500)))
    assert progress == Progress(newest=70, read_to=500)


def test_a_later_list_keeps_the_deletion_that_was_watched_before() -> None:
    progress = Progress().listed("90", [at(70)]).read(WatchEvent("DELETED", at(91)))
    assert progress.listed("120", []) == Progress(newest=91, read_to=120)


def test_a_cluster_that_was_restored_counts_from_its_backup() -> None:
    progress = Progress().listed("900", [at(899)])
    assert progress.listed("120", [at(100)]) == Progress(newest=100, read_to=120)


@pytest.mark.parametrize("version", ["", "abc", "-1", "1.5", "٣", "9" * 5000])
def test_a_version_that_is_no_integer_orders_nothing(version: str) -> None:
    assert parse_version(version) == 0
    assert encode_position({"po": parse_version(version)}) == ""


def test_a_position_is_read_as_it_was_written() -> None:
    newest = {"isvc": 12, "po": 2**62, "rs": 0}
    assert dict(decode_position(encode_position(newest))) == {"isvc": 12, "po": 2**62}


@pytest.mark.parametrize("text", ["", "nonsense", "po=", "=5", "po=x ev=-3", "po==5"])
def test_a_text_that_is_no_position_asks_nothing(text: str) -> None:
    assert not [version for name, version in decode_position(text) if name and version]
