"""A Deploy that replaces pods knows the runtimes without asking for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.cluster import KServeCluster
from server.adapters.kserve.informers import reflector, runtime_cache
from server.adapters.kserve.informers.runtime_cache import RuntimeCache
from server.adapters.kserve.manifests.readiness_probe import probe_for
from server.adapters.kserve.manifests.serving_runtimes import (
    candidates,
    resources_of,
    with_used_fields,
)
from server.deadline import Deadline
from server.domain.service.commands import Deploy
from server.domain.service.inference_service import (
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    ServiceKey,
)
from tests.adapters.kserve.runtimes import STOCK, clusters, runtime
from tests.adapters.kserve.scripted_server import ScriptedServer, answering
from tests.adapters.kserve.waiting import eventually
from tests.contracts.world import following
from tests.measures.played_cluster import PlayedCluster
from tests.patience import PATIENCE_SECONDS

GROUP = "/apis/serving.kserve.io/v1alpha1"
CLUSTER = f"{GROUP}/clusterservingruntimes"
EVERYWHERE = f"{GROUP}/servingruntimes"
TEAM_A = f"{GROUP}/namespaces/team-a/servingruntimes"
BOTH = ["servingruntimes", "clusterservingruntimes"]


def named(name: str, namespace: str = "", **fields: Any) -> dict[str, Any]:
    known = runtime(name, **fields)
    known["metadata"] |= {"uid": f"{namespace}/{name}", "namespace": namespace}
    return known


@asynccontextmanager
async def caching(api: ApiServer, namespaces: Sequence[str] = ()) -> AsyncIterator[RuntimeCache]:
    cache = RuntimeCache(api, namespaces)
    running = [asyncio.create_task(r.run()) for r in cache.reflectors]
    try:
        for follower in cache.reflectors:
            await asyncio.wait_for(follower.synced.wait(), PATIENCE_SECONDS)
        yield cache
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)


@pytest.fixture(autouse=True)
def always_current(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here confirms the watches."""
    monkeypatch.setattr(runtime_cache, "CURRENT_FOR", PATIENCE_SECONDS * 10)


def names(cache: RuntimeCache, namespace: str) -> tuple[set[str], set[str]] | None:
    runtimes = cache.of(namespace)
    if runtimes is None:
        return None
    own, shared = runtimes.namespaced, runtimes.cluster
    assert own is not None
    assert shared is not None
    return {r["metadata"]["name"] for r in own}, {r["metadata"]["name"] for r in shared}


async def test_it_follows_those_of_each_namespace_and_those_of_the_cluster(
    server: ScriptedServer, api: ApiServer
) -> None:
    server.groups[GROUP] = BOTH
    await server.put(EVERYWHERE, named("own", "team-a"))
    await server.put(EVERYWHERE, named("other", "team-b"))
    await server.put(CLUSTER, named("shared"))
    async with caching(api) as cache:
        assert names(cache, "team-a") == ({"own"}, {"shared"})
        assert names(cache, "team-b") == ({"other"}, {"shared"})
        assert names(cache, "team-c") == (set(), {"shared"})
        await server.put(CLUSTER, named("later"))
        await server.remove(EVERYWHERE, "team-a/own")
        await eventually(
            lambda: names(cache, "team-a") == (set(), {"shared", "later"}), PATIENCE_SECONDS
        )


async def test_in_namespaces_mode_it_follows_those_of_the_served_ones(
    server: ScriptedServer, api: ApiServer
) -> None:
    server.groups[GROUP] = BOTH
    await server.put(TEAM_A, named("own", "team-a"))
    await server.put(CLUSTER, named("shared"))
    async with caching(api, ["team-a", "team-b"]) as cache:
        assert names(cache, "team-a") == ({"own"}, {"shared"})
        assert names(cache, "team-b") == (set(), {"shared"})
        assert cache.of("team-c") is None
    assert EVERYWHERE not in {path for _, path in server.requests}


async def test_without_a_collection_or_the_right_to_watch_it_nothing_is_cached(
    server: ScriptedServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "LOOK_AGAIN_AFTER", 0.1)
    async with caching(api) as cache:
        assert cache.of("team-a") is None
        server.list_faults.extend([answering(403)] * 4)
        server.groups[GROUP] = BOTH
        await eventually(lambda: not server.list_faults, PATIENCE_SECONDS)
        await eventually(lambda: names(cache, "team-a") == (set(), set()), PATIENCE_SECONDS)


async def test_an_unconfirmed_cache_counts_as_none(
    server: ScriptedServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.groups[GROUP] = BOTH
    async with caching(api) as cache:
        assert cache.of("team-a") is not None
        monkeypatch.setattr(runtime_cache, "CURRENT_FOR", 0.0)
        assert cache.of("team-a") is None


async def test_more_than_the_bound_is_not_held(
    server: ScriptedServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 3 * len(json.dumps(with_used_fields(named("r0"))))
    monkeypatch.setattr(runtime_cache, "MOST_BYTES", most)
    server.groups[GROUP] = BOTH
    with capture_logs() as logged:
        async with caching(api) as cache:
            for n in range(3):
                await server.put(CLUSTER, named(f"r{n}"))
            # The same one changed three times counts once.
            for _ in range(3):
                await server.put(CLUSTER, named("r2"))
            await server.remove(CLUSTER, "/r2")
            await server.put(CLUSTER, named("r3"))
            await eventually(
                lambda: names(cache, "team-a") == (set(), {"r0", "r1", "r3"}), PATIENCE_SECONDS
            )
            await server.put(CLUSTER, named("r4"))
            await eventually(lambda: cache.of("team-a") is None, PATIENCE_SECONDS)
    assert [line["event"] for line in logged] == ["too many serving runtimes to cache"]


@pytest.mark.parametrize("known", STOCK, ids=lambda r: r["metadata"]["name"])
def test_what_is_held_of_a_runtime_is_all_that_a_deploy_reads(known: dict[str, Any]) -> None:
    held = with_used_fields(known)
    assert resources_of(held) == resources_of(known)
    for form in ("sklearn", "huggingface", "triton", "vLLM", "onnx"):
        model = ModelPredictor(ModelFormat(form), "gs://models/m")
        of_whole, of_held = (candidates(model, clusters(r)) for r in (known, held))
        assert of_held == [with_used_fields(r) for r in of_whole]
        spec = InferenceServiceSpec(model)
        assert probe_for("m", spec, of_held) == probe_for("m", spec, of_whole)


async def test_a_deploy_that_replaces_pods_is_one_request(tmp_path: Path) -> None:
    server = PlayedCluster()
    async with AsyncExitStack() as stack:
        await server.start()
        stack.push_async_callback(server.stop)
        api = await ApiServer.connect(server.kubeconfig(tmp_path))
        stack.push_async_callback(api.close)
        cluster = KServeCluster(api)
        follower = await stack.enter_async_context(following(cluster))
        await follower.synced()
        await cluster.apply(deploying("1.0"))  # it reads KServe's settings, once a minute
        before = len(server.requests)
        await cluster.apply(deploying("2.0"))
        asked = [path for kind, path in server.requests[before:] if kind not in ("probe", "watch")]
    assert asked == ["/apis/serving.kserve.io/v1beta1/namespaces/team-a/inferenceservices/iris"]


def deploying(version: str) -> Deploy:
    model = ModelPredictor(ModelFormat("sklearn"), f"gs://models/iris/{version}")
    key = ServiceKey("team-a", "iris")
    return Deploy(key, InferenceServiceSpec(model), deadline=Deadline.after(PATIENCE_SECONDS))
