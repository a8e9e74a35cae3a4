from __future__ import annotations

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from server.adapters.kserve.apply import runtime_reader
from server.adapters.kserve.apply.runtime_reader import RuntimeReader
from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.manifests.serving_runtimes import Runtimes
from server.deadline import Deadline
from server.domain.errors import ClusterUnavailable
from server.domain.service.inference_service import ModelFormat, ModelPredictor
from tests.adapters.kserve.runtimes import SKLEARN, runtime
from tests.adapters.kserve.scripted_server import ScriptedServer, answering, never

GROUP = "/apis/serving.kserve.io/v1alpha1"
NAMESPACED = f"{GROUP}/namespaces/model-serving/servingruntimes"
CLUSTER = f"{GROUP}/clusterservingruntimes"
MODEL = ModelPredictor(ModelFormat("sklearn"))
MINE = runtime("mine")


def reading(api: ApiServer, cached: Runtimes | None = None) -> RuntimeReader:
    """A reader beside a cache with these runtimes, or with none."""
    return RuntimeReader(api, lambda _: cached)


def holding(*runtimes: dict[str, Any]) -> str:
    return json.dumps({"metadata": {}, "items": runtimes})


async def test_it_reads_those_of_the_namespace_and_those_of_the_cluster(
    server: ScriptedServer, api: ApiServer
) -> None:
    server.texts |= {NAMESPACED: holding(MINE), CLUSTER: holding(SKLEARN)}
    assert await reading(api).read(MODEL, "model-serving", Deadline.after(5)) == [
        MINE,
        SKLEARN,
    ]


async def test_a_runtime_counts_from_the_moment_that_it_is_there(
    server: ScriptedServer, api: ApiServer
) -> None:
    server.texts |= {NAMESPACED: holding(), CLUSTER: holding()}
    reader = reading(api)
    assert await reader.read(MODEL, "model-serving", Deadline.after(5)) == []
    server.texts[CLUSTER] = holding(SKLEARN)
    assert await reader.read(MODEL, "model-serving", Deadline.after(5)) == [SKLEARN]


async def test_deploys_in_quick_succession_share_a_list(
    server: ScriptedServer, api: ApiServer
) -> None:
    server.texts |= {NAMESPACED: holding(), CLUSTER: holding(SKLEARN)}
    reader = reading(api)
    for _ in range(3):
        assert await reader.read(MODEL, "model-serving", Deadline.after(5)) == [SKLEARN]
    assert server.count("text") == 2


async def test_where_the_cache_has_a_runtime_nothing_is_asked(
    server: ScriptedServer, api: ApiServer
) -> None:
    reader = reading(api, Runtimes([MINE], [SKLEARN]))
    assert await reader.read(MODEL, "model-serving", Deadline.after(5)) == [MINE, SKLEARN]
    assert server.requests == []


async def test_a_runtime_that_the_cache_does_not_have_yet_is_found(
    server: ScriptedServer, api: ApiServer
) -> None:
    server.texts |= {NAMESPACED: holding(), CLUSTER: holding(SKLEARN)}
    reader = reading(api, Runtimes([], []))
    assert await reader.read(MODEL, "model-serving", Deadline.after(5)) == [SKLEARN]
    assert server.count("text") == 2


async def test_a_later_deploy_reads_the_runtimes_again(
    server: ScriptedServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_reader, "SHARED_FOR", 0.0)
    server.texts |= {NAMESPACED: holding(), CLUSTER: holding(SKLEARN)}
    reader = reading(api)
    await reader.read(MODEL, "model-serving", Deadline.after(5))
    server.texts[CLUSTER] = holding(SKLEARN, MINE)
    assert await reader.read(MODEL, "model-serving", Deadline.after(5)) == [SKLEARN, MINE]


async def test_of_a_kind_that_the_cluster_does_not_have_there_are_none(
    server: ScriptedServer, api: ApiServer
) -> None:
    server.absent |= {NAMESPACED, CLUSTER}
    assert await reading(api).read(MODEL, "model-serving", Deadline.after(5)) == []


async def test_runtimes_that_may_not_be_listed_are_not_known(
    server: ScriptedServer, api: ApiServer
) -> None:
    server.texts[NAMESPACED] = holding(MINE)
    server.list_faults.append(answering(403))
    assert await reading(api).read(MODEL, "model-serving", Deadline.after(5)) == []
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [429, 503])
async def test_an_api_server_that_has_just_started_is_asked_again(
    server: ScriptedServer, api: ApiServer, status: int
) -> None:
    server.texts[NAMESPACED] = holding()
    server.list_faults += [answering(status), answering(200, {"items": [SKLEARN]})]
    assert await reading(api).read(MODEL, "model-serving", Deadline.after(5)) == [SKLEARN]


@pytest.mark.parametrize(
    "fault",
    [answering(500), answering(429), never],
    ids=["500", "429", "silence"],
)
async def test_nothing_is_deployed_without_knowing_the_runtimes(
    server: ScriptedServer, api: ApiServer, fault: Any
) -> None:
    server.texts[NAMESPACED] = holding()
    server.list_faults += [fault] * 5
    with pytest.raises(ClusterUnavailable):
        await reading(api).read(MODEL, "model-serving", Deadline.after(0.5))


async def test_refusals_in_ever_new_namespaces_fill_neither_the_log_nor_the_memory(
    server: ScriptedServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_reader, "MOST_REFUSALS_LOGGED", 3)
    reader = reading(api)
    with capture_logs() as logged:
        for n in range(10):
            server.list_faults.extend([answering(403)] * 2)
            await reader.read(MODEL, f"n{n}", Deadline.after(5))
    assert len(logged) == 3
