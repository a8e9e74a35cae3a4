"""What is stored of rollouts, whatever happens to the API server and beside other replicas."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.cluster import KServeCluster
from server.adapters.kserve.manifests.manifest import DesiredObject
from server.adapters.kserve.manifests.object_parser import parse_object
from server.adapters.kserve.revisions import recorder, retry_pauses, revision_client
from server.adapters.kserve.revisions.rollout_record import manifest_of, record_of
from server.control.call import Call
from server.control.rollouts import Rollback
from server.domain.errors import RevisionNotFound, ServerLacksRights
from server.domain.rollout.failures import failure_of
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import FailureReason, InferenceServiceStatus, State
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceServiceSpec,
    Scaling,
    ServiceKey,
)
from tests.adapters.kserve.revision_server import ALL, NAMED, SERVICES, RevisionServer
from tests.adapters.kserve.scripted_server import ScriptedServer, answering, never
from tests.adapters.kserve.storing import UID, applied
from tests.adapters.kserve.waiting import eventually
from tests.contracts.rolling_back import revisions_of, rollouts_on
from tests.contracts.world import Follower, following
from tests.patience import PATIENCE_SECONDS

IRIS = ServiceKey("team-a", "iris")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is to be spared here."""
    monkeypatch.setattr(recorder, "AFTER_WRITE", 0.01)
    monkeypatch.setattr(recorder, "AFTER_SIGHT", (0.01, 0.02))
    monkeypatch.setattr(recorder, "AFTER_OUTCOME", (0.01, 0.02))
    monkeypatch.setattr(recorder, "AFTER_START", (0.01, 0.02))
    monkeypatch.setattr(retry_pauses, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(retry_pauses, "LONGEST_PAUSE", 0.05)


@pytest.fixture
async def server() -> AsyncIterator[RevisionServer]:
    server = RevisionServer()
    await server.start()
    yield server
    server.held_up.set()
    await server.stop()


class Replica:
    """A cluster that is followed, and its sink."""

    def __init__(self, cluster: KServeCluster, told: Follower) -> None:
        self.cluster = cluster
        self.told = told

    async def report(self, generation: int, state: State) -> None:
        """Let a service's status be seen, once the service is known."""
        shown = self.told.latest(IRIS)
        assert shown is not None
        rollout = Rollout(UID, generation)
        failure = failure_of(FailureReason.CRASH_LOOP, "it crashes")
        status = InferenceServiceStatus(
            state, failure=replace(failure, rollout_id=rollout.id) if state != "READY" else None
        )
        service = replace(shown, generation=generation, status=status)
        self.cluster._recorder.reported(service)

    async def history(self) -> list[tuple[int, bool]]:
        return [(r.number, r.gap) for r in await revisions_of(self.cluster, IRIS)]


@asynccontextmanager
async def running(api: ApiServer, most: int = 10) -> AsyncIterator[Replica]:
    cluster = KServeCluster(api, most_revisions=most)
    async with following(cluster) as told:
        yield Replica(cluster, told)


def service(generation: int, image: str, scaling: Scaling | None = None) -> dict[str, Any]:
    spec = InferenceServiceSpec(ContainerPredictor(image), scaling=scaling or Scaling())
    obj = applied(DesiredObject(IRIS, spec))
    obj["metadata"]["generation"] = generation
    return obj


async def stored(server: RevisionServer, *generations: int) -> None:
    await eventually(lambda: [*sorted(server.revisions)] == [*generations], PATIENCE_SECONDS)


async def outcomes(server: RevisionServer, expected: dict[int, str]) -> None:
    await eventually(lambda: server.outcomes == expected, PATIENCE_SECONDS)


async def test_what_is_there_at_the_start_is_stored_once(
    server: RevisionServer, api: ApiServer
) -> None:
    await server.put(SERVICES, service(3, "any:1"))
    async with running(api) as replica, running(api):
        await stored(server, 3)
        assert await replica.history() == [(3, False)]
    [revision] = server.revisions.values()
    assert revision["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "name": "iris",
            "uid": UID,
            "controller": True,
        }
    ]
    async with running(api):
        await server.put(SERVICES, service(4, "any:2"))
        await outcomes(server, {3: "SUPERSEDED", 4: ""})
    writes = [(method, name.rpartition("-")[2]) for method, name in server.writes]
    # Both replicas may have tried the first one.
    assert [w for w in writes if w != ("POST", "3")] == [("POST", "4"), ("PATCH", "3")]


async def test_every_generation_is_stored_however_fast_they_come(
    server: RevisionServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "AFTER_SIGHT", (0.3, 0.3))
    async with running(api) as replica:
        for generation in range(1, 6):
            await server.put(SERVICES, service(generation, f"any:{generation}"))
        await stored(server, 1, 2, 3, 4, 5)
        assert await replica.history() == [(n, False) for n in (5, 4, 3, 2, 1)]


async def test_scaling_alone_is_no_revision_and_no_gap(
    server: RevisionServer, api: ApiServer
) -> None:
    async with running(api) as replica:
        await server.put(SERVICES, service(1, "any:1"))
        await server.put(SERVICES, service(2, "any:1", Scaling(2, 4)))
        await server.put(SERVICES, service(3, "any:2"))
        await stored(server, 1, 3)
        assert await replica.history() == [(3, False), (1, False)]
        _, first = await revisions_of(replica.cluster, IRIS)
    # A rollback to it brings the scaling back that it had in the end.
    assert first.content is not None
    assert first.content.spec.scaling == Scaling(2, 4)


async def test_what_was_overwritten_while_nobody_ran_is_listed_as_a_gap(
    server: RevisionServer, api: ApiServer
) -> None:
    await server.put(SERVICES, service(1, "any:1"))
    async with running(api):
        await stored(server, 1)
    await server.put(SERVICES, service(2, "any:2"))
    await server.put(SERVICES, service(3, "any:3"))
    async with running(api) as replica:
        # As long as it is not stored, and afterwards.
        assert await replica.history() == [(3, False), (2, True), (1, False)]
        await stored(server, 1, 3)
        assert await replica.history() == [(3, False), (2, True), (1, False)]


async def test_scaling_while_nobody_ran_is_no_gap(server: RevisionServer, api: ApiServer) -> None:
    await server.put(SERVICES, service(1, "any:1"))
    async with running(api):
        await stored(server, 1)
    await server.put(SERVICES, service(4, "any:1", Scaling(2, 4)))
    async with running(api) as replica:
        assert await replica.history() == [(1, False)]
        await server.put(SERVICES, service(5, "any:2"))
        await stored(server, 1, 5)
        assert await replica.history() == [(5, False), (1, False)]


async def test_what_was_there_at_the_start_was_seen(
    server: RevisionServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is overwritten before it has had its turn."""
    monkeypatch.setattr(recorder, "AFTER_START", (3600, 3600))
    await server.put(SERVICES, service(1, "any:1"))
    async with running(api) as replica:
        await server.put(SERVICES, service(2, "any:2"))
        await stored(server, 1, 2)
        await replica.report(2, State.READY)
        await outcomes(server, {1: "SUPERSEDED", 2: "READY"})
    await server.put(SERVICES, service(5, "any:2", Scaling(2, 4)))
    async with running(api) as replica:
        await server.put(SERVICES, service(6, "any:3"))
        await stored(server, 1, 2, 6)
        assert await replica.history() == [(6, False), (2, False), (1, False)]


async def test_ready_is_final_and_failed_may_become_ready(
    server: RevisionServer, api: ApiServer
) -> None:
    await server.put(SERVICES, service(1, "any:1"))
    async with running(api) as one, running(api) as other:
        await stored(server, 1)
        await one.report(1, State.FAILED)
        await outcomes(server, {1: "FAILED"})
        await other.report(1, State.READY)
        await outcomes(server, {1: "READY"})
        # One has not seen the other's write.
        await one.report(1, State.FAILED)
        await server.put(SERVICES, service(2, "any:2"))
        await stored(server, 1, 2)
        assert server.outcomes == {1: "READY", 2: ""}


async def test_what_was_ready_for_a_moment_was_ready(
    server: RevisionServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "AFTER_SIGHT", (0.3, 0.3))
    monkeypatch.setattr(recorder, "AFTER_OUTCOME", (0.3, 0.3))
    await server.put(SERVICES, service(1, "any:1"))
    async with running(api) as replica:
        await stored(server, 1)
        await replica.report(1, State.READY)
        await replica.report(1, State.FAILED)
        await server.put(SERVICES, service(2, "any:2"))
        await outcomes(server, {1: "READY", 2: ""})


async def test_an_outcome_that_is_not_stored_yet_is_shown(
    server: RevisionServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollback right after a failure depends on it."""
    monkeypatch.setattr(recorder, "AFTER_OUTCOME", (3600, 3600))
    monkeypatch.setattr(recorder, "AFTER_SIGHT", (3600, 3600))
    await server.put(SERVICES, service(1, "any:1"))
    async with running(api) as replica:
        await stored(server, 1)
        await replica.report(1, State.READY)
        await server.put(SERVICES, service(2, "any:2"))
        await replica.told.until("the change", lambda: _generation(replica) == 2)
        assert server.outcomes == {1: ""}
        revisions = await revisions_of(replica.cluster, IRIS)
        assert [(r.number, r.outcome) for r in revisions] == [(2, None), (1, "READY")]


async def test_the_outcome_after_a_change_of_scaling_is_that_of_the_revision(
    server: RevisionServer, api: ApiServer
) -> None:
    async with running(api) as replica:
        await server.put(SERVICES, service(1, "any:1"))
        await server.put(SERVICES, service(2, "any:1", Scaling(2, 4)))
        await stored(server, 1)
        await replica.report(2, State.READY)
        await outcomes(server, {1: "READY"})


async def test_the_outcome_of_a_deleted_revision_is_not_given_to_the_one_before(
    server: RevisionServer, api: ApiServer
) -> None:
    async with running(api) as replica:
        await server.put(SERVICES, service(1, "any:1"))
        await stored(server, 1)
        await replica.report(1, State.FAILED)
        await outcomes(server, {1: "FAILED"})
        await server.put(SERVICES, service(2, "any:2"))
        await stored(server, 1, 2)
        await server.put(SERVICES, service(3, "any:2", Scaling(2, 4)))
        await eventually(lambda: _seen_until(server, 2) == "3", PATIENCE_SECONDS)
        await server.remove(ALL, server.revisions[2]["metadata"]["uid"])
        await stored(server, 1, 3)
        await replica.report(3, State.READY)
        await outcomes(server, {1: "FAILED", 3: "READY"})


async def test_a_generation_is_compared_again_when_one_before_it_is_stored_late(
    server: RevisionServer, api: ApiServer
) -> None:
    """This server saw the same content twice, and another one the content between."""
    async with running(api) as replica:
        await server.put(SERVICES, service(1, "any:1"))
        await stored(server, 1)
        await server.put(SERVICES, service(3, "any:1"))
        await eventually(lambda: _seen_until(server, 1) == "3", PATIENCE_SECONDS)
        record = record_of(parse_object(service(2, "any:2")))
        late = manifest_of(IRIS, record)
        late["metadata"]["uid"] = "late"
        await server.put(ALL, late)
        await stored(server, 1, 2, 3)
        await replica.report(3, State.READY)
        await outcomes(server, {1: "SUPERSEDED", 2: "SUPERSEDED", 3: "READY"})
        assert await replica.history() == [(3, False), (2, False), (1, False)]


def _seen_until(server: RevisionServer, generation: int) -> str:
    annotations = server.revisions[generation]["metadata"]["annotations"]
    return str(annotations.get("modelservice.dev/seen-until", ""))


async def test_scaling_that_was_seen_is_no_gap_after_a_restart(
    server: RevisionServer, api: ApiServer
) -> None:
    async with running(api):
        await server.put(SERVICES, service(1, "any:1"))
        await stored(server, 1)
        await server.put(SERVICES, service(3, "any:1", Scaling(2, 4)))
        await eventually(lambda: _seen_until(server, 1) == "3", PATIENCE_SECONDS)
    await server.put(SERVICES, service(4, "any:2"))
    async with running(api) as replica:
        await stored(server, 1, 4)
        assert await replica.history() == [(4, False), (1, False)]


async def test_the_last_ones_are_kept_and_the_last_ready_one(
    server: RevisionServer, api: ApiServer
) -> None:
    await server.put(SERVICES, service(1, "any:1"))
    async with running(api, most=2) as replica:
        await stored(server, 1)
        await replica.report(1, State.READY)
        await outcomes(server, {1: "READY"})
        for generation in range(2, 6):
            await server.put(SERVICES, service(generation, f"any:{generation}"))
        await outcomes(server, {1: "READY", 4: "SUPERSEDED", 5: ""})


async def test_a_present_revision_that_is_deleted_is_stored_again(
    server: RevisionServer, api: ApiServer
) -> None:
    await server.put(SERVICES, service(1, "any:1"))
    async with running(api):
        await stored(server, 1)
        uid = server.revisions[1]["metadata"]["uid"]
        await server.remove(ALL, uid)
        await eventually(lambda: _uid(server) not in ("", uid), PATIENCE_SECONDS)


def _uid(server: RevisionServer) -> str:
    stored = server.revisions.get(1)
    return str(stored["metadata"]["uid"]) if stored else ""


async def test_a_service_of_others_has_no_revisions_but_a_present_one(
    server: RevisionServer, api: ApiServer
) -> None:
    foreign = service(1, "any:1")
    foreign["metadata"]["labels"] = {}
    await server.put(SERVICES, foreign)
    async with running(api) as replica:
        assert await replica.history() == [(1, False)]
        await eventually(
            lambda: IRIS in replica.cluster._recorder._index._foreign, PATIENCE_SECONDS
        )
        assert server.writes == []


async def test_a_rollout_that_cannot_be_stored_is_a_gap_and_keeps_no_later_one_waiting(
    server: RevisionServer, api: ApiServer
) -> None:
    server.invalid = {2}
    async with running(api) as replica:
        for generation in (1, 2, 3):
            await server.put(SERVICES, service(generation, f"any:{generation}"))
        await stored(server, 1, 3)
        await eventually(lambda: not replica.cluster._recorder._pending, PATIENCE_SECONDS)
        assert await replica.history() == [(3, False), (2, True), (1, False)]


async def test_where_none_may_be_deleted_no_more_are_stored(
    server: RevisionServer, api: ApiServer
) -> None:
    server.forbidden = {"DELETE"}

    def deletes() -> int:
        return [method for method, _ in server.writes].count("DELETE")

    async with running(api, most=2):
        for generation in range(1, 7):
            await server.put(SERVICES, service(generation, f"any:{generation}"))
            await stored(server, *range(1, generation + 1))
        before = deletes()
        await server.put(SERVICES, service(7, "any:7"))
        # The first one may be of the generation before.
        await eventually(lambda: deletes() >= before + 3, PATIENCE_SECONDS)
        assert [*server.revisions] == [1, 2, 3, 4, 5, 6]
        server.forbidden = set()
        await stored(server, 6, 7)


async def test_a_status_shortens_no_pause_and_a_new_generation_ends_it(
    server: RevisionServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_pauses, "LONGEST_PAUSE", 3600)
    server.write_faults.append(answering(503, headers={"Retry-After": "600"}))
    await server.put(SERVICES, service(1, "any:1"))
    async with running(api) as replica:
        revisions = replica.cluster._recorder
        timers = revisions._queue._timers
        await eventually(lambda: revisions._pauses.left(IRIS) > 500, PATIENCE_SECONDS)
        await replica.report(1, State.READY)
        now = asyncio.get_running_loop().time()
        # An earlier timer finds the pause.
        await eventually(
            lambda: IRIS in timers and timers[IRIS].when() > now + 500,
            PATIENCE_SECONDS,
        )
        assert not server.revisions
        await server.put(SERVICES, service(2, "any:2"))
        await outcomes(server, {1: "READY", 2: ""})


async def test_a_refusal_of_rights_pauses_the_namespace_alone(
    server: RevisionServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_pauses, "FIRST_PAUSE", 3600)
    monkeypatch.setattr(retry_pauses, "LONGEST_PAUSE", 3600)
    server.forbidden = {"POST"}
    await server.put(SERVICES, service(1, "any:1"))
    async with running(api) as replica:
        pauses = replica.cluster._recorder._pauses
        beside, elsewhere = ServiceKey("team-a", "other"), ServiceKey("team-b", "iris")
        await eventually(lambda: pauses.left(beside) > 1000, PATIENCE_SECONDS)
        assert not pauses.left(elsewhere)


async def test_what_cannot_be_stored_now_is_stored_later(
    server: RevisionServer, api: ApiServer
) -> None:
    async def cut(_: ScriptedServer, request: web.Request) -> web.StreamResponse:
        assert request.transport
        request.transport.abort()
        return web.Response()

    await server.put(SERVICES, service(1, "any:1"))
    server.write_faults.extend([cut, answering(403), answering(503), answering(409)])
    async with running(api):
        await stored(server, 1)


async def test_a_rollback_reads_its_service_once(server: RevisionServer, api: ApiServer) -> None:
    await server.put(SERVICES, service(1, "any:1"))
    async with running(api) as replica:
        await stored(server, 1)
        rollouts = rollouts_on(replica.cluster, IRIS.namespace)
        with pytest.raises(RevisionNotFound):
            await rollouts.rollback(Call(), Rollback(IRIS, 7))
    assert server.service_reads == 1


async def test_a_service_whose_requests_hang_delays_no_other(
    server: RevisionServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revision_client, "_TIMEOUT", 3600)
    hanging = asyncio.Event()

    async def hang(server: ScriptedServer, request: web.Request) -> web.StreamResponse:
        hanging.set()
        return await never(server, request)

    server.write_faults.append(hang)
    async with running(api):
        await server.put(SERVICES, service(1, "any:1"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await hanging.wait()
        other = service(7, "any:7")
        other["metadata"] |= {"name": "other", "uid": "other"}
        await server.put(SERVICES, other)
        await stored(server, 7)
        # Its own rollouts wait for each other.
        await server.put(SERVICES, service(2, "any:2"))
        other = copy.deepcopy(other)
        other["metadata"]["generation"] = 8
        other["spec"] = service(8, "any:8")["spec"]
        await server.put(SERVICES, other)
        await stored(server, 7, 8)


async def test_without_the_rights_all_else_is_as_before(
    server: RevisionServer, api: ApiServer
) -> None:
    await server.put(SERVICES, service(1, "any:1"))
    server.forbidden = {ALL, NAMED}
    async with running(api) as replica:
        # What was seen before the refusal is dropped at its turn.
        recording = replica.cluster._recorder
        await eventually(lambda: recording._index.refused(IRIS.namespace), PATIENCE_SECONDS)
        await eventually(lambda: not recording._pending, PATIENCE_SECONDS)
        with pytest.raises(ServerLacksRights, match="controllerrevisions"):
            await revisions_of(replica.cluster, IRIS)
        await server.put(SERVICES, service(2, "any:2"))
        await replica.told.until("the change", lambda: _generation(replica) == 2)
        assert not recording._pending
        assert server.writes == []


def _generation(replica: Replica) -> int:
    shown = replica.told.latest(IRIS)
    return shown.generation if shown else 0
