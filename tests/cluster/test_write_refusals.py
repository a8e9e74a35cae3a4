"""Every refusal of a real API server is provoked, and told by its reason."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lab import Cluster, Lab, wait_until
from server.adapters.kserve.apply.api_server_errors import error_of
from server.adapters.kserve.apply.service_client import ServiceClient, WriteOptions
from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.cluster import KServeCluster
from server.adapters.kserve.manifests.manifest import DesiredObject
from server.deadline import Deadline
from server.domain.errors import (
    ClusterUnavailable,
    ErrorReason,
    FieldInvalid,
    NamespaceNotFound,
    NamespaceTerminating,
    PolicyRefused,
    QuotaExceeded,
    ServerLacksRights,
    ServiceError,
    SpecInvalid,
    WebhookUnavailable,
    WriteOutcomeUnknown,
)
from server.domain.service.commands import Action, Delete, Deploy
from server.domain.service.inference_service import Resources, Scaling, ServiceKey
from tests.adapters.kserve.storing import manifest_of
from tests.contracts.world import Follower, following
from tests.failpoints import NAMES, armed
from tests.patience import PATIENCE_SECONDS

from .direct import stored
from .meanwhile import REFUSED_WITHIN
from .test_kserve_conformance import followed
from .test_writing import CONTAINER, MODEL

Manifest = dict[str, Any]


@pytest.fixture
async def kserve(cluster: Cluster) -> AsyncIterator[KServeCluster]:
    async with followed(cluster) as (kserve, _):
        yield kserve


@pytest.fixture
def key(namespace: str) -> ServiceKey:
    return ServiceKey(namespace, "iris")


@contextmanager
def standing(cluster: Cluster, *manifests: Manifest) -> Iterator[None]:
    """These objects, for the time of the block."""
    for manifest in manifests:
        cluster.apply(manifest)
    try:
        yield
    finally:
        for manifest in reversed(manifests):
            cluster.delete(manifest)


async def test_an_unknown_namespace(kserve: KServeCluster) -> None:
    with pytest.raises(NamespaceNotFound, match="nowhere"):
        await kserve.apply(Deploy(ServiceKey("nowhere", "iris"), MODEL))


async def test_a_namespace_that_is_going(
    cluster: Cluster, kserve: KServeCluster, namespace: str
) -> None:
    held = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "held", "namespace": namespace, "finalizers": ["example.com/hold"]},
    }
    cluster.apply(held)
    cluster.request("DELETE", f"/api/v1/namespaces/{namespace}")
    try:
        with pytest.raises(NamespaceTerminating):
            await kserve.apply(Deploy(ServiceKey(namespace, "iris"), MODEL))
    finally:
        cluster.apply({**held, "metadata": {**held["metadata"], "finalizers": []}})  # type: ignore[dict-item]


async def test_a_full_quota(cluster: Cluster, kserve: KServeCluster, key: ServiceKey) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "few", "namespace": key.namespace},
        "spec": {"hard": {"count/inferenceservices.serving.kserve.io": "0"}},
    }
    with standing(cluster, quota):
        await refused_at_last(kserve, Deploy(key, MODEL, validate_only=True), QuotaExceeded)
        with pytest.raises(QuotaExceeded, match="few"):
            await kserve.apply(Deploy(key, MODEL))


async def test_kserves_own_webhook_refuses(kserve: KServeCluster, key: ServiceKey) -> None:
    with pytest.raises(PolicyRefused, match="PYTHONPATH") as refused:
        await kserve.apply(Deploy(key, dataclasses.replace(MODEL, env={"PYTHONPATH": "x"})))
    assert refused.value.metadata == {"webhook": "inferenceservice.kserve-webhook-server.validator"}


def no_bad_labels(namespace: str, action: str = "Deny") -> tuple[Manifest, Manifest]:
    rule = {
        "apiGroups": ["serving.kserve.io"],
        "apiVersions": ["*"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["inferenceservices"],
    }
    here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    policy: Manifest = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": f"labels-{namespace}"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rule], "namespaceSelector": here},
            "validations": [
                {"expression": "!('bad' in object.metadata.labels)", "message": "no bad labels"}
            ],
        },
    }
    binding: Manifest = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": f"labels-{namespace}"},
        "spec": {"policyName": f"labels-{namespace}", "validationActions": [action]},
    }
    return policy, binding


async def test_a_policy_of_the_cluster_refuses(
    cluster: Cluster, kserve: KServeCluster, key: ServiceKey
) -> None:
    as_owned = Deploy(key, MODEL, {"bad": "yes"}, validate_only=True)
    with standing(cluster, *no_bad_labels(key.namespace)):
        await refused_at_last(kserve, as_owned, PolicyRefused)
        with pytest.raises(PolicyRefused, match="no bad labels") as refused:
            await kserve.apply(Deploy(key, MODEL, {"bad": "yes"}))
        assert refused.value.metadata == {"webhook": f"labels-{key.namespace}"}


async def test_a_warning_of_a_policy_reaches_the_caller(
    cluster: Cluster, kserve: KServeCluster, key: ServiceKey
) -> None:
    bad = Deploy(key, MODEL, {"bad": "yes"})
    dry = dataclasses.replace(bad, validate_only=True)
    with standing(cluster, *no_bad_labels(key.namespace, "Warn")):
        async with asyncio.timeout(PATIENCE_SECONDS):
            # The API server takes up policies some moments after they are stored.
            while not (await kserve.apply(dry)).warnings:
                await asyncio.sleep(0.2)
        applied = await kserve.apply(bad)
    assert applied.action is Action.CREATED
    [warning] = applied.warnings
    assert warning.field == ""
    assert "no bad labels" in warning.message


async def refused_at_last(
    kserve: KServeCluster, as_owned: Deploy, refusal: type[ServiceError]
) -> None:
    """The API server takes up quotas and policies some moments after they are stored."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                await kserve.apply(as_owned)
            except refusal:
                return
            await asyncio.sleep(0.2)


async def test_a_quantity_that_kserve_cannot_read(kserve: KServeCluster, key: ServiceKey) -> None:
    resources = Resources({}, {"nvidia.com/gpu": "1Q"})
    with pytest.raises(SpecInvalid, match="quantities must match"):
        await kserve.apply(Deploy(key, dataclasses.replace(MODEL, resources=resources)))


async def test_a_metric_that_no_mode_has(kserve: KServeCluster, key: ServiceKey) -> None:
    with pytest.raises(FieldInvalid, match=r"spec\.scaling\.metric"):
        await kserve.apply(Deploy(key, dataclasses.replace(MODEL, scaling=Scaling(metric="x"))))


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        ({"foo": 1}, ".spec.predictor.model.foo: field not declared in schema"),
        ({"env": [{"name": "A"}, {"name": "A"}]}, ".spec.predictor.model.env: duplicate entries"),
    ],
    ids=["undeclared field", "duplicate entries"],
)
async def test_what_does_not_fit_the_schema(
    cluster: Cluster, key: ServiceKey, spoilt: dict[str, Any], told: str
) -> None:
    manifest = manifest_of(DesiredObject(key, MODEL))
    manifest["spec"]["predictor"]["model"] |= spoilt
    options = WriteOptions(False, Deadline.after(10))
    async with connected(cluster.kubeconfig) as api:
        client = ServiceClient(api)
        answer = await client.apply(key, manifest, options, force=False)
    error = error_of(answer, key, writes=True)
    assert error.reason is ErrorReason.SPEC_INVALID
    assert told in error.message


async def test_a_server_without_rights_says_which_it_lacks(
    lab: Lab, kserve: KServeCluster, key: ServiceKey
) -> None:
    await kserve.apply(Deploy(key, MODEL))
    async with connected(lab.kubeconfig_with(lab.tokens["alice"], "alice")) as api:
        powerless = KServeCluster(api)
        async with reachable(powerless):
            for attempt in (
                powerless.apply(Deploy(ServiceKey(key.namespace, "new"), MODEL)),
                powerless.delete(Delete(key)),
                powerless.read(key),
            ):
                with pytest.raises(ServerLacksRights) as refused:
                    await attempt
                assert refused.value.metadata["resource"] == "inferenceservices"
                assert "alice" not in refused.value.message


async def test_a_webhook_that_is_down_keeps_everything_as_it_was(
    lab: Lab, kserve: KServeCluster, key: ServiceKey
) -> None:
    made = await kserve.apply(Deploy(key, MODEL))
    await asyncio.to_thread(lab.kserve_manager.stop)
    try:
        for deploy in (Deploy(key, CONTAINER), Deploy(key, CONTAINER, validate_only=True)):
            with pytest.raises(WebhookUnavailable, match="nothing was written"):
                await kserve.apply(deploy)
    finally:
        await asyncio.to_thread(lab.kserve_manager.start)
    assert stored(lab, key)["metadata"]["generation"] == made.service.generation


async def test_a_stopped_api_server_is_told_at_once_and_nothing_is_written(
    lab: Lab, kserve: KServeCluster, key: ServiceKey
) -> None:
    await asyncio.to_thread(lab.apiserver.stop)
    try:
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises((ClusterUnavailable, WriteOutcomeUnknown)) as refused:
                await kserve.apply(Deploy(key, MODEL))
            assert time.monotonic() - began < REFUSED_WITHIN
        assert refused.type is ClusterUnavailable
    finally:
        await asyncio.to_thread(lab.apiserver.start)
        await asyncio.to_thread(lab.restart_controllers)  # else later tests wait for them
    await asyncio.to_thread(wait_until, kserve.reachable, "the cluster is back")
    assert await kserve.read(key) is None


async def test_an_unanswered_write_is_unknown_and_its_retry_is_one_rollout(
    lab: Lab, kserve: KServeCluster, key: ServiceKey
) -> None:
    # A model's Deploy would ask for serving runtimes first, and come no further.
    deploy = Deploy(key, CONTAINER, request_id="ci-1")
    await kserve.apply(dataclasses.replace(deploy, validate_only=True))
    lab.apiserver.freeze()
    try:
        with pytest.raises(WriteOutcomeUnknown, match="same request_id"):
            await kserve.apply(dataclasses.replace(deploy, deadline=Deadline.after(1)))
    finally:
        lab.apiserver.thaw()
    await asyncio.to_thread(wait_until, kserve.reachable, "the cluster is back")
    retried = await kserve.apply(deploy)
    assert retried.action is Action.CREATED
    now = await asyncio.to_thread(stored, lab, key)
    assert now["metadata"]["generation"] == 1
    assert retried.rollout == retried.service.rollout


async def test_a_write_reaches_the_failpoints_around_it(cluster: Cluster, key: ServiceKey) -> None:
    reached: list[str] = []
    # The revisions of other tests' services may be written meanwhile, in other namespaces.
    async with (
        connected(cluster.kubeconfig) as api,
        following(kserve := KServeCluster(api, namespaces=[key.namespace])),
    ):
        with ExitStack() as stack:
            for name in NAMES:
                stack.enter_context(armed(name, partial(reached.append, name)))
            await kserve.apply(Deploy(key, MODEL, validate_only=True))
            assert reached == []
            await kserve.apply(Deploy(key, MODEL))
            assert reached == ["before-write", "after-write"]


@asynccontextmanager
async def connected(kubeconfig: Path) -> AsyncIterator[ApiServer]:
    api = await ApiServer.connect(str(kubeconfig))
    try:
        yield api
    finally:
        await api.close()


@asynccontextmanager
async def reachable(kserve: KServeCluster) -> AsyncIterator[None]:
    """Known to answer, though its feed may never be synced."""
    feed = asyncio.ensure_future(kserve.follow(Follower()))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not kserve.reachable():
                await asyncio.sleep(0.05)
        yield
    finally:
        feed.cancel()
        await asyncio.wait([feed])
