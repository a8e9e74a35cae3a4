"""A watch that was cut by a restart of the server continues: the state is the same one."""

from __future__ import annotations

from pathlib import Path

from server.domain.rollout.status import State
from server.domain.service.commands import STOP_ANNOTATION, Deploy
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.state_digest import state_digest
from tests.adapters.local.serving import model, opened
from tests.contracts.world import Follower, following

READY, STOPPED = ServiceKey("model-serving", "ready"), ServiceKey("model-serving", "stopped")


async def test_a_service_that_is_ready_or_stopped_has_the_same_digest_after_a_restart(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as cluster, following(cluster) as told:
        await cluster.apply(Deploy(READY, model(tmp_path), labels={"team": "a", "b": "c"}))
        stop = {STOP_ANNOTATION: "true"}
        await cluster.apply(Deploy(STOPPED, model(tmp_path, "2"), annotations=stop))
        before = await _settled(told)
    async with opened(tmp_path) as cluster, following(cluster) as told:
        after = await _settled(told)
    assert list(map(state_digest, before)) == list(map(state_digest, after))


async def _settled(told: Follower) -> list[InferenceService]:
    states = {READY: State.READY, STOPPED: State.STOPPED}

    def are_settled() -> bool:
        return all(
            (service := told.latest(key)) is not None and service.status.state is state
            for key, state in states.items()
        )

    await told.until("both as they are to be", are_settled)
    return [service for key in states if (service := told.latest(key))]
