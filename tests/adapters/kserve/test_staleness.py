"""Errors that are about the present write, and errors that are about the one before."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from server.adapters.kserve.status.kserve_errors import KServeError
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.parsed_service import parse_service
from server.adapters.kserve.status.staleness import StalenessCheck
from tests.adapters.kserve.shown import end, stamp, warning, with_service

SECOND = timedelta(seconds=1)
WORDS = "StorageURI not supported: x"


def error(
    staleness: StalenessCheck, observed: ObservedObjects, now: datetime
) -> KServeError | None:
    return staleness.updated(observed, now).error(parse_service(observed), now)


def fixed_by_a_second_write() -> tuple[ObservedObjects, datetime]:
    """The object as the fixing write's answer has it: a new generation, the old refusal."""
    observed, now = end("unknown_runtime")
    [ours, *others] = observed.service["metadata"]["managedFields"]
    ours = {**ours, "time": stamp(now)}
    metadata = {"generation": 2, "resourceVersion": "900", "managedFields": [ours, *others]}
    return with_service(observed, {"metadata": metadata}), now


def test_the_error_of_the_write_before_does_not_count_after_a_fixing_write() -> None:
    observed, now = fixed_by_a_second_write()
    staleness = StalenessCheck().updated(observed, now)
    assert error(staleness, observed, now) is None
    assert error(staleness, observed, now + 20 * SECOND) is None


def test_an_event_about_an_object_of_this_rollout_counts() -> None:
    observed, now = fixed_by_a_second_write()
    staleness = StalenessCheck().updated(observed, now)
    event = warning(observed.service, "InternalError", WORDS, now)
    event["involvedObject"]["resourceVersion"] = "900"
    with_event = replace(observed, events=(*observed.events, event))
    assert error(staleness, with_event, now)
    assert staleness.updated(with_event, now).error_since == now


def test_a_late_event_about_the_object_before_does_not_count() -> None:
    observed, now = fixed_by_a_second_write()
    staleness = StalenessCheck().updated(observed, now)
    [event] = observed.events
    late = {**event, "count": event["count"] + 1, "lastTimestamp": stamp(now + 2 * SECOND)}
    assert error(staleness, replace(observed, events=(late,)), now + 20 * SECOND) is None


def test_an_event_that_is_repeated_long_after_the_write_counts() -> None:
    observed, now = fixed_by_a_second_write()
    staleness = StalenessCheck().updated(observed, now)
    [event] = observed.events
    again = {**event, "count": event["count"] + 1, "lastTimestamp": stamp(now + 6 * SECOND)}
    assert error(staleness, replace(observed, events=(again,)), now + 7 * SECOND)


def test_a_status_that_was_seen_to_change_counts() -> None:
    observed, now = fixed_by_a_second_write()
    staleness = StalenessCheck().updated(observed, now)
    moved = with_service(observed, {"status": {"modelStatus": {"states": {"x": "y"}}}})
    assert error(staleness, moved, now)


def test_a_status_without_the_error_ends_it() -> None:
    observed, now = end("unknown_runtime")
    staleness = StalenessCheck().updated(observed, now)
    assert staleness.error_since
    accepted = with_service(observed, {"status": {"modelStatus": {"transitionStatus": "x"}}})
    assert staleness.updated(replace(accepted, events=()), now).error_since is None


def test_the_start_of_an_error_is_kept_at_later_updates() -> None:
    observed, now = end("unknown_runtime")
    staleness = StalenessCheck().updated(observed, now).updated(observed, now + SECOND)
    assert staleness.error_since == now


def test_a_process_that_missed_the_write_uses_the_clusters_own_times() -> None:
    observed, now = fixed_by_a_second_write()
    event = warning(observed.service, "InternalError", WORDS, now)
    same_second = replace(observed, events=(event,))
    staleness = StalenessCheck().updated(same_second, now)
    assert error(staleness, same_second, now) is None
    later = replace(observed, events=({**event, "lastTimestamp": stamp(now + 6 * SECOND)},))
    found = error(StalenessCheck(), later, now + 6 * SECOND)
    assert found
    assert found.message == WORDS


def test_an_error_of_unknown_age_counts_after_it_has_lasted_for_half_a_minute() -> None:
    observed, now = fixed_by_a_second_write()
    staleness = StalenessCheck().updated(observed, now)
    assert error(staleness, observed, parse_service(observed).written_at + 30 * SECOND)


def test_an_event_from_an_earlier_hour_is_never_about_this_write() -> None:
    observed, now = fixed_by_a_second_write()
    old = warning(observed.service, "InternalError", WORDS, now - timedelta(hours=1))
    accepted = with_service(observed, {"status": {"modelStatus": {"transitionStatus": "x"}}})
    hinted = replace(accepted, events=(old,))
    staleness = StalenessCheck().updated(hinted, now)
    assert error(staleness, hinted, now + timedelta(hours=2)) is None


def test_a_recreated_service_starts_anew() -> None:
    observed, now = end("unknown_runtime")
    staleness = StalenessCheck().updated(observed, now)
    other = with_service(observed, {"metadata": {"uid": "other"}, "status": None})
    assert staleness.updated(other, now).error_since is None


def test_the_write_is_dated_by_the_manager_of_the_spec_and_not_of_the_status() -> None:
    observed, now = fixed_by_a_second_write()
    assert stamp(parse_service(observed).written_at) == stamp(now)
    bare = with_service(observed, {"metadata": {"managedFields": None}})
    assert stamp(parse_service(bare).written_at) == bare.service["metadata"]["creationTimestamp"]
