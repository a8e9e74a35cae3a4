"""A pod whose model server waits: for a download that hangs, or for its image."""

from __future__ import annotations

import copy
from datetime import datetime, timedelta
from typing import Any

import pytest

from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.informers.collections import Kind, Resource
from server.adapters.kserve.informers.object_cache import ObjectCache
from server.adapters.kserve.informers.service_views import ServiceView, ServiceViews
from server.adapters.kserve.status.observed_objects import LogExcerpt, ObservedObjects
from server.adapters.kserve.status.pods.failure_log import LogRequest, fetch_log
from server.domain.rollout.container_output import OutputGate
from server.domain.rollout.status import Failure, FailureReason, State
from server.domain.service.inference_service import ServiceKey
from tests.adapters.kserve.scripted_server import ScriptedServer
from tests.adapters.kserve.shown import (
    deadline_passed,
    ended,
    running,
    stamp,
    starting,
    waiting,
    with_container,
    with_pods,
)

KEY = ServiceKey("models", "iris")
SECOND = timedelta(seconds=1)
COPYING = "Copying contents of gs://models/iris to local"
LOG_PATH = "/api/v1/namespaces/models/pods/iris-1/log"


def initialising(name: str = "storage-initializer") -> tuple[ObservedObjects, datetime]:
    """A first rollout whose init container has just begun to run."""
    observed, now = starting()
    now = now.replace(microsecond=0)
    waits = with_container(observed, state=waiting("PodInitializing"))
    status = {"name": name, "restartCount": 0, "state": running(now)}
    return with_pods(waits, {"status": {"initContainerStatuses": [status]}}), now


class Life:
    """A service that does not change, derived as time passes."""

    def __init__(self, observed: ObservedObjects) -> None:
        self._object_cache = ObjectCache(lambda _: None)
        self._views = ServiceViews(self._object_cache)
        self.looks: list[datetime] = []
        self.log = LogExcerpt()
        self.show(observed)

    def show(self, observed: ObservedObjects) -> None:
        lists = {
            Kind.SERVICES: [observed.service],
            Kind.DEPLOYMENTS: observed.deployments,
            Kind.REPLICA_SETS: observed.replica_sets,
            Kind.PODS: observed.pods,
        }
        for kind, objects in lists.items():
            copies = [copy.deepcopy(dict(o)) for o in objects]
            self._object_cache.listed(Resource(kind), copies, self._object_cache.listing_begins())

    def derive(self, now: datetime) -> ServiceView:
        """Derive the service, after a requested log has been read."""
        derived = self._derived(now)
        if derived.log_wanted:
            self.looks.append(now)
            self._views.keep_log(KEY, derived.log_wanted, self.log, now)
            derived = self._derived(now)
            assert derived.log_wanted is None
        return derived

    def wait_until(self, now: datetime, end: datetime) -> ServiceView:
        """Derive it whenever a recheck is due, and at the end."""
        derived = self.derive(now)
        while derived.recheck_at and derived.recheck_at <= end:
            assert derived.recheck_at > now
            now = derived.recheck_at
            derived = self.derive(now)
        return self.derive(end)

    def _derived(self, now: datetime) -> ServiceView:
        derived = self._views.derive(KEY, now)
        assert derived
        return derived


def failure_of(derived: ServiceView) -> Failure | None:
    return derived.service.status.failure


def message_of(derived: ServiceView) -> str:
    return derived.service.status.message


def wrote(line: str, at: datetime) -> LogExcerpt:
    return LogExcerpt((line,), line, at)


def test_progressing_says_which_container_has_run_for_how_long_and_its_last_line() -> None:
    observed, began = initialising()
    life = Life(observed)
    life.log = wrote(COPYING, began)
    first = life.derive(began)
    assert "storage-initializer" not in message_of(first)
    derived = life.wait_until(began, began + 15 * SECOND)
    assert derived.service.status.state is State.PROGRESSING
    words = f"storage-initializer has run for more than 15 s, its last log line: {COPYING}"
    assert words in message_of(derived)
    later = life.wait_until(began + 15 * SECOND, began + 61 * SECOND)
    assert "has run for more than 1 min" in message_of(later)
    assert failure_of(later) is None


def test_a_download_whose_log_does_not_change_for_three_minutes_is_named() -> None:
    observed, began = initialising()
    life = Life(observed)
    life.log = wrote(COPYING, began + 4 * SECOND)
    quiet = life.wait_until(began, began + 183 * SECOND)
    assert failure_of(quiet) is None
    derived = life.wait_until(began + 183 * SECOND, began + 184 * SECOND)
    failure = failure_of(derived)
    assert failure
    assert derived.service.status.state is State.PROGRESSING
    assert failure.reason is FailureReason.STORAGE_DOWNLOAD
    assert (failure.container, failure.retrying) == ("storage-initializer", True)
    assert failure.log_lines == (COPYING,)
    assert "has not changed for 3 min" in failure.message
    assert COPYING in failure.message


def test_a_download_that_goes_on_writing_is_not_named_however_long_it_takes() -> None:
    observed, began = initialising()
    life = Life(observed)
    now = began
    for minute in range(60):
        life.log = wrote(f"{minute} %", now)
        derived = life.wait_until(now, now + 60 * SECOND)
        assert failure_of(derived) is None
        now += 60 * SECOND
    assert "has run for more than 60 min" in message_of(derived)
    # One at each step, and one whenever the last line may be three minutes old: it is one by now.
    assert len(life.looks) <= 9 + 60 / 2


def test_a_download_that_writes_again_is_named_no_longer() -> None:
    observed, began = initialising()
    life = Life(observed)
    life.log = wrote(COPYING, began)
    assert failure_of(life.wait_until(began, began + 200 * SECOND))
    assert failure_of(life.wait_until(began + 200 * SECOND, began + 500 * SECOND))
    life.log = wrote("going on", began + 500 * SECOND)
    again = life.wait_until(began + 500 * SECOND, began + 679 * SECOND)
    assert failure_of(again) is None
    assert "going on" in message_of(again)


def test_an_empty_log_is_silent_since_the_container_runs() -> None:
    observed, began = initialising()
    derived = Life(observed).wait_until(began, began + 181 * SECOND)
    failure = failure_of(derived)
    assert failure
    assert failure.first_seen_time == began


def test_a_log_that_may_not_be_read_is_not_silent() -> None:
    observed, began = initialising()
    life = Life(observed)
    life.log = LogExcerpt(readable=False)
    derived = life.wait_until(began, began + 599 * SECOND)
    assert failure_of(derived) is None
    assert "storage-initializer has run for more than 5 min" in message_of(derived)


def test_a_log_that_could_not_be_read_is_read_again_soon() -> None:
    observed, began = initialising()
    life = Life(observed)
    missed = life._derived(began + 16 * SECOND)
    assert missed.log_wanted
    assert missed.recheck_at
    assert missed.recheck_at <= began + 46 * SECOND
    assert life._derived(missed.recheck_at).log_wanted


def test_another_silent_init_container_is_reported_as_not_answering() -> None:
    observed, began = initialising("wait-for-licence")
    failure = failure_of(Life(observed).wait_until(began, began + 181 * SECOND))
    assert failure
    assert (failure.reason, failure.container) == (
        FailureReason.NOT_ANSWERING,
        "wait-for-licence",
    )


def test_at_the_deadline_the_silent_download_is_the_cause() -> None:
    observed, began = initialising()
    life = Life(observed)
    life.wait_until(began, began + 200 * SECOND)
    life.show(deadline_passed(observed, began + 600 * SECOND))
    derived = life.derive(began + 600 * SECOND)
    failure = failure_of(derived)
    assert failure
    assert derived.service.status.state is State.FAILED
    assert failure.reason is FailureReason.STORAGE_DOWNLOAD


def test_the_failure_of_a_run_that_is_repeated_is_reported() -> None:
    observed, began = initialising()
    again: dict[str, Any] = {
        "name": "storage-initializer",
        "restartCount": 1,
        "state": running(began),
        "lastState": ended(1, began, message="no such bucket"),
    }
    retried = with_pods(observed, {"status": {"initContainerStatuses": [again]}})
    failure = failure_of(Life(retried).wait_until(began, began + 200 * SECOND))
    assert failure
    assert "no such bucket" in failure.message


def test_a_slow_image_pull_is_reported() -> None:
    observed, now = starting()
    began = now.replace(microsecond=0)
    making = with_container(observed, state=waiting("ContainerCreating"))
    making = with_pods(making, {"status": {"startTime": stamp(began)}})
    derived = Life(making).wait_until(began, began + 121 * SECOND)
    assert "kserve-container has waited to be created for more than 2 min" in message_of(derived)
    assert failure_of(derived) is None


async def test_the_last_line_of_a_present_run_and_its_time_are_read(
    server: ScriptedServer, api: ApiServer
) -> None:
    wanted = LogRequest(
        *("iris-1", "models", "storage-initializer"),
        previous=False,
        restart_count=0,
        log_read=1,
        output=OutputGate(("sesame",)),
    )
    server.texts[LOG_PATH] = (
        "2026-01-01T00:00:00.123456789Z logging in\n"
        "2026-01-01T00:00:05.5Z \x1b[1mwith sesame\x1b[0m" + "x" * 1000 + "\n"
        "2026-01-01T00:00:07Z \n"
    )
    log = await fetch_log(api, wanted)
    assert log.lines[0] == "logging in"
    assert log.last_line.startswith("with ***x")
    assert len(log.last_line) == 300
    assert log.written_at == datetime.fromisoformat("2026-01-01T00:00:07Z")


@pytest.mark.parametrize("text", ["", "\n", "no time\n", "2026-99-01T00:00:00Z x\n"])
async def test_a_log_without_times_is_read(
    server: ScriptedServer, api: ApiServer, text: str
) -> None:
    wanted = LogRequest("iris-1", "models", "c", previous=False, restart_count=0, log_read=1)
    server.texts[LOG_PATH] = text
    assert (await fetch_log(api, wanted)).written_at is None
