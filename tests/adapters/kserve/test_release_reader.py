"""KServe's release is told by the schema that the cluster publishes, and followed from then on."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from structlog.testing import capture_logs

from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.informers import kserve_release
from server.adapters.kserve.informers.kserve_release import KServeTooOld, ReleaseReader
from server.adapters.kserve.releases import KSERVE_0_15, KSERVE_0_16, NEWEST, Release
from tests.adapters.kserve.scripted_server import ScriptedServer, answering
from tests.adapters.kserve.test_status_feed import SERVICES, followed, service
from tests.adapters.kserve.waiting import eventually
from tests.patience import PATIENCE_SECONDS

INDEX = "/openapi/v3"
GROUP = "apis/serving.kserve.io/v1beta1"
SCHEMA = f"{INDEX}/{GROUP}"

# The fields of an InferenceService's status in the CRDs of KServe's releases.
IN_0_14 = ("address", "annotations", "components", "conditions", "modelStatus", "url")
IN_0_15 = (*IN_0_14, "deploymentMode")
IN_0_16 = (*IN_0_15, "clusterServingRuntimeName", "servingRuntimeName")
IN_0_20 = (*IN_0_16, "canaryStatuses")
IN_MINIMAL_CRDS = ()


def publish(server: ScriptedServer, status_fields: Iterable[str], name: str = "a") -> None:
    """Have the server publish these; another name is another schema."""
    status = {"type": "object", "properties": {field: {} for field in status_fields}}
    schemas = {
        "io.kserve.serving.v1beta1.InferenceServiceList": {"type": "object"},
        "io.kserve.serving.v1beta1.InferenceService": {"properties": {"status": status}},
    }
    server.schemas[INDEX] = {"paths": {GROUP: {"serverRelativeURL": f"{SCHEMA}?hash={name}"}}}
    server.schemas[SCHEMA] = {"components": {"schemas": schemas}}


def asked(server: ScriptedServer) -> list[str]:
    return [path for kind, path in server.requests if kind == "schema"]


@pytest.fixture
def taken() -> list[Release]:
    """The releases that others were told of."""
    return []


@pytest.fixture
def reader(api: ApiServer, taken: list[Release]) -> ReleaseReader:
    return ReleaseReader(api, taken.append)


@pytest.mark.parametrize(
    ("fields", "release"),
    [
        (IN_0_15, KSERVE_0_15),
        (IN_0_16, KSERVE_0_16),
        (IN_0_20, KSERVE_0_16),
        (IN_MINIMAL_CRDS, NEWEST),
    ],
    ids=["0.15", "0.16", "0.20", "minimal CRDs"],
)
async def test_the_release_is_told_by_the_fields_of_the_status(
    server: ScriptedServer, reader: ReleaseReader, fields: Iterable[str], release: Release
) -> None:
    publish(server, fields)
    assert await reader.read(5) == release


async def test_one_that_is_older_than_0_15_is_refused_by_name(
    server: ScriptedServer, reader: ReleaseReader
) -> None:
    publish(server, IN_0_14)
    with pytest.raises(KServeTooOld, match=r"is older than 0\.15 .* upgrade KServe"):
        await reader.read(5)


@pytest.mark.parametrize("status", [403, 404])
async def test_where_schemas_may_not_be_read_the_newest_release_is_assumed(
    server: ScriptedServer, reader: ReleaseReader, status: int
) -> None:
    server.schema_faults.append(answering(status))
    assert await reader.read(5) == NEWEST


@pytest.mark.parametrize("status", [401, 403, 429])
async def test_a_release_that_was_told_stays_while_the_api_server_refuses(
    server: ScriptedServer,
    reader: ReleaseReader,
    taken: list[Release],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
) -> None:
    monkeypatch.setattr(kserve_release, "READ_AGAIN_AFTER", 0.0)
    publish(server, IN_0_15)
    assert await reader.read(5) == KSERVE_0_15
    server.schema_faults.append(answering(status))
    assert await reader.read(5) == KSERVE_0_15
    publish(server, IN_0_16, "upgraded")
    assert await reader.read(5) == KSERVE_0_16
    assert taken == [KSERVE_0_15, KSERVE_0_16]


async def test_a_schema_that_cannot_be_read_is_one_line_and_its_return_another(
    server: ScriptedServer, reader: ReleaseReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kserve_release, "READ_AGAIN_AFTER", 0.0)
    publish(server, IN_0_15)
    with capture_logs() as logged:
        await reader.read(5)
        for status in (503, 403, 503, 429):  # as API servers behind one address may differ
            server.schema_faults.append(answering(status))
            assert await reader.read(5) == KSERVE_0_15
        for _ in range(2):
            assert await reader.read(5) == KSERVE_0_15
    assert [line["event"] for line in logged] == [
        "KServe's release",
        "the API server cannot give KServe's schema",
        "KServe's schema can be read again",
    ]


async def test_a_schema_that_tells_no_release_stays_one_line_through_an_outage(
    server: ScriptedServer, reader: ReleaseReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kserve_release, "READ_AGAIN_AFTER", 0.0)
    publish(server, IN_0_15)
    server.schemas[SCHEMA] = {}
    with capture_logs() as logged:
        await reader.read(5)
        server.schema_faults.append(answering(503))
        for _ in range(3):
            await reader.read(5)
    warnings = [line["event"] for line in logged if line["log_level"] == "warning"]
    assert warnings == ["KServe's schema cannot be read: the newest release is assumed"]


@pytest.mark.parametrize("spoilt", [{}, {"paths": []}, {"paths": {GROUP: "x"}}, {"paths": None}])
async def test_an_index_that_says_nothing_of_kserve_tells_no_release(
    server: ScriptedServer, reader: ReleaseReader, spoilt: object
) -> None:
    server.schemas[INDEX] = spoilt
    assert await reader.read(5) == NEWEST


@pytest.mark.parametrize("spoilt", [{}, {"components": []}, {"components": {"schemas": {"x": 1}}}])
async def test_a_schema_that_cannot_be_read_tells_no_release(
    server: ScriptedServer, reader: ReleaseReader, spoilt: object
) -> None:
    publish(server, IN_0_15)
    server.schemas[SCHEMA] = spoilt
    assert await reader.read(5) == NEWEST


@pytest.mark.parametrize("status", [401, 503])
async def test_an_api_server_that_cannot_tell_now_is_asked_again(
    server: ScriptedServer, reader: ReleaseReader, status: int
) -> None:
    publish(server, IN_0_15)
    server.schema_faults.append(answering(status))
    assert await reader.read(5) is None
    assert not reader.admitted.is_set()
    assert await reader.read(5) == KSERVE_0_15


async def test_the_schema_is_read_again_only_when_it_has_changed(
    server: ScriptedServer,
    reader: ReleaseReader,
    taken: list[Release],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(server, IN_0_15)
    assert [await reader.read(5) for _ in range(3)] == [KSERVE_0_15] * 3
    assert asked(server) == [INDEX, SCHEMA]
    monkeypatch.setattr(kserve_release, "READ_AGAIN_AFTER", 0.0)
    await reader.read(5)
    assert asked(server) == [INDEX, SCHEMA, INDEX]
    publish(server, IN_0_16, "upgraded")
    assert await reader.read(5) == KSERVE_0_16
    assert taken == [KSERVE_0_15, KSERVE_0_16]


async def test_nothing_is_told_of_a_cluster_whose_kserve_is_too_old_until_it_is_upgraded(
    server: ScriptedServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kserve_release, "LOOK_AGAIN_AFTER", 0.01)
    publish(server, IN_0_14)
    await server.put(SERVICES, service())
    async with followed(api) as told:
        await eventually(lambda: asked(server).count(INDEX) > 10, PATIENCE_SECONDS)
        assert not told.events
        assert told.feed.age() is None
        publish(server, IN_0_15, "upgraded")
        await eventually(lambda: told.is_synced, PATIENCE_SECONDS)


async def test_a_service_is_told_anew_by_the_release_that_the_cluster_got(
    server: ScriptedServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kserve_release, "READ_AGAIN_AFTER", 0.01)
    publish(server, IN_0_15)
    spec = {"predictor": {"model": {"modelFormat": {"name": "sklearn"}, "runtime": "theirs"}}}
    await server.put(SERVICES, service() | {"spec": spec})
    async with followed(api) as told:
        await eventually(lambda: told.is_synced, PATIENCE_SECONDS)
        last = told.last()
        assert last is not None
        assert last.status.serving_runtime == "theirs"
        publish(server, IN_0_16, "upgraded")
        await eventually(
            lambda: (s := told.last()) and not s.status.serving_runtime, PATIENCE_SECONDS
        )
