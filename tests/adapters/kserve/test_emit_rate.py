"""Of a service whose state stays what it was, one message a second is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from server.adapters.kserve.informers import emit_rate
from server.adapters.kserve.informers.emit_rate import EmitRate
from server.domain.rollout.failures import failure_of
from server.domain.rollout.status import Condition, FailureReason, InferenceServiceStatus, State
from server.domain.service.inference_service import InferenceService, ServiceKey

KEY = ServiceKey("team-a", "iris")
READY = InferenceService(
    key=KEY,
    uid="s1",
    generation=1,
    spec=None,
    status=InferenceServiceStatus(State.READY, serving=True),
    etag="e",
    create_time=datetime(2026, 1, 1, tzinfo=UTC),
)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(emit_rate.time, "monotonic", lambda: now[0])
    return now


def complaining(n: int) -> InferenceService:
    told = Condition("Ready", "False", "ReconcileFailed", f"try {n}")
    status = replace(READY.status, message=f"try {n}", conditions=(told,))
    return replace(READY, status=status)


def test_what_repeats_the_state_is_told_once_a_second(clock: list[float]) -> None:
    paced, told = EmitRate(), 0
    for n in range(400):
        told += paced.wait(complaining(n)) == 0
        clock[0] += 0.025
    assert told == 10


def test_what_is_held_back_may_be_told_when_its_time_has_come(clock: list[float]) -> None:
    paced = EmitRate()
    assert paced.wait(complaining(1)) == 0
    clock[0] += 0.3
    left = paced.wait(complaining(2))
    assert left == pytest.approx(0.7)
    clock[0] += left
    assert paced.wait(complaining(2)) == 0


@pytest.mark.parametrize(
    "news",
    [
        replace(READY, generation=2),
        replace(READY, uid="s2"),
        replace(READY, etag="f"),
        replace(READY, labels={"a": "b"}),
        replace(READY, status=replace(READY.status, state=State.DEGRADED)),
        replace(READY, status=replace(READY.status, serving=False)),
        replace(
            READY, status=replace(READY.status, failure=failure_of(FailureReason.QUOTA, "full"))
        ),
    ],
)
def test_news_is_told_at_once(clock: list[float], news: InferenceService) -> None:
    paced = EmitRate()
    assert paced.wait(READY) == 0
    assert paced.wait(news) == 0


def test_a_failure_whose_words_alone_change_is_no_news(clock: list[float]) -> None:
    def failing(words: str) -> InferenceService:
        failure = failure_of(FailureReason.QUOTA, words)
        return replace(READY, status=replace(READY.status, state=State.FAILED, failure=failure))

    paced = EmitRate()
    assert paced.wait(failing("one")) == 0
    assert paced.wait(failing("two")) > 0


def test_a_service_that_came_back_is_told_at_once(clock: list[float]) -> None:
    paced = EmitRate()
    assert paced.wait(READY) == 0
    paced.forget(KEY)
    assert paced.wait(READY) == 0
