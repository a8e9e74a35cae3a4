"""Each error message of KServe becomes a failure with a remedy."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from server.adapters.kserve.status.kserve_errors import _MEANINGS, event_error
from server.adapters.kserve.status.observed_objects import ObservedObjects

THEN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(("words", "reason"), [*_MEANINGS, ("something new", "INVALID_SPEC")])
def test_each_of_kserves_messages_becomes_a_failure_with_a_remedy(words: str, reason: str) -> None:
    error = event_error({"reason": "InternalError", "message": f"KServe says: {words} x"})
    assert error
    failure = error.problem(THEN, ObservedObjects({})).failure
    assert failure.reason == reason
    assert failure.message.endswith(f": KServe says: {words} x")
    assert failure.remedy
