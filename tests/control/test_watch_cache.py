from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from server.control import watch_cache
from server.control.watch_cache import WatchCache
from server.domain.rollout.status import InferenceServiceStatus, State
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.memory_size import size_in_memory

KEY = ServiceKey("models", "iris")
MADE = datetime(2026, 1, 1, tzinfo=UTC)
SERVICE = InferenceService(
    KEY, "uid-1", 5, None, InferenceServiceStatus(State.PENDING), "", create_time=MADE
)


def test_the_late_answer_of_a_write_does_not_hide_a_later_write() -> None:
    cache = WatchCache()
    later = replace(SERVICE, generation=6)
    cache.put(later)
    cache.put(SERVICE)
    assert cache.get(KEY) is later


def test_the_late_answer_of_a_write_does_not_hide_the_service_that_was_made_anew() -> None:
    cache = WatchCache()
    anew = replace(SERVICE, uid="uid-2", generation=1, create_time=MADE + timedelta(seconds=1))
    cache.put(anew)
    cache.put(SERVICE)
    assert cache.get(KEY) is anew
    changed = replace(anew, generation=2)
    cache.put(changed)
    assert cache.get(KEY) is changed


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
