from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from server.control import watch_cache
from server.control.watch_cache import ALL, WatchCache
from server.domain.rollout.status import InferenceServiceStatus, State
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.memory_size import size_in_memory

KEY = ServiceKey("models", "iris")
MADE = datetime(2026, 1, 1, tzinfo=UTC)
SERVICE = InferenceService(
    KEY, "uid-1", 5, None, InferenceServiceStatus(State.PENDING), "", create_time=MADE
)


def test_a_state_that_is_put_twice_is_one_change() -> None:
    cache = WatchCache()
    cache.put(SERVICE)
    version = cache.version
    cache.put(replace(SERVICE))
    assert (cache.version, cache.get(KEY)) == (version, SERVICE)


def test_a_service_that_was_made_anew_ends_the_one_before_it() -> None:
    cache = WatchCache()
    cache.put(SERVICE)
    cache.put(replace(SERVICE, uid="uid-2"))
    assert cache.is_deleted("uid-1")
    assert [gone.service.uid for gone in cache.deleted_since(0, KEY) or ()] == ["uid-1"]


def test_a_target_covers_no_services_whose_names_begin_alike() -> None:
    cache = WatchCache()
    keys = [
        ServiceKey(namespace, name)
        for namespace in ("a", "a-b", "ab")
        for name in ("x", "x-1", "xy")
    ]
    for nth, key in enumerate(reversed(keys)):
        cache.put(replace(SERVICE, key=key, uid=f"uid-{nth}"))
    targets = {
        ServiceKey(ALL, ""): keys,
        ServiceKey("a", ""): keys[:3],
        ServiceKey("a-b", ""): keys[3:6],
        ServiceKey("a", "x"): keys[:1],
        ServiceKey("ab", "xy"): keys[8:],
        ServiceKey("a", "y"): [],
        ServiceKey("b", ""): [],
    }
    for target, covered in targets.items():
        assert [service.key for service in cache.services(target)] == covered
        assert [entry.service.key for entry in cache.entries(target)] == covered
        assert cache.count(target) == len(covered)
        for place, key in enumerate(covered):
            assert [s.key for s in cache.services(target, key)] == covered[place + 1 :]


def test_the_memory_of_a_service_is_counted_anew_only_where_its_texts_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: list[int] = []

    def counting(*texts: Any) -> int:
        counted.append(size_in_memory(*texts))
        return counted[-1]

    monkeypatch.setattr(watch_cache, "size_in_memory", counting)
    cache = WatchCache()
    cache.put(SERVICE)
    ready = replace(SERVICE, status=InferenceServiceStatus(State.READY))
    cache.put(ready)
    assert len(counted) == 1
    labelled = replace(ready, labels={"team": "fraud"})
    for changed in (labelled, replace(labelled, annotations={"note": "x" * 100})):
        cache.put(changed)
        assert cache.bytes == counted[-1]
    assert len(counted) == 3
