"""The log of a failure: which run of which container is read, and which lines are shown."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.pods.failure_log import (
    READ_BYTES,
    LogRequest,
    excerpt,
    failure_log_request,
    fetch_log,
)
from server.domain.rollout.container_output import OutputGate
from server.domain.rollout.state_table import decide
from tests.adapters.kserve.replaying import replay
from tests.adapters.kserve.scripted_server import ScriptedServer
from tests.adapters.kserve.shown import (
    ended,
    facts,
    running,
    starting,
    waiting,
    warning,
    with_container,
    with_pods,
)

WANTED = LogRequest("iris-1", "models", "kserve-container", previous=False, restart_count=0)
LOG_PATH = "/api/v1/namespaces/models/pods/iris-1/log"


def wanted_of(observed: ObservedObjects, now: datetime) -> LogRequest | None:
    return failure_log_request(observed, decide(facts(observed, now)), now)


def test_the_log_of_a_waiting_container_is_that_of_its_last_run() -> None:
    observed, now = starting()
    crashing = with_container(
        observed, state=waiting("CrashLoopBackOff"), lastState=ended(1, now), restartCount=3
    )
    wanted = wanted_of(crashing, now)
    assert wanted
    assert wanted.pod == crashing.pods[0]["metadata"]["name"]
    assert (wanted.namespace, wanted.container) == ("models", "kserve-container")
    assert (wanted.previous, wanted.restart_count) == (False, 3)


def test_for_a_restarted_container_the_log_of_the_run_before_is_requested() -> None:
    observed, now = starting()
    again = with_container(observed, state=running(now), lastState=ended(1, now), restartCount=2)
    wanted = wanted_of(again, now)
    assert wanted
    assert wanted.previous


def test_for_a_failed_download_the_log_of_the_initializer_is_requested() -> None:
    last = replay("init_fails")[-1]
    wanted = failure_log_request(last.observed, last.decision, last.facts.now)
    assert wanted
    assert wanted.container == "storage-initializer"


@pytest.mark.parametrize("name", ["ready", "image_missing", "quota", "never_scheduled"])
def test_no_log_is_requested_if_none_can_explain_the_failure(name: str) -> None:
    last = replay(name)[-1]
    assert failure_log_request(last.observed, last.decision, last.facts.now) is None


async def test_the_last_lines_of_a_log_are_fetched(server: ScriptedServer, api: ApiServer) -> None:
    server.texts[LOG_PATH] = "\n".join(f"line {n}" for n in range(200))
    log = await fetch_log(api, WANTED)
    assert log.lines == tuple(f"line {n}" for n in range(180, 200))


async def test_a_log_that_is_not_there_is_empty(server: ScriptedServer, api: ApiServer) -> None:
    server.absent.add(LOG_PATH)
    log = await fetch_log(api, WANTED)
    assert (log.lines, log.readable) == ((), False)


async def test_only_the_end_of_a_huge_log_is_kept(server: ScriptedServer, api: ApiServer) -> None:
    server.texts[LOG_PATH] = "x" * 3_000_000 + "\nthe cause"
    assert (await fetch_log(api, WANTED)).lines == ("the cause",)


def test_values_that_look_secret_are_masked_the_longest_first() -> None:
    observed, now = starting()
    env = [
        {"name": "AWS_SECRET_ACCESS_KEY", "value": "abcdef"},
        {"name": "hf_token", "value": "abc"},
        {"name": "PLAIN", "value": "shown"},
        {"name": "PASSWORD", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
    ]
    spec = {"containers": [{"name": "kserve-container", "env": env}]}
    crashing = with_container(
        with_pods(observed, {"spec": spec}),
        state=waiting("CrashLoopBackOff"),
        lastState=ended(1, now, message="cannot log in with abcdef"),
        restartCount=3,
    )
    wanted = wanted_of(crashing, now)
    assert wanted
    assert excerpt("abcdef abc shown", wanted).lines == ("*** *** shown",)
    assert "abc" not in repr(wanted)
    failure = decide(facts(crashing, now)).failure
    assert failure
    assert "cannot log in with ***" in failure.message
    assert "abcdef" not in failure.message


async def test_a_secret_that_is_cut_by_the_beginning_of_the_tail_is_not_shown(
    server: ScriptedServer, api: ApiServer
) -> None:
    wanted = replace(WANTED, output=OutputGate(("open sesame",)))
    rest = "same" + "\n" * (READ_BYTES - 13) + "the cause"
    assert len(rest) == READ_BYTES
    server.texts[LOG_PATH] = "logging in with open se" + rest
    assert (await fetch_log(api, wanted)).lines == ("the cause",)


def test_secrets_in_the_messages_of_probes_and_waiting_containers_are_masked() -> None:
    observed, now = starting()
    env = [{"name": "HF_TOKEN", "value": "sesame"}]
    observed = with_pods(
        observed, {"spec": {"containers": [{"name": "kserve-container", "env": env}]}}
    )
    waits = with_container(observed, state=waiting("PostStartHookError", "no login with sesame"))
    said = "Readiness probe failed: sesame is not valid"
    probed = replace(observed, events=(warning(observed.pods[0], "Unhealthy", said, now),))
    for shown, words in ((waits, "no login with ***"), (probed, "failed: *** is not valid")):
        failure = decide(facts(shown, now + timedelta(seconds=61))).failure
        assert failure
        assert words in failure.message


def test_the_log_lines_of_probes_are_left_out() -> None:
    observed, now = starting()
    probe = {"httpGet": {"path": "/v2/models/iris/ready", "port": 8080}}
    spec = {"containers": [{"name": "kserve-container", "readinessProbe": probe}]}
    crashing = with_container(
        with_pods(observed, {"spec": spec}),
        state=waiting("CrashLoopBackOff"),
        lastState=ended(1, now),
        restartCount=3,
    )
    wanted = wanted_of(crashing, now)
    assert wanted
    log = 'GET /v2/models/iris/ready HTTP/1.1" 400\nUnpicklingError\nGET / "kube-probe/1.34"\n'
    assert excerpt(log, wanted).lines == ("UnpicklingError",)
