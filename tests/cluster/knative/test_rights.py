"""What services of Knative mode take in rights: given by a role of their own, and told if not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from grpc import StatusCode
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Lab, wait_until
from tests.cluster.asking import container, deploy, wait_ready
from tests.cluster.fixtures import StartReplica
from tests.cluster.serving import SERVER_USER, Server
from tests.refusals import refused

RBAC = "/apis/rbac.authorization.k8s.io/v1"
NAMES = "modelservice-knative"
GROUP = "serving.knative.dev"


def test_of_knative_the_server_reads_what_it_may_and_nothing_else(
    lab: Lab, server: Server, namespace: str
) -> None:
    made = deploy(server.stub, namespace, "iris", container())
    wait_ready(server.stub, namespace, "iris", made.rollout_id)
    [rule] = lab.get(f"{RBAC}/clusterroles/{NAMES}")["rules"]
    given = {(verb, resource) for verb in rule["verbs"] for resource in rule["resources"]}
    assert given == {(v, r) for v in ("list", "watch") for r in ("services", "revisions")}
    asked = [e for e in lab.audit(SERVER_USER) if e.group == GROUP]
    assert {(e.verb, e.resource) for e in asked} == given


def test_without_these_rights_only_services_of_knative_mode_are_refused(
    lab: Lab, replica: StartReplica, namespace: str
) -> None:
    with unbound(lab):
        stub = replica().stub
        request = pb.DeployRequest(namespace=namespace, name="iris", spec=container())
        refusal = refused(
            StatusCode.FAILED_PRECONDITION, "SERVER_LACKS_RIGHTS", stub.Deploy, request
        )
        assert refusal.metadata == {"verb": "list", "resource": "services"}
        standard = container(deployment_mode="Standard")
        made = deploy(stub, namespace, "roses", standard)
        wait_ready(stub, namespace, "roses", made.rollout_id)
    # Granted while the server runs, they are taken up by it.
    wait_until(lambda: takes(stub, request), "a service of Knative mode is taken")
    wait_ready(stub, namespace, "iris", stub.Deploy(request, timeout=30).rollout_id)


@contextmanager
def unbound(lab: Lab) -> Iterator[None]:
    """Nobody has the role."""
    binding = lab.get(f"{RBAC}/clusterrolebindings/{NAMES}")
    lab.delete(binding)
    try:
        yield
    finally:
        kept = {k: binding[k] for k in ("apiVersion", "kind", "roleRef", "subjects")}
        lab.apply({**kept, "metadata": {"name": NAMES}})


def takes(stub: ModelServiceStub, request: pb.DeployRequest) -> bool:
    try:
        stub.Deploy(request, timeout=30)
    except grpc.RpcError:
        return False
    return True
