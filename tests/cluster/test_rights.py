"""The rights that k8s/ gives are those that the server uses: none is missing, none is idle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from grpc import StatusCode
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1 import rollout_service_pb2 as rollouts_pb
from modelservice.v1.rollout_service_pb2_grpc import RolloutServiceStub

from lab import AuditEntry, Lab, wait_until
from tests.api.test_rights import answer
from tests.api.token_files import Client, entry
from tests.refusals import refused

from .asking import State, container, delete, deploy, get, model, wait_gone, wait_ready
from .callers import Account
from .fixtures import StartReplica
from .kubectl import kubectl
from .recording import Recording
from .serving import NAMESPACE, ROOT, SERVER_USER, Server
from .test_identity import KUBERNETES

RBAC = "rbac.authorization.k8s.io/v1"
CLUSTER_ROLE = f"/apis/{RBAC}/clusterroles/modelservice"
DELEGATOR = f"/apis/{RBAC}/clusterroles/system:auth-delegator"
RUNTIMES_ROLE = f"/apis/{RBAC}/clusterroles/modelservice-runtimes"
KNATIVE = "/apis/serving.knative.dev/v1"
SCHEMAS = "/openapi/v3"
ASKED_BY_EVERYBODY = (
    "/readyz",
    KNATIVE,
    f"/apis/{RBAC}",
    "/apis/serving.kserve.io/v1alpha1",
    SCHEMAS,
    f"{SCHEMAS}/apis/serving.kserve.io/v1beta1",
)
CONFIG_ROLE = f"/apis/{RBAC}/namespaces/kserve/roles/modelservice"


class Right(NamedTuple):
    """`where` is empty for everywhere, or NAMESPACE/NAME."""

    verb: str
    resource: str
    where: str = ""


def test_the_server_does_what_it_may_and_nothing_else(
    lab: Lab, replica: StartReplica, namespace: str, tmp_path: Path
) -> None:
    live_through_everything(replica({"MODELSERVICE_REVISIONS": "2"}), namespace)
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(entry("ci", namespaces={"*": "deployer"}))
    known = replica({"MODELSERVICE_AUTH": "tokens", "MODELSERVICE_TOKENS_FILE": str(tokens)})
    # A caller with a name: its Deploy makes an Event.
    deploy(Client.of(known.channel, "ci").models, namespace, "named", model())
    caller = Account(lab, replica(KUBERNETES), namespace, "caller")
    listed = answer(caller.client, "List", pb.ListRequest(namespace=namespace))
    assert listed.code is StatusCode.PERMISSION_DENIED
    wait_until(lambda: rights_used(lab) >= rights_given(lab), "no right is idle")
    assert rights_used(lab) == rights_given(lab)


def live_through_everything(server: Server, namespace: str) -> None:
    """What makes a server do all that it ever does, beside listing and watching."""
    stub = server.stub
    first = deploy(stub, namespace, "iris", container("lab/crash:1"))
    failing = Recording(stub, namespace, "iris")
    failing.wait_state(State.STATE_FAILED, 1)
    failing.close()
    deploy(stub, namespace, "iris", model())
    # A refusal is never told from memory.
    stale = pb.DeployRequest(
        namespace=namespace, name="iris", spec=model(), etag=first.service.etag
    )
    refused(StatusCode.ABORTED, "ETAG_MISMATCH", stub.Deploy, stale)
    delete(stub, namespace, "iris")
    wait_gone(stub, namespace, "iris")
    # Each has a revision; two are superseded, and the first one is one too many. None is READY: the
    # newest READY ones are kept beyond that.
    for tag in range(3):
        deploy(stub, namespace, "changed", container(f"lab/stuck:{tag}"))


def rights_given(lab: Lab) -> set[Right]:
    rules = [
        rule
        for path in (CLUSTER_ROLE, RUNTIMES_ROLE, CONFIG_ROLE, DELEGATOR)
        for rule in lab.get(path)["rules"]
    ]
    return {right for rule in rules for right in _given(rule)}


def _given(rule: Mapping[str, Any]) -> Iterator[Right]:
    places = [f"kserve/{name}" for name in rule.get("resourceNames", ())] or [""]
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                yield from (Right(verb, f"{group}/{resource}", where) for where in places)


def rights_used(lab: Lab) -> set[Right]:
    """Of all servers so far, refused ones included."""
    return {right for entry in lab.audit(SERVER_USER) for right in _used(entry)}


def _used(entry: AuditEntry) -> Iterator[Right]:
    # Everybody may ask for its health, which APIs it has, and what KServe's schema is.
    if not entry.resource:
        path = entry.uri.partition("?")[0]
        assert (entry.verb, path) in {("get", asked) for asked in ASKED_BY_EVERYBODY}
        return
    resource = f"{entry.group}/{entry.resource}"
    where = f"{entry.namespace}/{entry.name}" if entry.resource == "configmaps" else ""
    yield Right(entry.verb, resource, where)
    # An apply that makes the object needs this right beside that to patch.
    if (entry.verb, entry.code) == ("patch", 201):
        yield Right("create", resource, where)


@contextmanager
def account(lab: Lab, name: str, rules: list[dict[str, Any]]) -> Iterator[Path]:
    """A kubeconfig of a ServiceAccount with these rights, and those that every server has."""
    role = {"apiVersion": RBAC, "kind": "ClusterRole", "metadata": _named(name), "rules": rules}
    made = [
        lab.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _named(name, NAMESPACE)}
        ),
        lab.apply(role),
        lab.apply(_binding(name, "ClusterRole", name)),
        lab.apply(_binding(name, "ClusterRole", "modelservice-runtimes")),
        lab.apply(_binding(name, "Role", "modelservice", "kserve")),
    ]
    yield lab.kubeconfig_for(name, NAMESPACE)
    for manifest in reversed(made):
        lab.delete(manifest)


@pytest.fixture
def reader(lab: Lab) -> Iterator[Path]:
    """A ServiceAccount with the server's rights, but for those to write."""
    reads = ("get", "list", "watch")
    may_read = [
        rule | {"verbs": verbs}
        for rule in lab.get(CLUSTER_ROLE)["rules"]
        if (verbs := [v for v in rule["verbs"] if v in reads])
    ]
    with account(lab, "reader", may_read) as kubeconfig:
        yield kubeconfig


@pytest.fixture
def narrow(lab: Lab, namespace: str) -> Iterator[str]:
    """A ServiceAccount with the server's rights in one namespace, as k8s/namespace-rights has them,
    and with those that every server has."""
    rights = kubectl(lab, "kustomize", str(ROOT / "k8s/namespace-rights"))
    bindings = [b for b in yaml.safe_load_all(rights) if b["kind"] == "RoleBinding"]
    assert bindings
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    made = [
        lab.apply(account | {"metadata": _named("narrow", NAMESPACE)}),
        *(
            lab.apply(_binding("narrow", "ClusterRole", b["roleRef"]["name"], namespace))
            for b in bindings
        ),
        lab.apply(_binding("narrow", "ClusterRole", "modelservice-runtimes")),
        lab.apply(_binding("narrow", "Role", "modelservice", "kserve")),
    ]
    yield "narrow"
    for manifest in reversed(made):
        lab.delete(manifest)


def _named(name: str, namespace: str = "") -> dict[str, str]:
    return {"name": name} | ({"namespace": namespace} if namespace else {})


def _binding(account: str, role_kind: str, role: str, namespace: str = "") -> dict[str, Any]:
    """A role for one of the accounts here; without a namespace everywhere."""
    return {
        "apiVersion": RBAC,
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": _named(f"{account}-{role}", namespace),
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": role_kind,
            "name": role,
        },
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
    }


def test_a_right_that_the_server_lacks_is_told_and_reads_go_on(
    lab: Lab, replica: StartReplica, namespace: str, server: Server, reader: Path
) -> None:
    there = deploy(server.stub, namespace, "iris", container()).service
    stub = replica(kubeconfig=reader).stub
    assert get(stub, namespace, "iris").uid == there.uid
    for name in ("iris", "other"):
        request = pb.DeployRequest(namespace=namespace, name=name, spec=model())
        refusal = refused(
            StatusCode.FAILED_PRECONDITION, "SERVER_LACKS_RIGHTS", stub.Deploy, request
        )
        assert refusal.metadata == {"verb": "patch", "resource": "inferenceservices"}
    unwanted = pb.DeleteRequest(namespace=namespace, name="iris")
    refusal = refused(StatusCode.FAILED_PRECONDITION, "SERVER_LACKS_RIGHTS", stub.Delete, unwanted)
    assert refusal.metadata == {"verb": "delete", "resource": "inferenceservices"}
    assert get(stub, namespace, "iris").etag == there.etag


def test_an_event_that_may_not_be_written_fails_no_deploy(
    lab: Lab, replica: StartReplica, namespace: str, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(entry("ci", namespaces={namespace: "deployer"}))
    rules = [rule for rule in lab.get(CLUSTER_ROLE)["rules"] if rule["verbs"] != ["create"]]
    settings = {"MODELSERVICE_AUTH": "tokens", "MODELSERVICE_TOKENS_FILE": str(tokens)}
    with account(lab, "eventless", rules) as kubeconfig:
        server = replica(settings, kubeconfig=kubeconfig)
        ci = Client.of(server.channel, "ci").models
        for spec in (container("one:1"), container("two:1")):
            rollout = deploy(ci, namespace, "iris", spec).rollout_id
        delete(ci, namespace, "iris")
        wait_until(lambda: "events not written" in server.log.read_text(), "it is logged")
        assert get(ci, namespace, "iris").rollout_id == rollout
        # The next ones are counted, and logged a minute later.
        assert server.log.read_text().count("events not written") == 1


def test_without_rights_to_revisions_all_else_is_as_before(
    lab: Lab, replica: StartReplica, namespace: str
) -> None:
    given = lab.get(CLUSTER_ROLE)["rules"]
    rules = [rule for rule in given if rule["resources"] != ["controllerrevisions"]]
    with account(lab, "revisionless", rules) as kubeconfig:
        server = replica(kubeconfig=kubeconfig)
        for image in ("any:1", "any:2"):
            rollout = deploy(server.stub, namespace, "iris", container(image)).rollout_id
            wait_ready(server.stub, namespace, "iris", rollout)
        rollouts = RolloutServiceStub(server.channel)
        refusal = refused(
            StatusCode.FAILED_PRECONDITION,
            "SERVER_LACKS_RIGHTS",
            rollouts.ListRevisions,
            rollouts_pb.ListRevisionsRequest(namespace=namespace, name="iris"),
        )
        assert refusal.metadata == {"verb": "list", "resource": "controllerrevisions"}
        logged = server.log.read_text().splitlines()
        [warning] = [line for line in logged if "it may not be read" in line]
        assert "controllerrevisions" in warning


def test_a_server_of_one_namespace_needs_no_rights_in_others(
    lab: Lab, replica: StartReplica, namespace: str, narrow: str
) -> None:
    kubeconfig = lab.kubeconfig_for(narrow, NAMESPACE)
    stub = replica({"MODELSERVICE_NAMESPACES": namespace}, kubeconfig=kubeconfig).stub
    rollout = deploy(stub, namespace, "iris", model()).rollout_id
    wait_ready(stub, namespace, "iris", rollout)
    assert [s.name for s in stub.List(pb.ListRequest(namespace="-")).services] == ["iris"]
    elsewhere = pb.DeployRequest(namespace="default", name="iris", spec=model())
    refused(StatusCode.FAILED_PRECONDITION, "NAMESPACE_NOT_SERVED", stub.Deploy, elsewhere)
    delete(stub, namespace, "iris")
    wait_gone(stub, namespace, "iris")
