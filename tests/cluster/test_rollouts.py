"""A rollout tells the truth: what a watcher hears of each change, in the order in which it does.

Nothing here is about speed; limits are only there for what never comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from grpc import StatusCode
from modelservice.v1.inference_service_pb2 import InferenceService, Resources, RolloutStrategy
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, Lab
from server.domain.service.inference_service import ServiceKey

from .asking import Action, Reason, Spec, State, container, deploy, get, model, scaling, wait_ready
from .direct import edit
from .objects import unmanaged
from .recording import Recording, Until

READY, DEGRADED, STOPPED = State.STATE_READY, State.STATE_DEGRADED, State.STATE_STOPPED
UNDER_WAY = {State.STATE_PENDING, State.STATE_PROGRESSING}
POD_LABEL = "serving.kserve.io/inferenceservice"

Watching = Callable[..., Recording]


@pytest.fixture
def watching(stub: ModelServiceStub, namespace: str) -> Iterator[Watching]:
    """Begins to record what is told of a service of the test's namespace."""
    recordings: list[Recording] = []

    def watch(name: str, **fields: Any) -> Recording:
        recordings.append(Recording(stub, namespace, name, **fields))
        return recordings[-1]

    yield watch
    for recording in recordings:
        recording.close()


@pytest.fixture
def rolled_out(stub: ModelServiceStub, namespace: str) -> Callable[[str, Spec], str]:
    """Deploys a first rollout and waits until it is READY; its id."""

    def roll_out(name: str, spec: Spec) -> str:
        rollout_id = deploy(stub, namespace, name, spec).rollout_id
        assert wait_ready(stub, namespace, name, rollout_id).generation == 1
        return rollout_id

    return roll_out


RolledOut = Callable[[str, Spec], str]


def pods(lab: Lab, namespace: str, name: str) -> list[dict[str, Any]]:
    selector = f"labelSelector={POD_LABEL}%3D{name}"
    return list(lab.get(f"/api/v1/namespaces/{namespace}/pods?{selector}")["items"])


def ready_since(pod: dict[str, Any]) -> datetime:
    [condition] = [c for c in pod["status"]["conditions"] if c["type"] == "Ready"]
    assert condition["status"] == "True"
    return datetime.fromisoformat(condition["lastTransitionTime"])


def scale(lab: Cluster, namespace: str, name: str, replicas: int) -> None:
    """As `kubectl scale` does it."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}-predictor"
    lab.request(
        "PATCH", path, {"spec": {"replicas": replicas}}, "application/strategic-merge-patch+json"
    )


def available(service: InferenceService) -> int:
    return service.status.components[0].ready_replicas


SECOND = {
    "image tag": (container("lab/slow:1s"), container("lab/slow:10s")),
    "env": (container("lab/slow:5s", env={"V": "1"}), container("lab/slow:5s", env={"V": "2"})),
    "runtime": (model("sklearn"), model("lab-slow-3s")),
}


@pytest.mark.parametrize("by", SECOND)
def test_a_second_rollout_is_ready_when_its_own_pods_are(
    lab: Lab,
    stub: ModelServiceStub,
    namespace: str,
    watching: Watching,
    rolled_out: RolledOut,
    by: str,
) -> None:
    first, second = SECOND[by]
    rolled_out("iris", first)
    old = {pod["metadata"]["uid"] for pod in pods(lab, namespace, "iris")}
    heard = watching("iris")
    heard.wait_state(READY, 1)

    answer = deploy(stub, namespace, "iris", second)
    assert answer.service.status.state in UNDER_WAY
    waited = watching("iris", until=Until.UNTIL_READY, rollout_id=answer.rollout_id)
    assert waited.end() is None
    heard.wait_state(READY, 2)

    for recording in (heard, waited):
        *before, last = recording.states(2)
        assert last == READY
        assert set(before) <= UNDER_WAY
        assert all(s.status.serving for s in recording.services), recording.told()
    [new] = [p for p in pods(lab, namespace, "iris") if p["metadata"]["uid"] not in old]
    told = next(m for m in heard.messages if m.service.generation == 2 and _says_ready(m.service))
    # The pod's own time has whole seconds, rounded down.
    assert told.observe_time.ToDatetime(ready_since(new).tzinfo) >= ready_since(new)


def _says_ready(service: InferenceService) -> bool:
    return bool(service.status.state == READY)


FAILING = {
    "image missing": (container("lab/missing:1"), "REASON_IMAGE_PULL"),
    "crash loop": (container("lab/crash:1"), "REASON_CRASH_LOOP"),
    "unknown runtime": (model(runtime="no-such-runtime"), "REASON_NO_RUNTIME"),
    "unknown format": (model("no-such-format"), "REASON_NO_RUNTIME"),
    "storage scheme": (model(uri="ftp://host/model"), "REASON_STORAGE_SCHEME"),
}


@pytest.mark.parametrize("by", FAILING)
def test_a_second_rollout_that_fails_beside_a_serving_one_is_degraded(
    stub: ModelServiceStub, namespace: str, watching: Watching, rolled_out: RolledOut, by: str
) -> None:
    second, reason = FAILING[by]
    rolled_out("iris", model() if second.HasField("model") else container())
    heard = watching("iris")

    answer = deploy(stub, namespace, "iris", second)
    waited = watching("iris", until=Until.UNTIL_READY, rollout_id=answer.rollout_id)
    refusal = waited.end()

    assert refusal is not None
    assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "ROLLOUT_FAILED")
    degraded = heard.wait_state(DEGRADED, 2)
    for failure in (refusal.failure, degraded.status.failure):
        assert failure.rollout_id == answer.rollout_id
        assert Reason.Name(failure.reason) == reason
    # At once: the first message that says so is the last of the wait.
    assert [s.status.state == DEGRADED for s in waited.services].index(True) + 1 == len(
        waited.services
    )
    assert set(heard.states(2)) <= UNDER_WAY | {DEGRADED}
    assert all(s.status.serving for s in heard.services), heard.told()


def test_a_change_of_labels_alone_is_a_rollout_of_its_own(
    lab: Lab, stub: ModelServiceStub, namespace: str, watching: Watching, rolled_out: RolledOut
) -> None:
    rolled_out("iris", container("lab/slow:3s"))
    heard = watching("iris")

    answer = deploy(stub, namespace, "iris", container("lab/slow:3s"), labels={"team": "iris"})
    assert answer.action == Action.ACTION_UPDATED
    assert answer.service.generation == 2
    wait_ready(stub, namespace, "iris", answer.rollout_id)

    labelled = [p for p in pods(lab, namespace, "iris") if p["metadata"]["labels"].get("team")]
    assert ready_since(labelled[0])
    heard.wait_state(READY, 2)
    *before, last = heard.states(2)
    assert last == READY
    assert State.STATE_PROGRESSING in before
    assert set(before) <= UNDER_WAY


def test_scaling_alone_from_one_to_three_keeps_the_pods_and_stays_ready(
    lab: Lab, stub: ModelServiceStub, namespace: str, watching: Watching, rolled_out: RolledOut
) -> None:
    rolled_out("iris", container("lab/slow:4s"))
    [first] = pods(lab, namespace, "iris")
    heard = watching("iris")

    answer = deploy(stub, namespace, "iris", container("lab/slow:4s", scaling=scaling(3)))
    wait_ready(stub, namespace, "iris", answer.rollout_id)
    heard.wait(lambda s: available(s) == 3, "three replicas are ready")

    assert first["metadata"]["uid"] in {p["metadata"]["uid"] for p in pods(lab, namespace, "iris")}
    *before, last = heard.states(2)
    assert last == READY
    assert set(before) <= UNDER_WAY
    assert all(s.status.serving for s in heard.services)


def test_a_strategy_alone_keeps_the_pods_and_holds_for_the_next_rollout(
    lab: Lab, stub: ModelServiceStub, namespace: str, watching: Watching, rolled_out: RolledOut
) -> None:
    recreate = RolloutStrategy(type=RolloutStrategy.TYPE_RECREATE)
    rolled_out("iris", container("ready:1"))
    [first] = pods(lab, namespace, "iris")
    heard = watching("iris")
    answer = deploy(stub, namespace, "iris", container("ready:1", rollout_strategy=recreate))
    assert answer.service.generation == 2
    wait_ready(stub, namespace, "iris", answer.rollout_id)
    assert [p["metadata"]["uid"] for p in pods(lab, namespace, "iris")] == [
        first["metadata"]["uid"]
    ]
    heard.wait_state(READY, 2)
    assert all(s.status.serving for s in heard.services), heard.told()

    answer = deploy(stub, namespace, "iris", container("lab/slow:3s", rollout_strategy=recreate))
    wait_ready(stub, namespace, "iris", answer.rollout_id)
    heard.wait_state(READY, 3)
    of_the_next = [s.status for s in heard.services if s.generation == 3]
    assert any(not status.serving for status in of_the_next), heard.told()
    [second] = pods(lab, namespace, "iris")
    assert ready_since(second) > ready_since(first)


@pytest.mark.soak
def test_an_update_that_waits_for_room_goes_on_once_its_strategy_makes_it(
    lab: Lab, stub: ModelServiceStub, namespace: str, watching: Watching, rolled_out: RolledOut
) -> None:
    # The node has 1,000 CPUs: room for one.
    large = Resources(requests={"cpu": "600"}, limits={"cpu": "600"})
    rolled_out("iris", container("ready:1", resources=large))
    heard = watching("iris")
    deploy(stub, namespace, "iris", container("ready:2", resources=large))
    unscheduled = Reason.Value("REASON_UNSCHEDULABLE")
    heard.wait(lambda s: s.status.failure.reason == unscheduled, "no node takes it")
    uids = {p["metadata"]["uid"] for p in pods(lab, namespace, "iris")}

    recreate = RolloutStrategy(type=RolloutStrategy.TYPE_RECREATE)
    wanted = container("ready:2", resources=large, rollout_strategy=recreate)
    answer = deploy(stub, namespace, "iris", wanted)
    wait_ready(stub, namespace, "iris", answer.rollout_id)
    [pod] = pods(lab, namespace, "iris")
    assert pod["metadata"]["uid"] in uids


def test_a_ready_service_that_scales_up_stays_ready_though_kserve_says_otherwise(
    lab: Lab, stub: ModelServiceStub, namespace: str, watching: Watching, rolled_out: RolledOut
) -> None:
    rollout_id = rolled_out("iris", container("lab/slow:5s", scaling=scaling(1, 3)))
    heard = watching("iris")
    heard.wait_state(READY, 1)

    scale(lab, namespace, "iris", 2)
    heard.wait(_kserve_denies_ready, "KServe says Ready=False while it scales up")
    waited = watching("iris", until=Until.UNTIL_READY, rollout_id=rollout_id)
    assert waited.end() is None
    heard.wait(lambda s: available(s) == 2, "two replicas are ready")

    assert heard.states(1) == [READY]


def test_a_scale_up_right_after_ready_never_turns_it_back(
    cluster: Cluster, stub: ModelServiceStub, namespace: str, watching: Watching
) -> None:
    heard = watching("iris")
    answer = deploy(stub, namespace, "iris", container(scaling=scaling(1, 3)))
    wait_ready(stub, namespace, "iris", answer.rollout_id)
    scale(cluster, namespace, "iris", 2)
    heard.wait(lambda s: available(s) == 2, "two replicas are ready")
    heard.wait(_is_up_again, "KServe says Ready=True again")
    states = heard.states(1)
    assert set(states[states.index(READY) :]) == {READY}, heard.told()


def _is_up_again(service: InferenceService) -> bool:
    return available(service) == 2 and not _kserve_denies_ready(service)


def test_a_foreign_condition_that_turns_kserves_ready_is_named_and_undoes_nothing(
    cluster: Cluster,
    stub: ModelServiceStub,
    namespace: str,
    watching: Watching,
    rolled_out: RolledOut,
) -> None:
    """Its False is the good state, which the library behind KServe's conditions cannot know."""
    rollout_id = rolled_out("iris", container())
    heard = watching("iris")
    heard.wait_state(READY, 1)
    condition = {
        "type": "ModelDrift",
        "status": "False",
        "reason": "NoDrift",
        "message": "all well",
    }
    add = [{"op": "add", "path": "/status/conditions/-", "value": condition}]
    path = cluster.path_of(unmanaged(namespace, "iris", {}))
    cluster.request("PATCH", f"{path}/status", add, "application/json-patch+json")
    touch = {"metadata": {"annotations": {"touched": "by the test"}}}
    deployment = f"/apis/apps/v1/namespaces/{namespace}/deployments/iris-predictor"
    cluster.request("PATCH", deployment, touch, "application/merge-patch+json")

    denied = heard.wait(_model_drift_denies_ready, "the message names the foreign condition")
    assert denied.status.state == READY
    assert heard.states(1) == [READY], heard.told()
    assert watching("iris", until=Until.UNTIL_READY, rollout_id=rollout_id).end() is None


def test_a_canary_percent_that_kserve_ignores_in_standard_mode_pins_nothing(
    cluster: Cluster, stub: ModelServiceStub, namespace: str, rolled_out: RolledOut
) -> None:
    rolled_out("iris", container("ready:1"))
    edit(
        cluster, ServiceKey(namespace, "iris"), {"spec": {"predictor": {"canaryTrafficPercent": 0}}}
    )
    answer = deploy(stub, namespace, "iris", container("ready:2"))
    assert wait_ready(stub, namespace, "iris", answer.rollout_id).status.state == READY


def _model_drift_denies_ready(service: InferenceService) -> bool:
    return _kserve_denies_ready(service) and "ModelDrift" in service.status.message


def _kserve_denies_ready(service: InferenceService) -> bool:
    return any(c.type == "Ready" and c.status == "False" for c in service.status.conditions)


def test_a_service_scaled_to_zero_by_hand_is_stopped_until_it_is_scaled_up(
    lab: Lab, stub: ModelServiceStub, namespace: str, watching: Watching, rolled_out: RolledOut
) -> None:
    rollout_id = rolled_out("iris", container())
    heard = watching("iris")
    heard.wait_state(READY, 1)

    scale(lab, namespace, "iris", 0)
    stopped = heard.wait_state(STOPPED, 1)
    assert Reason.Name(stopped.status.failure.reason) == "REASON_SCALED_TO_ZERO"
    refusal = watching("iris", until=Until.UNTIL_READY, rollout_id=rollout_id).end()
    assert refusal is not None
    assert refusal.reason == "SERVICE_STOPPED"

    scale(lab, namespace, "iris", 1)
    # Not a wait for the rollout: the server may not have heard of the scaling yet.
    watching("iris").wait_state(READY, 1)
    assert State.STATE_FAILED not in heard.states(1)


def test_a_transformer_counts_from_when_it_is_added_until_it_is_removed(
    lab: Lab, stub: ModelServiceStub, namespace: str, watching: Watching, rolled_out: RolledOut
) -> None:
    rolled_out("iris", container())
    heard = watching("iris")
    heard.wait_state(READY, 1)

    transformer = {"containers": [{"name": "kserve-container", "image": "lab/slow:5s"}]}
    edited = unmanaged(namespace, "iris", {})
    lab.apply(edited | {"spec": {"transformer": transformer}}, field_manager="kubectl")
    with_both = heard.wait_state(READY, 2)
    assert _components(with_both) == ["PREDICTOR", "TRANSFORMER"]
    [pod] = [p for p in pods(lab, namespace, "iris") if "transformer" in p["metadata"]["name"]]
    told = next(m for m in heard.messages if m.service.generation == 2 and _says_ready(m.service))
    assert told.observe_time.ToDatetime(ready_since(pod).tzinfo) >= ready_since(pod)
    *before, _ = heard.states(2)
    assert State.STATE_PROGRESSING in before
    assert set(before) <= UNDER_WAY

    removal = [{"op": "remove", "path": "/spec/transformer"}]
    lab.request("PATCH", lab.path_of(edited), removal, "application/json-patch+json")
    alone = heard.wait_state(READY, 3)
    assert _components(alone) == ["PREDICTOR"]
    assert set(heard.states(3)) <= UNDER_WAY | {READY}
    assert get(stub, namespace, "iris").spec == container()


def _components(service: InferenceService) -> list[str]:
    names = type(service.status.components[0]).Component.Name
    return [names(c.component).removeprefix("COMPONENT_") for c in service.status.components]


def test_a_server_that_seems_ready_and_then_exits_is_not_believed_again(
    stub: ModelServiceStub, namespace: str, watching: Watching
) -> None:
    deploy(stub, namespace, "liar", container("lab/lie:1"))
    heard = watching("liar")
    failed = heard.wait_state(State.STATE_FAILED, 1)
    assert Reason.Name(failed.status.failure.reason) == "REASON_CRASH_LOOP"
    assert failed.status.failure.exit_code == 1
    exited = [s.status.failure.exit_code == 1 for s in heard.services].index(True)
    heard.wait(lambda s: s.status.failure.restart_count > 1, "it has exited again")
    assert READY not in {s.status.state for s in heard.services[exited:]}
