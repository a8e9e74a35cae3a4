"""A server is killed around a Deploy: retried with its request_id, the wish is stored once."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import Any

import grpc
import pytest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Lab
from tests.seeds import chosen_seed

from .asking import Action, container, deploy
from .meanwhile import OBJECT
from .serving import Replicas, Server

POINTS = ("before-write", "after-write", "before-answer")
BEGAN_WITH, WISHED = "any:1", "any:2"

# Beyond the time that a Deploy takes, so that some are killed when it is over.
LATEST_KILL = 1.3


class Kind(Enum):
    """What a Deploy comes to, and what it asks for."""

    CREATES = Action.ACTION_CREATED
    CHANGES = Action.ACTION_UPDATED
    RESTARTS = Action.ACTION_RESTARTED


@dataclass(frozen=True)
class Wish:
    """A Deploy that is to come true once: a restart, done twice, would be two rollouts."""

    namespace: str
    name: str
    kind: Kind

    def prepare(self, stub: ModelServiceStub) -> None:
        """Have there be what is changed or restarted."""
        if self.kind is not Kind.CREATES:
            deploy(stub, self.namespace, self.name, container(BEGAN_WITH))

    def deploy(self, stub: ModelServiceStub) -> str:
        """The rollout_id; whoever is asked and however often, the first write's action is told."""
        restarts = self.kind is Kind.RESTARTS
        answer = deploy(
            stub,
            self.namespace,
            self.name,
            None if restarts else container(WISHED),
            restart=restarts,
            request_id=f"ci-{self.name}",
        )
        assert answer.action == self.kind.value
        return answer.rollout_id

    def assert_came_true(self, lab: Lab) -> None:
        """The cluster has the service with its spec, written so often and no oftener."""
        stored: dict[str, Any] = lab.get(OBJECT.format(self.namespace, self.name))
        [serving] = stored["spec"]["predictor"]["containers"]
        assert serving["image"] == (BEGAN_WITH if self.kind is Kind.RESTARTS else WISHED), self
        assert stored["metadata"]["generation"] == (1 if self.kind is Kind.CREATES else 2), self


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name.lower())
def test_killed_at_each_named_point_it_is_one_rollout(
    lab: Lab, namespace: str, replicas: Replicas, server: Server, kind: Kind
) -> None:
    wishes = [Wish(namespace, point, kind) for point in POINTS]
    for wish in wishes:
        wish.prepare(server.stub)
    for victim, wish in zip(victims(replicas), wishes, strict=True):
        with pytest.raises(grpc.RpcError):
            wish.deploy(victim.stub)
        assert victim.stop() == -9, "it did not come to the point"
    restarted = replicas.start()
    for wish in wishes:
        told = {wish.deploy(each.stub) for each in (restarted, server)}
        assert len(told) == 1
        wish.assert_came_true(lab)
    restarted.close()


@pytest.mark.timeout(600)
def test_killed_at_any_moment_it_is_one_rollout(
    lab: Lab, namespace: str, replicas: Replicas, server: Server
) -> None:
    kill_at_random(20, lab, namespace, replicas, server)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_killed_200_times_at_any_moment_it_is_one_rollout(
    lab: Lab, namespace: str, replicas: Replicas, server: Server
) -> None:
    kill_at_random(200, lab, namespace, replicas, server)


def victims(replicas: Replicas) -> Sequence[Server]:
    """Servers that end themselves as kill -9 does when a Deploy comes to their point."""
    made = [replicas.make({"MODELSERVICE_TEST_CRASH_AT": point}) for point in POINTS]
    for victim in made:
        victim.launch()
    for victim in made:
        victim.wait_ready()
    return made


def kill_at_random(
    times: int, lab: Lab, namespace: str, replicas: Replicas, survivor: Server
) -> None:
    seed = chosen_seed()
    print(f"to repeat these moments: MODELSERVICE_TEST_SEED={seed}")
    chance = random.Random(seed)
    # While one starts again, the other is killed.
    pair = [replicas.start(), replicas.start()]
    seconds = usual_seconds(pair[0], namespace)
    told: dict[Server, tuple[Wish, str]] = {}
    answered = 0
    for number in range(times):
        victim = pair[number % 2]
        assert_restarted_tells_the_same(victim, told)
        wish = Wish(namespace, f"wish-{number}", chance.choice(list(Kind)))
        wish.prepare(survivor.stub)
        acknowledged = killed_during(wish, victim, chance.uniform(0, LATEST_KILL) * seconds)
        told[victim] = wish, wish.deploy(survivor.stub)
        wish.assert_came_true(lab)
        assert acknowledged in ("", told[victim][1])
        answered += bool(acknowledged)
    for victim in pair:
        assert_restarted_tells_the_same(victim, told)
        victim.close()
    print(f"{answered} of {times} were answered before the kill, a Deploy taking {seconds:.3f} s")


def usual_seconds(fresh: Server, namespace: str) -> float:
    """What the first Deploy of a server takes here: it is the first that kills meet."""
    began = time.monotonic()
    Wish(namespace, "first", Kind.CREATES).deploy(fresh.stub)
    return time.monotonic() - began


def killed_during(wish: Wish, victim: Server, after: float) -> str:
    """Kill the server so long after a Deploy began, and start it again; the rollout_id, if that
    was answered."""
    with ThreadPoolExecutor(1) as thread:
        under_way = thread.submit(wish.deploy, victim.stub)
        time.sleep(after)
        victim.kill()
        victim.launch()
        try:
            return under_way.result()
        except grpc.RpcError:
            return ""


def assert_restarted_tells_the_same(
    victim: Server, told: Mapping[Server, tuple[Wish, str]]
) -> None:
    victim.wait_ready()
    if victim in told:
        wish, rollout_id = told[victim]
        assert wish.deploy(victim.stub) == rollout_id
