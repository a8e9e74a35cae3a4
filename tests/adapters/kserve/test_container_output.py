"""Text that a container wrote passes the gate, wherever the cluster repeats it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from server.adapters.kserve.observing.observed import Observed
from server.adapters.kserve.observing.observing import status_of
from server.domain.decision import decide
from server.domain.status import InferenceServiceStatus
from tests.adapters.kserve.replaying import merged
from tests.adapters.kserve.shown import (
    end,
    ended,
    facts,
    serving,
    starting,
    waiting,
    warning,
    with_condition,
    with_container,
    with_deployment,
    with_pods,
    with_service,
)

SECRET = "sesame-1234"
SAID = f"cannot log in with \x1b[1m{SECRET}"
MASKED = "cannot log in with ***"
ENV = [{"name": "API_TOKEN", "value": SECRET}]
CONTAINERS = [{"name": "kserve-container", "env": ENV}]


def status(observed: Observed, now: datetime) -> InferenceServiceStatus:
    seen = facts(observed, now)
    return status_of(observed, seen, decide(seen), None)


def with_secret() -> tuple[Observed, datetime]:
    """A first rollout that is starting, whose pod holds the secret."""
    observed, now = starting()
    return with_pods(observed, {"spec": {"containers": CONTAINERS}}), now


def failed_revision() -> tuple[Observed, datetime]:
    """A rollout of Knative mode that Knative has given up, its pods gone."""
    observed, now = end("knative/image_missing")
    told = {
        "type": "ContainerHealthy",
        "status": "False",
        "reason": "ExitCode1",
        "message": f"Container failed with: {SAID}",
        "lastTransitionTime": "2026-11-22T21:19:37Z",
    }

    def failed(revision: Any) -> Any:
        containers = [{**c, "env": [*c["env"], *ENV]} for c in revision["spec"]["containers"]]
        status = {"conditions": [told]}
        return merged(revision, {"spec": {"containers": containers}, "status": status})

    revisions = tuple(map(failed, observed.revisions))
    gone: dict[str, Any] = {"pods": (), "deployments": (), "replica_sets": ()}
    return replace(observed, revisions=revisions, **gone), now


def shown_where(place: str) -> tuple[Observed, datetime]:
    observed, now = with_secret()
    if place == "condition":
        template = {"spec": {"template": {"spec": {"containers": CONTAINERS}}}}
        message = f'Revision "iris-predictor-00001" failed with message: {SAID}.'
        made = with_deployment(observed, template)
        return with_condition(made, "PredictorReady", status="False", message=message), now
    if place == "termination message":
        exits = ended(1, now, message=SAID)
        return with_container(observed, state=exits, restartCount=2), now
    if place == "hook":
        return with_container(observed, state=waiting("PostStartHookError", SAID)), now
    if place == "probe":
        probed = warning(observed.pods[0], "Unhealthy", SAID, now)
        return replace(observed, events=(probed,)), now + timedelta(seconds=61)
    assert place == "revision"
    return failed_revision()


@pytest.mark.parametrize("place", ["termination message", "hook", "probe", "condition", "revision"])
def test_a_secret_is_masked_wherever_the_cluster_repeats_what_a_container_wrote(place: str) -> None:
    told = repr(status(*shown_where(place)))
    assert MASKED in told
    assert SECRET not in told
    assert "\\x1b" not in told


def test_what_a_warning_repeats_of_a_condition_is_masked() -> None:
    observed, now = serving()
    made = with_service(observed, {"spec": {"predictor": {"model": {"env": ENV}}}})
    denied = with_condition(made, "Ready", status="False", reason="Other", message=SAID)
    told = status(denied, now)
    assert MASKED in told.message
    assert SECRET not in repr(told)


def test_in_a_condition_the_secrets_of_the_spec_are_masked_when_no_pod_is_left() -> None:
    observed, now = starting()
    spec = {"spec": {"predictor": {"model": {"env": ENV}, "containers": None}}}
    asked = with_service(replace(observed, pods=()), spec)
    told = status(with_condition(asked, "PredictorReady", status="False", message=SAID), now)
    assert MASKED in repr(told)
    assert SECRET not in repr(told)
