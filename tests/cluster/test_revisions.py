"""The revisions of services on a real control plane: replicas end, others write, owners go."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, Lab, wait_until
from server.domain.service.inference_service import ServiceKey
from tests.seeds import chosen_seed

from .asking import container, deploy, wait_ready
from .direct import edit, remove, stored
from .serving import Replicas, Server

REVISIONS = "/apis/apps/v1/namespaces/{}/controllerrevisions"
# Between the apply and the last write of a revision. At the first two the Deploy itself ends.
POINTS = (
    "after-write",
    "before-answer",
    "before-revision",
    "after-revision",
    "before-revision-outcome",
)
# Beyond the time until a revision is stored.
LATEST_KILL = 1.5

NEVER_READY, READY = "lab/stuck:1", "any:1"

Stored = dict[int, dict[str, Any]]


def revisions(cluster: Cluster, key: ServiceKey) -> Stored:
    """The ControllerRevisions of a service by generation; each is there once."""
    uid = stored(cluster, key)["metadata"]["uid"]
    items = [
        item
        for item in cluster.get(REVISIONS.format(key.namespace))["items"]
        if item["metadata"]["labels"].get("modelservice.dev/revision-of") == uid
    ]
    by_generation = {item["revision"]: item for item in items}
    assert len(by_generation) == len(items)
    return by_generation


def outcomes(cluster: Cluster, key: ServiceKey) -> list[str]:
    """The outcomes of a service's revisions, oldest first."""
    found = revisions(cluster, key)
    annotations = [found[n]["metadata"]["annotations"] for n in sorted(found)]
    return [texts.get("modelservice.dev/outcome", "") for texts in annotations]


def wait_outcomes(cluster: Cluster, key: ServiceKey, expected: list[str]) -> None:
    wait_until(lambda: outcomes(cluster, key) == expected, f"{key} has the outcomes {expected}")


def unseen(found: Stored) -> list[int]:
    """The revisions before which there is a gap."""
    annotations = {g: item["metadata"]["annotations"] for g, item in found.items()}
    return [g for g, texts in annotations.items() if "modelservice.dev/unseen-after" in texts]


def wait_stored(cluster: Cluster, key: ServiceKey) -> Stored:
    """The revisions, once every generation of the service has one."""
    newest = stored(cluster, key)["metadata"]["generation"]

    def complete() -> bool:
        return sorted(revisions(cluster, key)) == [*range(1, newest + 1)]

    wait_until(complete, f"{key} has a revision of each of its {newest} generations")
    found = revisions(cluster, key)
    assert unseen(found) == []
    return found


def write_twice(victim: Server, survivor: Server, key: ServiceKey) -> None:
    """Deploy two contents through the victim, or through the survivor once that one has ended."""
    for image in (NEVER_READY, READY):
        request_id = f"ci-{key.name}-{image.partition(':')[0].replace('/', '-')}"
        try:
            deploy(victim.stub, *key, container(image), request_id=request_id)
        except grpc.RpcError:
            deploy(survivor.stub, *key, container(image), request_id=request_id)


def test_killed_at_each_point_no_rollout_is_missing_and_none_is_there_twice(
    lab: Lab, namespace: str, replicas: Replicas, server: Server
) -> None:
    # Of this namespace alone: a victim is not to end for the sake of another test's service.
    victims = {
        point: replicas.make(
            {"MODELSERVICE_TEST_CRASH_AT": point, "MODELSERVICE_NAMESPACES": namespace}
        )
        for point in POINTS
    }
    for victim in victims.values():
        victim.launch()
    for victim in victims.values():
        victim.wait_ready()
    # The second content makes the first one superseded, which is an outcome to write.
    for point, victim in victims.items():
        write_twice(victim, server, ServiceKey(namespace, point))
    for point in POINTS:
        key = ServiceKey(namespace, point)
        found = wait_stored(lab, key)
        images = [found[n]["data"]["spec"]["container"]["image"] for n in (1, 2)]
        assert images == [NEVER_READY, READY]
        wait_outcomes(lab, key, ["SUPERSEDED", "READY"])

    # On a busy machine the survivor can be the first one, but not at every point.
    def ended() -> set[str]:
        return {point for point, victim in victims.items() if victim.has_ended}

    wait_until(lambda: ended() > {"after-write", "before-answer"}, "victims have ended")
    assert {victims[point].stop() for point in ended()} == {-9}
    for victim in victims.values():
        victim.close()


def test_killed_at_any_moment_no_rollout_is_missing(
    lab: Lab, namespace: str, replicas: Replicas, server: Server
) -> None:
    kill_at_random(10, lab, namespace, replicas, server)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_killed_200_times_no_rollout_is_missing(
    lab: Lab, namespace: str, replicas: Replicas, server: Server
) -> None:
    kill_at_random(200, lab, namespace, replicas, server)


def kill_at_random(
    times: int, lab: Lab, namespace: str, replicas: Replicas, survivor: Server
) -> None:
    seed = chosen_seed()
    print(f"to repeat these moments: MODELSERVICE_TEST_SEED={seed}")
    chance = random.Random(seed)
    # While some start again, another one is killed.
    victims = [replicas.make() for _ in range(3)]
    for victim in victims:
        victim.launch()
    keys = []
    for number in range(times):
        victim = victims[number % len(victims)]
        victim.wait_ready()
        key = ServiceKey(namespace, f"killed-{number}")
        keys.append(key)
        with ThreadPoolExecutor(1) as thread:
            under_way = thread.submit(write_twice, victim, survivor, key)
            time.sleep(chance.uniform(0, LATEST_KILL))
            victim.kill()
            victim.launch()
            under_way.result()
    for key in keys:
        wait_stored(lab, key)
    for victim in victims:
        victim.close()


def test_an_edit_by_others_is_a_revision(lab: Lab, namespace: str, stub: ModelServiceStub) -> None:
    key = ServiceKey(namespace, "iris")
    deploy(stub, *key, container("any:1"))
    image = [{"name": "kserve-container", "image": "any:2"}]
    edit(lab, key, {"spec": {"predictor": {"containers": image}}})
    third = deploy(stub, *key, container("any:3"), force=True).rollout_id
    wait_ready(stub, *key, third)
    found = wait_stored(lab, key)
    images = [found[n]["data"]["spec"]["container"]["image"] for n in sorted(found)]
    assert images == ["any:1", "any:2", "any:3"]


def test_the_revisions_go_with_their_service(
    lab: Lab, namespace: str, stub: ModelServiceStub
) -> None:
    key = ServiceKey(namespace, "iris")
    deploy(stub, *key, container("any:1"))
    found = wait_stored(lab, key)
    assert [item["metadata"]["ownerReferences"][0]["controller"] for item in found.values()]
    remove(lab, key)
    listed = REVISIONS.format(namespace)
    wait_until(lambda: not lab.get(listed)["items"], "the garbage collector has come")
