"""Callers with tokens and rights of the cluster, on a real API server."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc import StatusCode
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1 import registry_service_pb2 as registry_pb
from modelservice.v1.inference_service_pb2 import SecretKeyRef

from lab import Cluster, Lab
from server.domain.service.container_text import HELD_BACK
from tests.alone import clean_environment
from tests.api.requests import eventually, watching
from tests.api.test_rights import REGISTRY, SERVICES, TABLE, Answer, answer
from tests.api.token_files import Client
from tests.patience import PATIENCE_SECONDS
from tests.transcript import transcript

from .asking import container
from .fixtures import StartReplica
from .interference import Link
from .kubeconfigs import kubectl_program
from .serving import NAMESPACE, ROOT, Replicas, Server
from .test_container_text import PLANTED, plant

RBAC = "rbac.authorization.k8s.io/v1"
KUBERNETES = {"MODELSERVICE_AUTH": "kubernetes"}
ROLES = yaml.safe_load_all((ROOT / "k8s/components/identity/caller-roles.yaml").read_text())
CALLER_ROLES = {role["metadata"]["name"]: role for role in ROLES}
# By role of the table: the ClusterRole of k8s/components/identity.
CLUSTER_ROLES = {"viewer": "modelservice-viewer", "deployer": "modelservice-deployer"}


class Caller:
    """A ServiceAccount without rights, and calls with its token."""

    def __init__(self, cluster: Cluster, server: Server, namespace: str, name: str) -> None:
        self._cluster, self._server, self._namespace = cluster, server, namespace
        self.name = name
        self.account = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": namespace},
        }
        cluster.apply(self.account)
        self.client = self.with_token(self.token())

    def token(self, audience: str = "modelservice") -> str:
        path = f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{self.name}/token"
        spec = {"audiences": [audience], "expirationSeconds": 3600}
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": spec,
        }
        return str(self._cluster.request("POST", path, request)["status"]["token"])

    def with_token(self, token: str) -> Client:
        return Client(self._server.channel, f"Bearer {token}")

    def bind(self, role: str, namespace: str) -> dict[str, Any]:
        """Give it a role of the component in a namespace."""
        return self.bind_to(CALLER_ROLES[role], namespace)

    def bind_to(self, cluster_role: dict[str, Any], namespace: str) -> dict[str, Any]:
        """Give it a ClusterRole in a namespace."""
        self._cluster.apply(cluster_role)
        role = cluster_role["metadata"]["name"]
        binding = self._binding(role) | {
            "kind": "RoleBinding",
            "metadata": {"name": f"{self.name}-{role}", "namespace": namespace},
        }
        self._cluster.apply(binding)
        return binding

    @contextmanager
    def bound_everywhere(self, role: str) -> Iterator[None]:
        """Give it a role of the component in the cluster, for the length of a block."""
        self._cluster.apply(CALLER_ROLES[role])
        binding = self._binding(role) | {
            "kind": "ClusterRoleBinding",
            "metadata": {"name": f"{self._namespace}-{self.name}-{role}"},
        }
        self._cluster.apply(binding)
        try:
            yield
        finally:
            self._cluster.delete(binding)

    def _binding(self, role: str) -> dict[str, Any]:
        group = "rbac.authorization.k8s.io"
        account = {"kind": "ServiceAccount", "name": self.name, "namespace": self._namespace}
        return {
            "apiVersion": RBAC,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
            "subjects": [account],
        }


@pytest.fixture(scope="module")
def identity_link(cluster: Cluster, replicas: Replicas) -> Iterator[Link]:
    """The way of `asking` to the API server."""
    kubeconfig = delegated(cluster) if isinstance(cluster, Lab) else cluster.kubeconfig
    link = Link(cluster, kubeconfig, replicas.folder)
    yield link
    link.close()


@pytest.fixture(scope="module")
def asking(
    identity_link: Link, tmp_path_factory: pytest.TempPathFactory, replicas: Replicas
) -> Iterator[Server]:
    """A server with the rights of k8s/ and of its component identity, under another account: the
    rights of the server without the component are compared with its requests."""
    database = tmp_path_factory.mktemp("identity") / "registry.db"
    server = replicas.start(
        KUBERNETES | {"MODELSERVICE_DATABASE_URL": f"sqlite:///{database}"},
        kubeconfig=identity_link.kubeconfig,
    )
    yield server
    server.close()


def delegated(
    cluster: Cluster, name: str = "modelservice-identity", *, reviews: bool = True
) -> Path:
    """A kubeconfig of an account with these rights, or without those to review."""
    text = (ROOT / "k8s/components/identity/delegation.yaml").read_text()
    delegation = yaml.safe_load(text)
    metadata = {"name": name, "namespace": NAMESPACE}
    cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    subjects = [{"kind": "ServiceAccount"} | metadata]
    for role in ("modelservice", "modelservice-knative", "modelservice-runtimes"):
        reference = delegation["roleRef"] | {"name": role}
        named = {"metadata": {"name": f"{name}-{role}"}, "roleRef": reference}
        cluster.apply(delegation | named | {"subjects": subjects})
    if reviews:
        cluster.apply(delegation | {"metadata": {"name": name}, "subjects": subjects})
    config = {
        "apiVersion": RBAC,
        "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": "kserve"},
        "roleRef": delegation["roleRef"] | {"kind": "Role", "name": "modelservice"},
        "subjects": subjects,
    }
    cluster.apply(config)
    return cluster.kubeconfig_for(name, NAMESPACE)


@pytest.fixture
def built_kubectl() -> Path:
    return kubectl_program()


@pytest.fixture
def caller(cluster: Cluster, asking: Server, namespace: str) -> Caller:
    return Caller(cluster, asking, namespace, "caller")


def in_namespace(method: str, name: str, namespace: str) -> Any:
    """The request of the table's row, in another namespace or project."""
    request = TABLE[method][1](name)
    if method in SERVICES:
        request.namespace = namespace
    else:
        resources = ("model", "version", "environment")
        resource = next((f for f in resources if f in request.DESCRIPTOR.fields_by_name), "")
        nested = resource and request.DESCRIPTOR.fields_by_name[resource].message_type
        (getattr(request, resource) if nested else request).project = namespace
    return request


def allowed(client: Client, method: str, namespace: str) -> Answer:
    answered = answer(client, method, in_namespace(method, "absent", namespace))
    assert answered.code is not StatusCode.UNAUTHENTICATED, answered
    return answered


@pytest.mark.parametrize("role", ["none", "viewer", "deployer"])
def test_each_rpc_takes_the_rights_that_the_roles_of_the_component_give(
    caller: Caller, namespace: str, role: str
) -> None:
    if role in CLUSTER_ROLES:
        caller.bind(CLUSTER_ROLES[role], namespace)
    ranks = ("none", "viewer", "deployer")
    for method in sorted(SERVICES):
        answered = allowed(caller.client, method, namespace)
        has = ranks.index(role) >= ranks.index(TABLE[method][0])
        assert (answered.code is not StatusCode.PERMISSION_DENIED) == has, (method, answered)
    # A RoleBinding gives nothing on projects, nor in other namespaces.
    for method, place in itertools.chain(
        ((method, namespace) for method in sorted(REGISTRY)),
        ((method, "default") for method in sorted(SERVICES)),
    ):
        answered = allowed(caller.client, method, place)
        assert answered.code is StatusCode.PERMISSION_DENIED, (method, answered)


def test_rights_on_a_project_are_those_of_a_cluster_role_with_its_name(
    cluster: Cluster, caller: Caller, namespace: str
) -> None:
    rule = CALLER_ROLES["modelservice-registry-admin"]["rules"][0]
    role = {
        "apiVersion": RBAC,
        "kind": "ClusterRole",
        "metadata": {"name": f"{namespace}-project"},
        "rules": [rule | {"resourceNames": [namespace]}],
    }
    binding = {
        "apiVersion": RBAC,
        "kind": "ClusterRoleBinding",
        "metadata": role["metadata"],
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": f"{namespace}-project",
        },
        "subjects": [{"kind": "ServiceAccount", "name": caller.name, "namespace": namespace}],
    }
    for manifest in (role, binding):
        cluster.apply(manifest)
    try:
        for method in sorted(REGISTRY):
            answered = allowed(caller.client, method, namespace)
            assert answered.code is not StatusCode.PERMISSION_DENIED, (method, answered)
            answered = allowed(caller.client, method, "other")
            assert answered.code is StatusCode.PERMISSION_DENIED, (method, answered)
    finally:
        for manifest in (binding, role):
            cluster.delete(manifest)


def test_a_refusal_has_the_command_that_checks_the_right(caller: Caller, namespace: str) -> None:
    answered = answer(caller.client, "List", pb.ListRequest(namespace=namespace))
    user = f"system:serviceaccount:{namespace}:caller"
    assert answered.message == (
        f"the user '{user}' may not list inferenceservices.serving.kserve.io in the namespace"
        f" '{namespace}'; check with: kubectl auth can-i list"
        f" inferenceservices.serving.kserve.io --namespace={namespace} --as={user}"
    )


def test_the_text_of_containers_takes_the_right_to_read_logs(
    lab: Lab, asking: Server, namespace: str
) -> None:
    """Also of containers with values of Secrets, since kubectl shows their logs too."""
    reader, blind = (Caller(lab, asking, namespace, name) for name in ("reader", "blind"))
    reader.bind("modelservice-deployer", namespace)
    viewer = CALLER_ROLES["modelservice-viewer"]
    services = [rule for rule in viewer["rules"] if rule["resources"] == ["inferenceservices"]]
    blind.bind_to(viewer | {"metadata": {"name": "services-alone"}, "rules": services}, namespace)
    login = {"name": "login", "namespace": namespace}
    lab.apply({"apiVersion": "v1", "kind": "Secret", "metadata": login, "data": {"key": "eA=="}})
    secret_env = {"LOGIN": SecretKeyRef(secret="login", key="key")}
    spec = container("lab/crash:3", secret_env=secret_env)
    request = pb.DeployRequest(namespace=namespace, name="crash", spec=spec)
    assert answer(reader.client, "Deploy", request).code is StatusCode.OK
    get, listing = (
        pb.GetRequest(namespace=namespace, name="crash"),
        pb.ListRequest(namespace=namespace),
    )

    def is_shown() -> bool:
        plant(lab, namespace, "crash")
        return PLANTED in str(reader.client.models.Get(get))

    eventually("the reader sees the text", is_shown)
    # The container may exit again: it is planted until both have been asked in between.
    eventually(
        "it is held back",
        lambda: is_shown() and HELD_BACK in str(blind.client.models.Get(get)) and is_shown(),
    )
    for shown in (blind.client.models.Get(get), blind.client.models.List(listing)):
        assert PLANTED not in str(shown)
    with watching(blind.client.models, namespace=namespace, name="crash") as stream:
        assert PLANTED not in str(stream.next())


def test_the_command_of_a_refusal_answers_as_the_server_does(
    cluster: Cluster, caller: Caller, namespace: str, built_kubectl: Path
) -> None:
    project = registry_pb.GetRegisteredModelRequest(project=namespace, name="fraud")
    asked: dict[str, tuple[str, Any]] = {
        "of a namespace": ("List", pb.ListRequest(namespace=namespace)),
        "of all": ("List", pb.ListRequest(namespace="-")),
        "of a project": ("GetRegisteredModel", project),
    }
    commands = {}
    for what, (method, request) in asked.items():
        refusal = answer(caller.client, method, request)
        assert refusal.code is StatusCode.PERMISSION_DENIED, what
        commands[what] = refusal.message.partition("check with: ")[2]

    def says(*expected: str) -> bool:
        return [run(built_kubectl, cluster, command) for command in commands.values()] == [
            *expected
        ]

    assert says("no", "no", "false")
    # The API server takes a moment to know of a binding. On projects this one gives nothing.
    caller.bind("modelservice-viewer", namespace)
    eventually("the binding counts", lambda: says("yes", "no", "false"))
    with caller.bound_everywhere("modelservice-viewer"):
        eventually("the other one counts", lambda: says("yes", "yes", "true"))


def run(kubectl: Path, cluster: Cluster, command: str) -> str:
    """The output of a command that calls kubectl."""
    environment = clean_environment() | {
        "PATH": f"{kubectl.parent}:{os.environ['PATH']}",
        "KUBECONFIG": str(cluster.kubeconfig),
    }
    done = subprocess.run(
        ["bash", "-c", command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("audience", ["https://kubernetes.default.svc.cluster.local", "other"])
def test_a_token_for_another_audience_is_unauthenticated(caller: Caller, audience: str) -> None:
    client = caller.with_token(caller.token(audience))
    answered = answer(client, "List", pb.ListRequest())
    assert answered.code is StatusCode.UNAUTHENTICATED
    assert "--audience=modelservice" in answered.message


def test_a_forged_token_is_unauthenticated(caller: Caller) -> None:
    header, claims, signature = caller.token().split(".")
    forged = f"{header}.{claims}.{signature[::-1]}"
    for token in (forged, f"{header}.{claims}.", "garbage", "a.b.c"):
        answered = answer(caller.with_token(token), "List", pb.ListRequest())
        assert answered.code is StatusCode.UNAUTHENTICATED, answered


def test_a_watch_ends_when_its_role_binding_or_its_service_account_is_deleted(
    cluster: Cluster, asking: Server, caller: Caller, namespace: str
) -> None:
    other = Caller(cluster, asking, namespace, "other")
    binding = caller.bind("modelservice-deployer", namespace)
    other.bind("modelservice-viewer", namespace)
    request = pb.DeployRequest(namespace=namespace, name="iris", spec=container())
    assert answer(caller.client, "Deploy", request).code is StatusCode.OK
    with (
        watching(caller.client.models, namespace=namespace) as first,
        watching(other.client.models, namespace=namespace) as second,
    ):
        for stream in (first, second):
            stream.until(lambda message: message.type == pb.WatchStatusResponse.TYPE_SYNCED)
        cluster.delete(binding)
        cluster.delete(other.account)
        errors = [stream.rest()[1] for stream in (first, second)]
    assert all(isinstance(error, grpc.RpcError) for error in errors)
    assert [error.code() for error in errors if error] == [
        StatusCode.PERMISSION_DENIED,
        StatusCode.UNAUTHENTICATED,
    ]


def test_the_commands_of_the_document_let_an_account_in(
    cluster: Cluster, asking: Server, namespace: str, built_kubectl: Path, tmp_path: Path
) -> None:
    cluster.apply(CALLER_ROLES["modelservice-deployer"])
    environment = clean_environment() | {
        "PATH": f"{built_kubectl.parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}:{ROOT / 'generated'}",
        "KUBECONFIG": str(cluster.kubeconfig),
        "HOME": str(tmp_path),
    }
    for step in transcript("docs/identity.md", "Tokens of the cluster"):
        command = re.sub(r"\brisk\b", namespace, step.command)
        command = command.replace("localhost:50051", asking.address)
        command = re.sub("^modelctl", f"{sys.executable} -m modelservice_client.cli", command)
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, (command, done.stderr)


def test_while_the_api_server_is_away_known_callers_are_served_and_no_others(
    identity_link: Link, caller: Caller, namespace: str
) -> None:
    caller.bind("modelservice-viewer", namespace)
    stranger = caller.with_token(caller.token())
    request = pb.ListRequest(namespace=namespace)
    assert answer(caller.client, "List", request).code is StatusCode.OK
    identity_link.refuse()
    try:
        assert answer(caller.client, "List", request).code is StatusCode.OK
        refused = answer(stranger, "List", request)
        assert refused.code is StatusCode.UNAVAILABLE, refused
    finally:
        identity_link.restore()
    eventually(
        "the stranger is known",
        lambda: answer(stranger, "List", request).code is StatusCode.OK,
    )


def test_no_token_is_in_the_log(caller: Caller, replicas: Replicas) -> None:
    tokens = [caller.token(), caller.token("other")]
    for token in tokens:
        answer(caller.with_token(token), "List", pb.ListRequest())

    def read() -> str:
        return "".join(path.read_text() for path in replicas.folder.iterdir() if path.is_file())

    # Calls that are refused are summed up once a second.
    eventually("the refusal is logged", lambda: "UNAUTHENTICATED" in read())
    logs = read()
    assert not [token for token in tokens if token in logs or token.rpartition(".")[2] in logs]


def test_a_server_that_may_not_review_says_which_right_it_lacks(
    lab: Lab, replica: StartReplica, namespace: str
) -> None:
    kubeconfig = delegated(lab, "modelservice-alone", reviews=False)
    server = replica(KUBERNETES, kubeconfig=kubeconfig)
    caller = Caller(lab, server, namespace, "caller")
    answered = answer(caller.client, "List", pb.ListRequest(namespace=namespace))
    assert answered.code is StatusCode.FAILED_PRECONDITION
    assert "may not create tokenreviews" in answered.message


@pytest.mark.parametrize("overlay", ["standard", "standard-registry", "knative"])
def test_the_component_asks_for_identity_in_every_overlay(
    built_kubectl: Path, overlay: str, tmp_path: Path
) -> None:
    k8s = os.path.relpath(ROOT / "k8s", tmp_path)
    kustomization = {
        "resources": [f"{k8s}/overlays/{overlay}"],
        "components": [f"{k8s}/components/identity"],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    done = subprocess.run([built_kubectl, "kustomize", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    manifests = list(yaml.safe_load_all(done.stdout))
    [pod] = [
        each["spec"]["template"]["spec"]
        for each in manifests
        if each["kind"] in ("Deployment", "Service") and "template" in each["spec"]
    ]
    given = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    assert given["MODELSERVICE_AUTH"] == "kubernetes"
    assert CALLER_ROLES.keys() <= {each["metadata"]["name"] for each in manifests}
