"""Many callers at once with tokens of the cluster: all are served, at two reviews each."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from modelservice.v1.model_service_pb2 import ListRequest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, Lab
from server.adapters.kserve.identity.identities import UNKNOWN_A_SECOND, UNKNOWN_BURST
from tests.patience import PATIENCE_SECONDS

from .serving import NAMESPACE, Replicas
from .test_identity import CALLER_ROLES, KUBERNETES, RBAC, delegated

REVIEWS = {"tokenreviews", "subjectaccessreviews"}
SERVED_WITHIN_SECONDS = 5.0


def tokens_of_accounts(cluster: Cluster, namespace: str, count: int) -> list[str]:
    """The tokens of so many ServiceAccounts, all of which may read the namespace."""
    cluster.apply(CALLER_ROLES["modelservice-viewer"])
    metadata = {"name": "all-accounts", "namespace": namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole"}
    group = {"kind": "Group", "name": f"system:serviceaccounts:{namespace}"}
    cluster.apply(
        {
            "apiVersion": RBAC,
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": role | {"name": "modelservice-viewer"},
            "subjects": [group | {"apiGroup": "rbac.authorization.k8s.io"}],
        }
    )
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda n: token_of(cluster, namespace, f"account-{n}"), range(count)))


def token_of(cluster: Cluster, namespace: str, name: str) -> str:
    metadata = {"name": name, "namespace": namespace}
    cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    spec = {"audiences": ["modelservice"], "expirationSeconds": 3600}
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    return str(cluster.request("POST", path, request)["status"]["token"])


async def list_at_once(address: str, tokens: list[str], namespace: str) -> Counter[str]:
    """How many Lists were answered with each code."""

    async def code(stub: ModelServiceStub, token: str) -> str:
        metadata = (("authorization", f"Bearer {token}"),)
        request = ListRequest(namespace=namespace)
        try:
            await stub.List(request, metadata=metadata, timeout=PATIENCE_SECONDS)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {error.details()}"
        return "OK"

    # A connection of its own: others have 1,000 calls open on theirs.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        stub = ModelServiceStub(channel)
        return Counter(await asyncio.gather(*(code(stub, token) for token in tokens)))


@pytest.mark.parametrize("callers", [150, pytest.param(1000, marks=pytest.mark.soak)])
def test_all_callers_at_once_after_a_restart_are_served_at_two_reviews_each(
    cluster: Cluster, replicas: Replicas, namespace: str, callers: int
) -> None:
    tokens = tokens_of_accounts(cluster, namespace, callers)
    account = f"restarted-{namespace}"
    on_lab = isinstance(cluster, Lab)
    kubeconfig = delegated(cluster, account) if on_lab else cluster.kubeconfig
    server = replicas.start(KUBERNETES, kubeconfig=kubeconfig)
    try:
        began = time.monotonic()
        answers = asyncio.run(list_at_once(server.address, tokens, namespace))
        took = time.monotonic() - began
        print(f"{callers} callers were served in {took:.1f} s")
        assert answers == {"OK": callers}
        assert took < 10 * SERVED_WITHIN_SECONDS
        again = asyncio.run(list_at_once(server.address, tokens, namespace))
        assert again == {"OK": callers}
    finally:
        server.close()
    if isinstance(cluster, Lab):
        entries = cluster.audit(f"system:serviceaccount:{NAMESPACE}:{account}")
        reviews = Counter(entry.resource for entry in entries if entry.resource in REVIEWS)
        assert reviews == dict.fromkeys(REVIEWS, callers)


@pytest.mark.soak
def test_garbage_costs_the_api_server_few_reviews_and_known_callers_no_calls(
    lab: Lab, replicas: Replicas, namespace: str
) -> None:
    [token] = tokens_of_accounts(lab, namespace, 1)
    account = f"garbage-{namespace}"
    server = replicas.start(KUBERNETES, kubeconfig=delegated(lab, account))
    known: Counter[str] = Counter()

    async def flooded() -> Counter[str]:
        assert await list_at_once(server.address, [token], namespace) == {"OK": 1}
        garbage = [f"garbage-{number}" for number in range(3000)]
        flood = asyncio.create_task(list_at_once(server.address, garbage, namespace))
        while not flood.done():
            known.update(await list_at_once(server.address, [token], namespace))
        return await flood

    try:
        began = time.monotonic()
        answers = asyncio.run(flooded())
        took = time.monotonic() - began
    finally:
        server.close()
    entries = lab.audit(f"system:serviceaccount:{NAMESPACE}:{account}")
    reviews = sum(entry.resource in REVIEWS for entry in entries)
    print(f"{reviews} reviews of 3,000 tokens in {took:.1f} s; {known.total()} known calls")
    codes = Counter(answer.partition(" ")[0] for answer in answers.elements())
    assert codes.keys() <= {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED"}
    assert known.keys() == {"OK"}
    assert reviews <= UNKNOWN_BURST + UNKNOWN_A_SECOND * took + 10
