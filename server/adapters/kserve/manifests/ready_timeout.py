"""Keep a rollout's ready_timeout in annotations of spec.predictor, which reach the pods."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from server.adapters.kserve.modes import KNATIVE
from server.adapters.kserve.names import KNATIVE_DEADLINE_ANNOTATION, READY_TIMEOUT_ANNOTATION
from server.domain.service.spec_validation import LONGEST_READY_TIMEOUT

_SECONDS = re.compile(r"([1-9][0-9]{0,6})s", re.ASCII)


def timeout_annotations(timeout: timedelta | None, mode: str) -> dict[str, str]:
    """Return the annotations, in Knative mode with that of Knative's own deadline."""
    if timeout is None:
        return {}
    text = f"{timeout.total_seconds():.0f}s"
    knative = {KNATIVE_DEADLINE_ANNOTATION: text} if mode == KNATIVE else {}
    return {READY_TIMEOUT_ANNOTATION: text, **knative}


def parse_timeout(annotations: Mapping[str, Any]) -> timedelta | None:
    """Return the timeout; None if there is none, or another client wrote one that is invalid."""
    found = _SECONDS.fullmatch(str(annotations.get(READY_TIMEOUT_ANNOTATION, "")))
    timeout = timedelta(seconds=int(found[1])) if found else None
    return timeout if timeout and timeout <= LONGEST_READY_TIMEOUT else None
