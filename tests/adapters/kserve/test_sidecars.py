"""Containers that KServe or Knative adds beside the model server."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.domain.rollout.status import Failure, FailureReason, State
from tests.adapters.kserve.shown import (
    ended,
    running,
    serving_model,
    starting,
    verdict,
    waiting,
    with_container,
    with_pods,
    with_service,
)

SECOND = timedelta(seconds=1)
NO_MODELS = "NOK ... Prefetched but modelcar is invalid (/models does not exist or is empty)"
NO_SHELL = (
    "failed to create containerd task: runc create failed: unable to start container process:"
    ' exec: "sh": executable file not found in $PATH: unknown'
)


def with_init_container(
    observed: ObservedObjects, name: str, spec: Any = None, **status: Any
) -> ObservedObjects:
    """With one init container, for which the others wait."""
    waits = with_container(observed, state=waiting("PodInitializing"))
    patch = {"initContainerStatuses": [{"name": name, "restartCount": 1, **status}]}
    of_spec = {"initContainers": [{"name": name, **(spec or {})}]}
    return with_pods(waits, {"spec": of_spec, "status": patch})


def with_sidecar(observed: ObservedObjects, name: str, **status: Any) -> ObservedObjects:
    """With one container beside the model server's, sorted by name as the kubelet does."""
    [pod] = observed.pods
    both = [*pod["status"]["containerStatuses"], {"name": name, "restartCount": 0, **status}]
    both.sort(key=lambda s: str(s["name"]))
    return with_pods(observed, {"status": {"containerStatuses": both}})


def failure_of(observed: ObservedObjects, now: datetime) -> Failure:
    failure = verdict(observed, now).failure
    assert failure
    return failure


@pytest.mark.parametrize("name", ["modelcar-init", "modelcar-init-1"])
def test_a_model_image_without_models_is_a_download_that_failed(name: str) -> None:
    observed, now = starting()
    exits = with_init_container(observed, name, state=ended(1, now, message=NO_MODELS))
    assert verdict(exits, now).state is State.FAILED
    failure = failure_of(exits, now)
    assert (failure.reason, failure.container) == (FailureReason.STORAGE_DOWNLOAD, name)
    assert NO_MODELS in failure.message
    assert "should stay up" not in failure.message
    assert "/models" in failure.remedy


@pytest.mark.parametrize("name", ["modelcar-init", "storage-initializer"])
def test_a_container_that_brings_the_model_and_cannot_be_started_is_a_download_that_failed(
    name: str,
) -> None:
    observed, now = starting()
    no_shell = ended(128, now, reason="StartError", message=NO_SHELL)
    failure = failure_of(with_init_container(observed, name, state=no_shell), now)
    assert failure.reason is FailureReason.STORAGE_DOWNLOAD
    assert "executable file not found" in failure.message


def test_a_model_image_that_does_not_stay_up_is_a_download_that_failed() -> None:
    observed, now = starting()
    both = with_sidecar(observed, "modelcar-1", restartCount=2, state=ended(1, now))
    failure = failure_of(both, now)
    assert (failure.reason, failure.container) == (FailureReason.STORAGE_DOWNLOAD, "modelcar-1")


def test_for_the_memory_limit_of_an_added_container_the_remedy_names_the_administrator() -> None:
    observed, now = starting()
    killed = ended(137, now, reason="OOMKilled")
    downloads = with_init_container(observed, "storage-initializer", state=killed)
    failure = failure_of(downloads, now)
    assert failure.reason is FailureReason.OUT_OF_MEMORY
    assert "cluster administrator" in failure.remedy
    own = failure_of(with_container(observed, state=killed, restartCount=1), now)
    assert "cluster administrator" not in own.remedy


def test_a_failed_foreign_init_container_is_not_reported_as_one_that_must_stay_up() -> None:
    observed, now = starting()
    failure = failure_of(with_init_container(observed, "istio-init", state=ended(1, now)), now)
    assert failure.reason is FailureReason.CRASH_LOOP
    assert "must end well before the model server starts" in failure.message


def test_an_always_restarted_init_container_is_stable_once_it_stays_up() -> None:
    observed, now = starting()
    up = {
        "state": running(now - 61 * SECOND),
        "lastState": ended(1, now - 62 * SECOND),
        "restartCount": 2,
    }
    sidecar = with_init_container(observed, "istio-proxy", {"restartPolicy": "Always"}, **up)
    assert verdict(sidecar, now).failure is None
    assert verdict(sidecar, now - 2 * SECOND).state is State.FAILED


@pytest.mark.parametrize("relay", ["agent", "queue-proxy"])
def test_an_unready_pod_is_reported_by_its_model_server_not_by_its_relay(relay: str) -> None:
    observed, now = starting()
    both = with_sidecar(observed, relay, ready=False, state=running(now))
    failure = failure_of(both, now + 61 * SECOND)
    named = (failure.reason, failure.container)
    assert named == (FailureReason.NOT_ANSWERING, "kserve-container")


def test_that_kserve_says_the_load_failed_blames_the_model_server_alone() -> None:
    observed, now = serving_model()
    failed_load = {
        "transitionStatus": "BlockedByFailedLoad",
        "lastFailureInfo": {"reason": "ModelLoadFailed", "exitCode": 1},
    }
    blamed = with_service(observed, {"status": {"modelStatus": failed_load}})
    exits = with_sidecar(blamed, "agent", restartCount=2, state=ended(1, now))
    failure = failure_of(exits, now)
    assert (failure.reason, failure.container) == (FailureReason.CRASH_LOOP, "agent")
