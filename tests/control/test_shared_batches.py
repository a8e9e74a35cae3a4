"""The events that streams share are kept for a moment."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from itertools import count
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest

from server.control.watch_cache import WatchCache
from server.control.watch_stream import EventType, SharedBatches, WatchEvent
from server.domain.rollout.status import InferenceServiceStatus, State
from server.domain.service.inference_service import InferenceService, ServiceKey


def test_events_that_are_kept_no_longer_are_dropped_with_their_services(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, places = 100.0, count()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    batches: Any = SharedBatches(WatchCache())

    def put() -> ref[InferenceService]:
        key, status = ServiceKey("team-a", "iris"), InferenceServiceStatus(State.READY)
        created = datetime(2026, 1, 1, tzinfo=UTC)
        service = InferenceService(key, "uid", 1, None, status, "", created)
        event = WatchEvent(EventType.SNAPSHOT, service, "")
        batches.put(next(places), 0, SimpleNamespace(events=[event]))
        return ref(service)

    first, second = put(), put()
    assert first()
    assert second()
    now += 1
    third = put()
    assert (first(), second()) == (None, None)
    assert third()
