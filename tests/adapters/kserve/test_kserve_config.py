from __future__ import annotations

import json

import pytest

from server.adapters.kserve.apply.kserve_config import ConfigReader, KServeConfig, config_of
from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.manifests.resource_defaults import KSERVE_DEFAULTS
from server.deadline import Deadline
from server.domain.errors import ClusterUnavailable
from server.domain.service.inference_service import Resources
from tests.adapters.kserve.scripted_server import ScriptedServer, answering

PATH = "/api/v1/namespaces/kserve/configmaps/inferenceservice-config"


def section(**content: object) -> str:
    return json.dumps(content)


def test_the_resources_that_kserve_adds_are_read_canonically() -> None:
    resource = {
        "cpuLimit": "2000m",
        "memoryLimit": "4096Mi",
        "cpuRequest": "0.5",
        "memoryRequest": "1Gi",
    }
    assert config_of({"inferenceService": section(resource=resource)}).resources == Resources(
        {"cpu": "500m", "memory": "1Gi"}, {"cpu": "2", "memory": "4Gi"}
    )


def test_resources_that_the_configmap_leaves_out_are_not_added() -> None:
    resource = {"cpuLimit": None, "memoryRequest": "", "memoryLimit": "2Gi"}
    config = config_of({"inferenceService": section(resource=resource)})
    assert config.resources == Resources({}, {"memory": "2Gi"})
    assert config_of({}).resources == Resources()


def test_a_quantity_that_cannot_be_read_is_as_good_as_none() -> None:
    resource = {"cpuLimit": "much", "memoryLimit": "2Gi"}
    config = config_of({"inferenceService": section(resource=resource)})
    assert config.resources == Resources({}, {"memory": "2Gi"})


@pytest.mark.parametrize(
    ("named", "mode"),
    [
        ("RawDeployment", "Standard"),
        ("Serverless", "Knative"),
        ("Knative", "Knative"),
        ("ModelMesh", "ModelMesh"),
        ("", "Standard"),
    ],
)
def test_the_default_mode_has_its_present_name(named: str, mode: str) -> None:
    assert config_of({"deploy": section(defaultDeploymentMode=named)}).default_mode == mode


@pytest.mark.parametrize("spoilt", ["{", "[]", "null", pytest.param("[" * 100_000, id="deep")])
def test_a_section_that_cannot_be_read_is_as_good_as_none(spoilt: str) -> None:
    assert config_of({"deploy": spoilt, "inferenceService": spoilt}) == KServeConfig(Resources())


async def test_the_configmap_is_read_once_for_many_deploys(
    server: ScriptedServer, api: ApiServer
) -> None:
    data = {"deploy": section(defaultDeploymentMode="Knative")}
    server.texts[PATH] = json.dumps({"data": data})
    reader = ConfigReader(api, "kserve")
    assert [(await reader.read(Deadline.after(5))).default_mode for _ in range(3)] == [
        "Knative"
    ] * 3
    assert server.count("text") == 1


async def test_nothing_is_deployed_by_settings_that_were_never_learnt(
    server: ScriptedServer, api: ApiServer
) -> None:
    reader = ConfigReader(api, "kserve")
    server.list_faults.append(answering(500))
    with pytest.raises(ClusterUnavailable):
        await reader.read(Deadline.after(5))
    server.texts[PATH] = json.dumps({"data": {}})
    assert await reader.read(Deadline.after(5)) == KServeConfig(Resources())


async def test_without_a_configmap_it_is_as_shipped(server: ScriptedServer, api: ApiServer) -> None:
    server.absent.add(PATH)
    assert await ConfigReader(api, "kserve").read(Deadline.after(5)) == KServeConfig(
        KSERVE_DEFAULTS, "Standard"
    )
