"""What is held in memory of the revisions that are stored."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.informers.held_revision import HeldRevision, KnownRevision
from server.adapters.kserve.informers.watch_stream import WatchEvent
from server.adapters.kserve.revisions.revision_index import MOST_HELD, RevisionIndex
from server.adapters.kserve.revisions.rollout_record import (
    RolloutRecord,
    manifest_of,
)
from server.domain.revisions.revision import Revision, RevisionOutcome
from server.domain.rollout.failures import failure_of
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import FailureReason
from server.domain.service.inference_service import ServiceKey

KEY = ServiceKey("team-a", "iris")
OOM = failure_of(FailureReason.OUT_OF_MEMORY, "it was killed")


@pytest.fixture
def changed_of() -> list[ServiceKey]:
    return []


@pytest.fixture
def index(api: ApiServer, changed_of: list[ServiceKey]) -> RevisionIndex:
    return RevisionIndex(api, [], changed_of.append, lambda: None)


def metadata(uid: str, generation: int, outcome: RevisionOutcome | None = None) -> HeldRevision:
    failure = OOM if outcome is RevisionOutcome.FAILED else None
    revision = Revision(Rollout(uid, generation), None, outcome=outcome, failure=failure)
    manifest = manifest_of(KEY, RolloutRecord(revision, generation))
    return HeldRevision({"metadata": manifest["metadata"]})


def known(generation: int, outcome: RevisionOutcome | None = None) -> KnownRevision:
    reason = FailureReason.OUT_OF_MEMORY if outcome is RevisionOutcome.FAILED else None
    return KnownRevision(generation, generation, outcome, reason)


async def test_it_has_what_is_listed_written_and_watched(
    index: RevisionIndex, changed_of: list[ServiceKey]
) -> None:
    assert not index.readable("team-a")
    [reflector] = index.reflectors
    index.listed(reflector.resource, [metadata("u", 2), metadata("u", 1), metadata("v", 9)], 0)
    assert index.of("team-a", "u") == [known(1), known(2)]
    for outcome in RevisionOutcome:
        event = WatchEvent("MODIFIED", metadata("u", 1, outcome))
        index.changed(reflector.resource, event)
        assert index.of("team-a", "u") == [known(1, outcome), known(2)]
    index.put("team-a", "u", known(3, RevisionOutcome.FAILED))
    index.changed(reflector.resource, WatchEvent("DELETED", metadata("u", 1)))
    assert index.of("team-a", "u") == [known(2), known(3, RevisionOutcome.FAILED)]
    assert changed_of == [KEY] * 4
    index.listed(reflector.resource, [metadata("v", 9)], 0)
    assert index.of("team-a", "u") == []


async def test_however_many_others_label_it_is_bounded(index: RevisionIndex) -> None:
    [reflector] = index.reflectors
    others = HeldRevision({"metadata": {"labels": {"modelservice.dev/revision-of": "u"}}})
    many = [metadata("u", n) for n in range(1, MOST_HELD + 10)]
    index.listed(reflector.resource, [others, *many], 0)
    assert len(index.of("team-a", "u")) == MOST_HELD


async def test_the_revisions_of_a_service_take_less_than_a_kibibyte(api: ApiServer) -> None:
    services = 200
    index = RevisionIndex(api, [], lambda _: None, lambda: None)
    [reflector] = index.reflectors
    index.listed(reflector.resource, [], 0)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(services):
            for generation in range(1, 13):
                event = WatchEvent("ADDED", metadata(f"{number:036}", generation))
                index.changed(reflector.resource, event)
        del event
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / services < 1024
