"""What KServe cannot make beside the pods of a rollout is reported, with KServe's own words."""

from __future__ import annotations

from grpc import StatusCode
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster

from .asking import Reason, State, container, deploy, has_failure, wait_ready
from .recording import Until
from .test_rollouts import UNDER_WAY, Watching, watching

__all__ = ["watching"]

KEDA = {"serving.kserve.io/autoscalerClass": "keda"}


def test_an_autoscaler_that_the_cluster_lacks_degrades_a_first_rollout_and_an_update(
    stub: ModelServiceStub, namespace: str, watching: Watching
) -> None:
    served = deploy(stub, namespace, "update", container("ready:1"))
    wait_ready(stub, namespace, "update", served.rollout_id)
    rollouts = {
        "first": deploy(stub, namespace, "first", container("ready:1"), annotations=KEDA),
        "update": deploy(stub, namespace, "update", container("ready:2"), annotations=KEDA),
    }
    waits = {
        name: watching(name, until=Until.UNTIL_READY, rollout_id=answer.rollout_id)
        for name, answer in rollouts.items()
    }
    # Of a first rollout nothing may serve yet when KServe has failed for long enough.
    waiting = {"first": {*UNDER_WAY, State.STATE_FAILED}, "update": UNDER_WAY}
    for name, wait in waits.items():
        refusal = wait.end()
        assert refusal, wait.told()
        assert (refusal.code, refusal.reason) == (StatusCode.FAILED_PRECONDITION, "ROLLOUT_FAILED")
        assert Reason.Name(refusal.failure.reason) == "REASON_RECONCILE_FAILED"
        assert 'no matches for kind "ScaledObject"' in refusal.failure.message
        assert refusal.failure.retrying
        heard, generation = watching(name), rollouts[name].service.generation
        heard.wait_state(State.STATE_DEGRADED, generation)
        told = {*wait.states(generation), *heard.states(generation)}
        assert told <= {*waiting[name], State.STATE_DEGRADED}, wait.told()

    fixed = deploy(stub, namespace, "update", container("ready:2"))
    assert wait_ready(stub, namespace, "update", fixed.rollout_id)


def test_a_deployment_of_somebody_else_in_the_way_is_named_until_it_is_gone(
    cluster: Cluster, stub: ModelServiceStub, namespace: str, watching: Watching
) -> None:
    labels = {"app": "theirs"}
    theirs = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "iris-predictor", "namespace": namespace},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "theirs", "image": "ready:1"}]},
            },
        },
    }
    cluster.apply(theirs)
    heard = watching("iris")
    deploy(stub, namespace, "iris", container("ready:1"))
    failure = heard.wait(has_failure, "the Deployment is named").status.failure
    assert Reason.Name(failure.reason) == "REASON_RECONCILE_FAILED"
    assert failure.retrying
    assert failure.message.startswith(
        "the Deployment iris-predictor has the name that this service"
    ), failure.message
    assert failure.remedy.startswith("delete the Deployment iris-predictor if nobody needs it")

    cluster.delete(theirs)
    heard.wait_state(State.STATE_READY, 1)
