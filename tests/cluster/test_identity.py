"""Callers with tokens and rights of the cluster, on a real API server."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc import StatusCode
from grpc_health.v1.health_pb2_grpc import HealthStub
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1 import registry_service_pb2 as registry_pb
from modelservice.v1.inference_service_pb2 import SecretKeyRef
from modelservice.v1.rollout_service_pb2 import RollbackRequest

from lab import Cluster, Lab
from lab.port_blocks import own_block
from server import settings
from server.domain.service.container_text import HELD_BACK
from tests.alone import clean_environment
from tests.api.requests import Stream, eventually, watching
from tests.api.test_rights import REGISTRY, SERVICES, TABLE, Answer, answer
from tests.api.tls_files import TlsFiles
from tests.api.token_files import Client
from tests.api_recorders import Authority
from tests.patience import PATIENCE_SECONDS
from tests.transcript import transcript

from .asking import State, container
from .callers import CALLER_ROLES, RBAC, Account, Principal, project_role
from .fixtures import StartReplica
from .interference import Link
from .kubeconfigs import kubectl_program
from .serving import NAMESPACE, ROOT, Replicas, Server
from .test_container_text import PLANTED, plant
from .test_outages import api_server_stopped

KUBERNETES = {"MODELSERVICE_AUTH": "kubernetes"}
OVERLAYS = ROOT / "k8s/overlays"
# By role of the table: the ClusterRole of k8s/base.
CLUSTER_ROLES = {"viewer": "modelservice-viewer", "deployer": "modelservice-deployer"}
API_AUDIENCE = "https://kubernetes.default.svc"
LIST = pb.ListRequest()
WATCH_ALL = pb.WatchStatusRequest(namespace="-")


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
    """A server with the rights of k8s/base, under an account of its own: those of the server
    without identity are compared with its requests."""
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
    text = (ROOT / "k8s/base/delegation.yaml").read_text()
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
def caller(cluster: Cluster, asking: Server, namespace: str) -> Account:
    return Account(cluster, asking, namespace, "caller")


@pytest.fixture(scope="module")
def clients() -> Authority:
    return Authority("the CA of clients")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return TlsFiles(tmp_path_factory.mktemp("tls"), Authority("the CA of servers"))


@pytest.fixture(scope="module")
def mtls_address() -> str:
    return f"127.0.0.1:{own_block().next()}"


@pytest.fixture(scope="module")
def trusting(
    identity_link: Link,
    tmp_path_factory: pytest.TempPathFactory,
    replicas: Replicas,
    files: TlsFiles,
    clients: Authority,
    mtls_address: str,
) -> Iterator[Server]:
    """A server with TLS that takes the API server's own audience, and client certificates."""
    folder = tmp_path_factory.mktemp("trusting")
    ca = folder / "clients.crt"
    ca.write_bytes(clients.pem)
    server = replicas.make(
        KUBERNETES
        | files.environment
        | {
            "MODELSERVICE_AUDIENCE": API_AUDIENCE,
            "MODELSERVICE_MTLS_LISTEN": mtls_address,
            "MODELSERVICE_CLIENT_CA": str(ca),
            "MODELSERVICE_DATABASE_URL": f"sqlite:///{folder}/registry.db",
        },
        kubeconfig=identity_link.kubeconfig,
    )
    server.channel.close()
    server.channel = files.channel(server.address)
    server.health = HealthStub(server.channel)
    server.start()
    yield server
    server.close()


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


@pytest.fixture(params=["ServiceAccount", "user of the API server", "client certificate"])
def principal(request: pytest.FixtureRequest, lab: Lab, namespace: str) -> Iterator[Principal]:
    """A caller of each kind."""
    if request.param == "ServiceAccount":
        yield Account(lab, request.getfixturevalue("asking"), namespace, "caller")
        return
    trusting: Server = request.getfixturevalue("trusting")
    if request.param == "user of the API server":
        client = Client(trusting.channel, f"Bearer {lab.tokens['alice']}")
        yield Principal(lab, client, "alice")
        return
    files: TlsFiles = request.getfixturevalue("files")
    clients: Authority = request.getfixturevalue("clients")
    cert, key = clients.issue(namespace)
    tls = grpc.ssl_channel_credentials(files.authority.pem, key, cert)
    with grpc.secure_channel(request.getfixturevalue("mtls_address"), tls) as channel:
        yield Principal(lab, Client(channel), namespace)


@pytest.mark.parametrize("role", ["none", "viewer", "deployer"])
def test_each_rpc_takes_the_rights_that_the_roles_for_callers_give(
    principal: Principal, namespace: str, role: str
) -> None:
    """The table of tests/api/test_rights.py has every RPC."""
    if role in CLUSTER_ROLES:
        principal.bind(CLUSTER_ROLES[role], namespace)
    ranks = ("none", "viewer", "deployer")
    for method in sorted(SERVICES):
        answered = allowed(principal.client, method, namespace)
        has = ranks.index(role) >= ranks.index(TABLE[method][0])
        assert (answered.code is not StatusCode.PERMISSION_DENIED) == has, (method, answered)
    # A RoleBinding gives nothing on projects, nor in other namespaces.
    for method, place in itertools.chain(
        ((method, namespace) for method in sorted(REGISTRY)),
        ((method, "default") for method in sorted(SERVICES)),
    ):
        answered = allowed(principal.client, method, place)
        assert answered.code is StatusCode.PERMISSION_DENIED, (method, answered)


def test_rights_on_a_project_are_those_of_a_cluster_role_with_its_name(
    principal: Principal, namespace: str
) -> None:
    with principal.bound_everywhere(project_role(namespace)):
        for method in sorted(REGISTRY):
            answered = allowed(principal.client, method, namespace)
            assert answered.code is not StatusCode.PERMISSION_DENIED, (method, answered)
            answered = allowed(principal.client, method, "other")
            assert answered.code is StatusCode.PERMISSION_DENIED, (method, answered)


@pytest.fixture
def another_namespace(cluster: Cluster) -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex[:10]}"
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    cluster.apply(manifest)
    yield name
    cluster.delete(manifest)


def test_each_of_two_accounts_sees_and_touches_its_own_namespace_alone(
    cluster: Cluster, asking: Server, namespace: str, another_namespace: str
) -> None:
    homes = (namespace, another_namespace)
    accounts = [Account(cluster, asking, home, "ci") for home in homes]
    for account, home in zip(accounts, homes, strict=True):
        account.bind("modelservice-deployer", home)
        request = pb.DeployRequest(namespace=home, name="iris", spec=container())
        assert answer(account.client, "Deploy", request).code is StatusCode.OK
    for account, home, other in zip(accounts, homes, homes[::-1], strict=True):
        models = account.client.models
        listed = models.List(pb.ListRequest(namespace="-"))
        assert {service.namespace for service in listed.services} == {home}
        assert listed.total_size == 1
        for method in sorted(SERVICES):
            answered = allowed(account.client, method, other)
            assert answered.code is StatusCode.PERMISSION_DENIED, (method, answered)
    first, second = (account.client.models for account in accounts)
    seen: list[pb.WatchStatusResponse] = []

    def is_over(message: pb.WatchStatusResponse) -> bool:
        seen.append(message)
        gone = message.type == pb.WatchStatusResponse.TYPE_DELETED
        return gone or message.service.status.state == State.STATE_DELETING

    with watching(first, namespace="-") as stream:
        stream.until(lambda message: message.type == pb.WatchStatusResponse.TYPE_SYNCED)
        second.Delete(pb.DeleteRequest(namespace=another_namespace, name="iris"))
        first.Delete(pb.DeleteRequest(namespace=namespace, name="iris"))
        stream.until(is_over)
    assert {each.service.namespace for each in seen if each.service.name} == {namespace}


def test_an_account_whose_namespace_has_no_services_yet_watches_all(
    caller: Account, namespace: str
) -> None:
    everything = pb.ListRequest(namespace="-")
    assert answer(caller.client, "List", everything).code is StatusCode.PERMISSION_DENIED
    caller.bind("modelservice-viewer", namespace)
    # The server hears of the binding from its watch.
    eventually(
        "nothing is listed",
        lambda: answer(caller.client, "List", everything).code is StatusCode.OK,
    )
    with watching(caller.client.models, namespace="-") as stream:
        assert stream.next().type == pb.WatchStatusResponse.TYPE_SYNCED


def test_a_refusal_has_the_command_that_checks_the_right(caller: Account, namespace: str) -> None:
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
    reader, blind = (Account(lab, asking, namespace, name) for name in ("reader", "blind"))
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
    cluster: Cluster, caller: Account, namespace: str, built_kubectl: Path
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
    with caller.bound_everywhere(CALLER_ROLES["modelservice-viewer"]):
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


def test_a_call_without_one_valid_token_is_unauthenticated(lab: Lab, caller: Account) -> None:
    good = caller.token()
    header, claims, signature = good.split(".")
    wrong = {
        "expired": [caller.token_until(lab, time.time() - 60)],
        "of the API server": [caller.token(API_AUDIENCE)],
        "of another audience": [caller.token("other")],
        "forged": [f"{header}.{claims}.{signature[::-1]}"],
        "unsigned": [f"{header}.{claims}."],
        "garbage": ["garbage"],
        "no JWT": ["a.b.c"],
        "empty": [""],
        "too long": ["x" * 12 * 1024],
        "long": ["x" * 6 * 1024],
        "doubled": [good, good],
        "none": [],
    }
    for what, tokens in wrong.items():
        client = Client(caller.channel, *(f"Bearer {token}" for token in tokens))
        for method, request in (("List", pb.ListRequest()), ("WatchStatus", WATCH_ALL)):
            answered = answer(client, method, request)
            assert answered.code is StatusCode.UNAUTHENTICATED, (what, answered)
    refused = answer(caller.with_token(*wrong["of another audience"]), "List", pb.ListRequest())
    assert "--audience=modelservice" in refused.message
    # The ones of the test itself are right.
    known = answer(caller.with_token(caller.token_until(lab, time.time() + 3600)), "List", LIST)
    assert known.code is StatusCode.PERMISSION_DENIED, known


def test_streams_end_or_narrow_with_rights_tokens_and_accounts(
    lab: Lab, asking: Server, caller: Account, namespace: str, another_namespace: str
) -> None:
    """All wait at the same time, since streams are checked every 30 s."""
    unbound, deleted, expiring = (
        Account(lab, asking, namespace, name) for name in ("unbound", "deleted", "expiring")
    )
    caller.bind("modelservice-deployer", namespace)
    lost = caller.bind("modelservice-deployer", another_namespace)
    bindings = [
        account.bind("modelservice-viewer", namespace) for account in (unbound, deleted, expiring)
    ]
    for place in (namespace, another_namespace):
        request = pb.DeployRequest(namespace=place, name="iris", spec=container())
        assert answer(caller.client, "Deploy", request).code is StatusCode.OK
    ends = time.time() + 30
    until_its_end = expiring.with_token(expiring.token_until(lab, ends))
    with (
        watching(until_its_end.models, namespace=namespace) as third,
        watching(caller.client.models, namespace="-") as narrowed,
        watching(unbound.client.models, namespace=namespace) as first,
        watching(deleted.client.models, namespace=namespace) as second,
    ):
        for stream in (third, narrowed, first, second):
            stream.until(lambda message: message.type == pb.WatchStatusResponse.TYPE_SYNCED)
        lab.delete(bindings[0])
        lab.delete(deleted.manifest)
        lab.delete(lost)
        assert code_of(third) is StatusCode.UNAUTHENTICATED
        # The server and this test have one clock; a JWT's time is in whole seconds.
        assert time.time() > ends - 1
        left = narrowed.until(lambda message: message.type == pb.WatchStatusResponse.TYPE_LEFT)
        assert (left.service.namespace, left.service.name) == (another_namespace, "iris")
        assert code_of(first) is StatusCode.PERMISSION_DENIED
        assert code_of(second) is StatusCode.UNAUTHENTICATED
    assert answer(until_its_end, "List", LIST).code is StatusCode.UNAUTHENTICATED


def code_of(stream: Stream) -> StatusCode | None:
    """The code that ends a stream."""
    _, error = stream.rest()
    return error.code() if error else None


def test_kubectl_shows_who_deployed_and_who_deleted(
    cluster: Cluster, asking: Server, namespace: str, built_kubectl: Path
) -> None:
    ann, bob = (Account(cluster, asking, namespace, name) for name in ("ann", "bob"))
    for each in (ann, bob):
        each.bind("modelservice-deployer", namespace)
    request = pb.DeployRequest(namespace=namespace, name="iris", spec=container())
    first = ann.client.models.Deploy(request)
    assert first.service.status.deployed_by == ann.user
    eventually("its pods are wanted", lambda: pod_templates(cluster, namespace))
    pods = pod_templates(cluster, namespace)
    same = bob.client.models.Deploy(request)
    assert (same.action, same.rollout_id) == (pb.DeployResponse.ACTION_UNCHANGED, first.rollout_id)
    request.spec.scaling.max_replicas = 3
    scaled = bob.client.models.Deploy(request)
    assert scaled.action == pb.DeployResponse.ACTION_UPDATED
    for applied in (same, scaled):
        assert applied.service.status.deployed_by == ann.user
    eventually("it is scaled", lambda: most_replicas(cluster, namespace) == [3])
    assert pod_templates(cluster, namespace) == pods
    request.spec.env["NEW"] = "1"
    changed = bob.client.models.Deploy(request)
    assert changed.service.status.deployed_by == bob.user
    back = bob.client.rollouts.Rollback(
        RollbackRequest(namespace=namespace, name="iris", revision=first.service.generation)
    )
    assert back.service.status.deployed_by == bob.user
    deployed = [
        f"{ann.user} deployed rollout {first.rollout_id} (CREATED)",
        f"{bob.user} deployed rollout {scaled.rollout_id} (UPDATED)",
        f"{bob.user} deployed rollout {changed.rollout_id} (UPDATED)",
        f"{bob.user} rolled back to revision {first.service.generation}, in rollout"
        f" {back.rollout_id}",
    ]
    eventually("each is an Event", lambda: events_of(cluster, namespace) == sorted(deployed))
    [step] = transcript("docs/audit.md", "On the cluster")
    command = step.command.replace("risk-staging", namespace)
    described = run(built_kubectl, cluster, command)
    assert all(message in described for message in deployed)
    bob.client.models.Delete(pb.DeleteRequest(namespace=namespace, name="iris"))
    everything = sorted([*deployed, f"{bob.user} deleted the service"])
    eventually("the deletion is one too", lambda: events_of(cluster, namespace) == everything)


def pod_templates(cluster: Cluster, namespace: str) -> list[Any]:
    deployments = cluster.get(f"/apis/apps/v1/namespaces/{namespace}/deployments")["items"]
    return [deployment["spec"]["template"] for deployment in deployments]


def most_replicas(cluster: Cluster, namespace: str) -> list[int]:
    path = f"/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers"
    return [autoscaler["spec"]["maxReplicas"] for autoscaler in cluster.get(path)["items"]]


def events_of(cluster: Cluster, namespace: str) -> list[str]:
    """The messages of the Events on the service iris that its server has written."""
    events = cluster.get(f"/api/v1/namespaces/{namespace}/events")["items"]
    ours = [event for event in events if event["source"].get("component") == "modelservice"]
    assert all(event["involvedObject"]["name"] == "iris" for event in ours)
    return sorted(event["message"] for event in ours)


@pytest.mark.parametrize("away", ["refuses connections", "does not answer"])
def test_while_the_api_server_is_away_known_callers_are_served_and_no_others(
    identity_link: Link, caller: Account, namespace: str, away: str
) -> None:
    caller.bind("modelservice-viewer", namespace)
    stranger = caller.with_token(caller.token())
    request = pb.ListRequest(namespace=namespace)
    assert answer(caller.client, "List", request).code is StatusCode.OK
    identity_link.refuse() if away == "refuses connections" else identity_link.swallow()
    try:
        assert answer(caller.client, "List", request).code is StatusCode.OK
        for unknown in (stranger, caller.with_token("garbage")):
            refused = answer(unknown, "List", request)
            assert refused.code is StatusCode.UNAVAILABLE, refused
    finally:
        identity_link.restore()
    eventually(
        "the stranger is known",
        lambda: answer(stranger, "List", request).code is StatusCode.OK,
    )


@pytest.mark.soak
def test_while_the_api_server_is_stopped_for_a_minute_known_callers_read_on(
    lab: Lab, caller: Account, namespace: str
) -> None:
    """Longer than a review is used without it."""
    caller.bind("modelservice-viewer", namespace)
    stranger = caller.with_token(caller.token())
    request = pb.ListRequest(namespace=namespace)
    assert answer(caller.client, "List", request).code is StatusCode.OK
    watch = pb.WatchStatusRequest(namespace=namespace)
    stream = Stream(caller.client.models.WatchStatus(watch, timeout=10 * PATIENCE_SECONDS))
    stream.until(lambda message: message.type == pb.WatchStatusResponse.TYPE_SYNCED)
    with api_server_stopped(lab) as start:
        ends = time.monotonic() + 70
        while time.monotonic() < ends:
            assert answer(caller.client, "List", request).code is StatusCode.OK
            for unknown in (stranger, caller.with_token("garbage")):
                assert answer(unknown, "List", request).code is StatusCode.UNAVAILABLE
            time.sleep(0.5)
        start()
        eventually(
            "the stranger is known",
            lambda: answer(stranger, "List", request).code is StatusCode.OK,
        )
    garbage = caller.with_token("garbage")
    assert answer(garbage, "List", request).code is StatusCode.UNAUTHENTICATED
    assert stream.call.is_active()
    stream.call.cancel()


def test_no_token_is_in_the_log(caller: Account, replicas: Replicas) -> None:
    def read() -> str:
        return "".join(path.read_text() for path in replicas.folder.iterdir() if path.is_file())

    tokens = [caller.token(), caller.token("other")]
    before = read().count("UNAUTHENTICATED")
    for token in tokens:
        answer(caller.with_token(token), "List", pb.ListRequest())
    # Calls that are refused are summed up once a second.
    eventually("the refusal is logged", lambda: read().count("UNAUTHENTICATED") > before)
    logs = read()
    assert not [token for token in tokens if token in logs or token.rpartition(".")[2] in logs]


def test_a_server_that_may_not_review_says_which_right_it_lacks(
    lab: Lab, replica: StartReplica, namespace: str
) -> None:
    kubeconfig = delegated(lab, "modelservice-alone", reviews=False)
    server = replica(KUBERNETES, kubeconfig=kubeconfig)
    caller = Account(lab, server, namespace, "caller")
    answered = answer(caller.client, "List", pb.ListRequest(namespace=namespace))
    assert answered.code is StatusCode.FAILED_PRECONDITION
    assert "may not create tokenreviews" in answered.message


@pytest.mark.parametrize("overlay", sorted(path.name for path in OVERLAYS.iterdir()))
def test_every_overlay_has_callers_with_the_tokens_and_rights_of_the_cluster(
    built_kubectl: Path, overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run(
        [built_kubectl, "kustomize", OVERLAYS / overlay], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    manifests = list(yaml.safe_load_all(done.stdout))
    [pod] = [
        each["spec"]["template"]["spec"]
        for each in manifests
        if each["kind"] in ("Deployment", "Service") and "template" in each["spec"]
    ]
    for each in pod["containers"][0]["env"]:
        monkeypatch.setenv(each["name"], each.get("value", "postgresql://u@h/d"))
    assert settings.load().auth == "kubernetes"
    names = {(each["kind"], each["metadata"]["name"]) for each in manifests}
    assert names >= {("ClusterRole", role) for role in CALLER_ROLES}
    assert ("ClusterRoleBinding", "modelservice-auth-delegator") in names
