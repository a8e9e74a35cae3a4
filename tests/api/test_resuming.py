"""The watch of one service, resumed on another replica and after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2 import GetRequest, WatchStatusRequest, WatchStatusResponse
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from server.control.resume_token import LastSent, ResumeToken, Seen
from server.control.watch_stream import Watch
from server.domain.kubernetes.selectors import Selector
from server.domain.rollout.status import InferenceServiceStatus as Status
from server.domain.rollout.status import State
from tests.client.replicas import Replicas, replicas
from tests.patience import PATIENCE_SECONDS
from tests.refusals import refused

from .requests import deploy, eventually, failed, key, kinds, watching

SYNCED = WatchStatusResponse.TYPE_SYNCED
LONGEST_TOKEN = 1024


class Pair:
    """Two replicas, with a stub of each."""

    def __init__(self, both: Replicas, stubs: list[ModelServiceStub]) -> None:
        self.both = both
        self.first, self.second = stubs

    def token(self, name: str) -> str:
        """Of a reader of the first replica that has all."""
        with watching(self.first, name=name) as stream:
            token: str = stream.until(lambda m: m.type == SYNCED).resume_token
        assert len(token) <= LONGEST_TOKEN
        return token

    def resumed(self, name: str, token: str, on: ModelServiceStub | None = None) -> list[Any]:
        """The messages until SYNCED, of the second replica unless another is named."""
        with watching(on or self.second, name=name, resume_token=token) as stream:
            messages = [stream.next()]
            while messages[-1].type != SYNCED:
                messages.append(stream.next())
        return messages

    def message(self, name: str) -> str:
        """Of the status, by the first replica."""
        return str(self.first.Get(GetRequest(name=name)).service.status.message)

    def second_shows(self, service: Any) -> None:
        """Wait until the second replica has this state."""
        request = GetRequest(name=service.name)
        eventually("the state", lambda: _state(self.second.Get(request).service) == _state(service))

    def inside(self, act: Any, *arguments: Any) -> None:
        self.both.inside(act, *arguments)


def _state(service: Any) -> tuple[str, str]:
    return service.uid, service.status.message


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with replicas() as both:
        channels = [grpc.insecure_channel(address) for address in both.addresses]
        yield Pair(both, [ModelServiceStub(channel) for channel in channels])
        for channel in channels:
            channel.close()


def test_nothing_is_repeated_that_was_sent(pair: Pair, name: str) -> None:
    pair.first.Deploy(deploy(name))
    assert kinds(pair.resumed(name, pair.token(name))) == ["SYNCED"]


def test_a_change_that_was_missed_is_sent(pair: Pair, name: str) -> None:
    uid = pair.first.Deploy(deploy(name)).service.uid
    token = pair.token(name)
    pair.inside(pair.both.clusters[0].set_status, key(name), Status(State.PROGRESSING, "pulling"))
    pulling = InferenceService(name=name, uid=uid, status={"message": "pulling"})
    pair.second_shows(pulling)
    changed, synced = pair.resumed(name, token)
    assert kinds([changed, synced]) == ["CHANGED", "SYNCED"]
    assert changed.service.status.message == "pulling"
    assert kinds(pair.resumed(name, changed.resume_token)) == ["SYNCED"]


def test_a_state_that_has_come_back_is_not_repeated(pair: Pair, name: str) -> None:
    pair.first.Deploy(deploy(name))
    cluster = pair.both.clusters[0]
    pair.inside(cluster.set_status, key(name), Status(State.PROGRESSING, "pulling"))
    token = pair.token(name)
    for message in ("loading", "pulling"):
        pair.inside(cluster.set_status, key(name), Status(State.PROGRESSING, message))
        eventually(message, lambda m=message: pair.message(name) == m)
    assert kinds(pair.resumed(name, token, on=pair.first)) == ["SYNCED"]


def test_lines_of_a_log_that_came_meanwhile_are_sent_by_the_process_that_read_them(
    pair: Pair, name: str
) -> None:
    rollout_id = pair.first.Deploy(deploy(name)).rollout_id
    cluster = pair.both.clusters[0]
    first_seen = datetime.now(UTC)
    pair.inside(cluster.set_status, key(name), failed(rollout_id, first_seen_time=first_seen))
    with watching(pair.first, name=name) as stream:
        token = stream.until(lambda m: m.service.status.HasField("failure")).resume_token
    status = failed(rollout_id, first_seen_time=first_seen, log_lines=("no such file",))
    pair.inside(cluster.set_status, key(name), status)
    with watching(pair.first, name=name, resume_token=token) as stream:
        changed = stream.until(lambda m: m.type == WatchStatusResponse.TYPE_CHANGED)
    assert list(changed.service.status.failure.log_lines) == ["no such file"]


def test_the_end_of_a_service_is_sent_before_the_one_that_took_its_name(
    pair: Pair, name: str
) -> None:
    first = pair.first.Deploy(deploy(name)).service
    token = pair.token(name)
    pair.inside(pair.both.clusters[0].finish_delete, key(name))
    second = pair.first.Deploy(deploy(name)).service
    pair.second_shows(second)
    gone, new, synced = pair.resumed(name, token)
    assert kinds([gone, new, synced]) == ["DELETED", "CHANGED", "SYNCED"]
    assert (gone.service.uid, gone.service.rollout_id) == (first.uid, first.rollout_id)
    assert new.service.uid == second.uid
    # Between the two messages the reader has nothing.
    assert kinds(pair.resumed(name, gone.resume_token)) == ["CHANGED", "SYNCED"]


def test_a_service_that_never_was_there_is_waited_for_on_any_replica(pair: Pair, name: str) -> None:
    token = pair.token(name)
    assert kinds(pair.resumed(name, token)) == ["SYNCED"]
    pair.second_shows(pair.first.Deploy(deploy(name)).service)
    assert kinds(pair.resumed(name, token)) == ["CHANGED", "SYNCED"]


def test_a_replica_that_is_behind_refuses_to_go_back_in_time(pair: Pair, name: str) -> None:
    pair.first.Deploy(deploy(name))
    late = pair.both.clusters[1]
    pair.inside(late.hold_feed)
    try:
        pair.inside(pair.both.clusters[0].set_status, key(name), Status(State.PROGRESSING, "new"))
        with watching(pair.first, name=name) as stream:
            token = stream.until(lambda m: m.service.status.message == "new").resume_token
        behind = refused(
            StatusCode.UNAVAILABLE,
            "VIEW_BEHIND",
            lambda request: list(pair.second.WatchStatus(request, timeout=PATIENCE_SECONDS)),
            WatchStatusRequest(name=name, resume_token=token),
        )
        assert behind.retry_after
    finally:
        pair.inside(late.release_feed)
    assert kinds(pair.resumed(name, token)) == ["SYNCED"]


def test_a_position_that_the_cluster_lost_long_ago_begins_anew(pair: Pair, name: str) -> None:
    uid = pair.first.Deploy(deploy(name)).service.uid
    sent = LastSent(uid, 1, "digest")
    pair.second_shows(pair.first.Get(GetRequest(name=name)).service)
    lost = ResumeToken("0a1b2c3d", Seen(7), last_sent=sent, position="999", made_at=1)
    token = lost.encode(Watch(key(name), Selector()).binding)
    assert kinds(pair.resumed(name, token)) == ["RESET", "SNAPSHOT", "SYNCED"]
