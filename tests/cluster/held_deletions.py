"""Deletions that do not get on: by somebody else's finalizers, and without KServe's controller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from kubernetes.client.exceptions import ConflictException, NotFoundException
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, Lab, wait_until

from .asking import Reason, State, container, delete, deploy, wait_gone, wait_ready
from .recording import Recording

FINALIZER = "example.com/keep"
KSERVES = "inferenceservice.finalizers"
# Names a service, and what its predictor runs as in each mode.
SERVICES = "/apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices/{}"
CHILDREN = {
    "standard": ("Deployment", "/apis/apps/v1/namespaces/{}/deployments/{}-predictor"),
    "knative": (
        "Knative Service",
        "/apis/serving.knative.dev/v1/namespaces/{}/services/{}-predictor",
    ),
}


def assert_named(lab: Lab, stub: ModelServiceStub, namespace: str) -> None:
    """Delete a service that a finalizer holds, one whose child is held so, and one that KServe does
    not let go, and assert what is told of each; then all of them go."""
    kind, child = CHILDREN[lab.mode]
    left = {
        "held": f"remaining: finalizer {FINALIZER}",
        "child-held": f"{kind} child-held-predictor (finalizer {FINALIZER})",
        "unattended": f"finalizer {KSERVES}",
    }
    names = tuple(left)
    ids = {name: deploy(stub, namespace, name, container()).rollout_id for name in names}
    for name in names:
        wait_ready(stub, namespace, name, ids[name])
    holds = (SERVICES.format(namespace, "held"), child.format(namespace, "child-held"))
    for path in holds:
        set_finalizers(lab, path, FINALIZER)
    try:
        delete(stub, namespace, "held")
        delete(stub, namespace, "child-held")
        for name in ("held", "child-held"):
            wait_until(partial(is_attended, lab, namespace, name), f"{name} is being deleted")
        with frozen_controller(lab):
            delete(stub, namespace, "unattended")
            told = {name: told_late(stub, namespace, name, left[name]) for name in names}
    finally:
        for path in holds:
            set_finalizers(lab, path)
    for name in names:
        print(f"{name}: {told[name].status.message}")
        wait_gone(stub, namespace, name)

    held, child_held, unattended = (told[name].status for name in names)
    for status in (held, child_held):
        assert not status.HasField("failure")
    assert unattended.failure.reason == Reason.REASON_NO_CONTROLLER


def told_late(stub: ModelServiceStub, namespace: str, name: str, left: str) -> InferenceService:
    """The service once it is told that this is left of it."""
    recording = Recording(stub, namespace, name)
    try:
        told = recording.wait(
            lambda s: "remaining" in s.status.message and left in s.status.message,
            f"{left} is what is left of {name}",
        )
    finally:
        recording.close()
    assert told.status.state == State.STATE_DELETING
    return told


def is_attended(lab: Lab, namespace: str, name: str) -> bool:
    """Whether KServe's controller and the garbage collector have done their part."""
    service = lab.get(SERVICES.format(namespace, name))
    if KSERVES in service["metadata"]["finalizers"]:
        return False
    try:
        child = lab.get(CHILDREN[lab.mode][1].format(namespace, name))
    except NotFoundException:
        return True
    return "deletionTimestamp" in child["metadata"]


@contextmanager
def frozen_controller(lab: Lab) -> Iterator[None]:
    """While KServe's controller answers nothing."""
    lab.kserve_manager.freeze()
    try:
        yield
    finally:
        lab.kserve_manager.thaw()


def keep(cluster: Cluster, path: str) -> None:
    """Keep a service from going away when it is deleted."""

    def has_kserves() -> bool:
        return KSERVES in cluster.get(path)["metadata"].get("finalizers", [])

    # With its own, KServe sets the whole list, without those that it has not seen.
    wait_until(has_kserves, f"KServe's finalizer is on {path}")
    set_finalizers(cluster, path, FINALIZER)


def set_finalizers(cluster: Cluster, path: str, *finalizers: str) -> None:
    """Add to an object's finalizers, or (none given) take those of these tests away."""

    def are_set() -> bool:
        """Whether they were set on the very object that was read: controllers write to it too."""
        metadata = cluster.get(path)["metadata"]
        others = [f for f in metadata.get("finalizers", []) if f != FINALIZER]
        version = {"resourceVersion": metadata["resourceVersion"]}
        body = {"metadata": version | {"finalizers": [*others, *finalizers]}}
        try:
            cluster.request("PATCH", path, body, "application/merge-patch+json")
        except ConflictException:
            return False
        return True

    wait_until(are_set, f"the finalizers of {path} are set")
