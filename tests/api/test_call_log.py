"""The log: one line a call, and nothing secret in any."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from modelservice.v1 import registry_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import InferenceServiceSpec, SecretKeyRef
from modelservice.v1.model_service_pb2 import (
    DeleteRequest,
    GetRequest,
    ListRequest,
    WatchStatusRequest,
)
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub
from modelservice.v1.registry_service_pb2_grpc import RegistryServiceStub

from tests.alone import alone
from tests.attacks.connection import Connection
from tests.patience import PATIENCE_SECONDS

from .registry_project import Project
from .requests import container, deploy, watching

SECRET = "hunter2"
METHOD = "modelservice.v1.ModelService"
REGISTRY = "modelservice.v1.RegistryService"


def secretive(name: str, **others):
    request = deploy(name, annotations={"note": SECRET}, **others)
    request.spec.CopyFrom(
        container(env={"TOKEN": SECRET}, secret_env={"KEY": SecretKeyRef(secret="s", key="k")})
    )
    return request


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> list[dict]:
    """What a server logs of one call of every kind, in order."""
    url = f"sqlite:///{tmp_path_factory.mktemp('registry')}/registry.db"
    with alone(MODELSERVICE_STOP_DELAY="0", MODELSERVICE_DATABASE_URL=url) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = ModelServiceStub(channel)
            stub.Deploy(
                secretive("a", request_id="job-7"), timeout=PATIENCE_SECONDS, wait_for_ready=True
            )
            stub.Deploy(secretive("a", namespace="team-a"))
            _failing(stub.Deploy, secretive("Bad Name"))
            _failing(stub.Deploy, secretive("bug"))
            _failing(stub.Deploy, secretive("b" * 5000, request_id="r" * 5000))
            stub.Get(GetRequest(name="a"))
            stub.List(ListRequest(namespace="-"))
            with watching(stub, name="a", until=1) as stream:
                stream.rest()
            call = stub.WatchStatus(WatchStatusRequest(name="a"))
            next(call)
            call.cancel()
            asyncio.run(_watch_until_the_server_ends_it(server.address))
            stub.Delete(DeleteRequest(name="a"))
            health = health_pb2_grpc.HealthStub(channel)
            health.Check(health_pb2.HealthCheckRequest())
            _failing(channel.unary_unary(f"/{METHOD}/Get"), b"\xff")
            _register_and_deploy(stub, Project(RegistryServiceStub(channel), "risk"))
        assert server.stop() == 0
        assert not any(SECRET in line for line in server.lines)
        return server.events("call")


async def _watch_until_the_server_ends_it(address: str) -> None:
    """A client of gRPC leaves at its deadline, which on a busy machine the server sees as a cancel:
    its own deadline began when the request came."""
    connection = await Connection.to(address, Counter())
    request = WatchStatusRequest(name="a").SerializeToString()
    connection.call(f"/{METHOD}/WatchStatus", request, ("grpc-timeout", "1S"))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await connection.answered()
    connection.close()


def _register_and_deploy(stub, project) -> None:
    project.model(description=SECRET)
    project.version(image=f"example.org/{SECRET}:1", labels={"a": SECRET})
    project.environment(defaults=InferenceServiceSpec(env={"TOKEN": SECRET}))
    project.get_version()
    _failing(project.stub.UpdateRegisteredModel, project.model_update("name"))
    stub.Deploy(project.deploy("1"))
    stub.Deploy(project.deploy(name="b"))
    project.stub.ListModelDeployments(
        pb.ListModelDeploymentsRequest(project="risk", environment="staging")
    )
    _failing(
        project.stub.GetModelDeployment, pb.GetModelDeploymentRequest(project="risk", id="none")
    )


def _failing(call, request) -> None:
    with pytest.raises(grpc.RpcError):
        call(request)


def test_every_call_has_exactly_one_line(logged) -> None:
    calls = [(line["method"], line["code"], line.get("target")) for line in logged]
    long = "model-serving/" + "b" * 111 + "..."
    assert calls == [
        (f"{METHOD}/Deploy", "OK", "model-serving/a"),
        (f"{METHOD}/Deploy", "OK", "team-a/a"),
        (f"{METHOD}/Deploy", "INVALID_ARGUMENT", "model-serving/Bad Name"),
        (f"{METHOD}/Deploy", "INTERNAL", "model-serving/bug"),
        (f"{METHOD}/Deploy", "INVALID_ARGUMENT", long),
        (f"{METHOD}/Get", "OK", "model-serving/a"),
        (f"{METHOD}/List", "OK", "-/"),
        (f"{METHOD}/WatchStatus", "OK", "model-serving/a"),
        (f"{METHOD}/WatchStatus", "CANCELLED", "model-serving/a"),
        (f"{METHOD}/WatchStatus", "DEADLINE_EXCEEDED", "model-serving/a"),
        (f"{METHOD}/Delete", "OK", "model-serving/a"),
        (f"{METHOD}/Get", "INVALID_ARGUMENT", None),
        (f"{REGISTRY}/CreateRegisteredModel", "OK", "risk/fraud"),
        (f"{REGISTRY}/CreateModelVersion", "OK", "risk/fraud/1"),
        (f"{REGISTRY}/CreateServingEnvironment", "OK", "risk/staging"),
        (f"{REGISTRY}/GetModelVersion", "OK", "risk/fraud/1"),
        (f"{REGISTRY}/UpdateRegisteredModel", "INVALID_ARGUMENT", "risk/fraud"),
        (f"{METHOD}/Deploy", "OK", None),
        (f"{METHOD}/Deploy", "OK", "/b"),
        (f"{REGISTRY}/ListModelDeployments", "OK", "risk/staging"),
        (f"{REGISTRY}/GetModelDeployment", "NOT_FOUND", "risk/none"),
    ]


def test_a_deploy_from_the_registry_logs_its_model(logged) -> None:
    named = [line["registered_model"] for line in logged if "registered_model" in line]
    assert named == ["risk/fraud/1/staging", "risk/fraud/staging"]


def test_a_line_has_the_duration_and_the_callers_request_id(logged) -> None:
    assert all(line["ms"] > 0 and line["timestamp"] and line["level"] for line in logged)
    assert [line.get("request_id", "")[:5] for line in logged[:5]] == ["job-7", "", "", "", "rrrrr"]
    assert all(len(line.get("request_id", "")) <= 128 for line in logged)


def test_a_bug_is_logged_under_its_id_with_where_it_was(logged) -> None:
    (bug,) = [line for line in logged if line["code"] == "INTERNAL"]
    assert bug["level"] == "error"
    assert "in apply" in bug["exception"]
    assert "RuntimeError" in bug["exception"]
    assert len(bug["error_id"]) == 8
    assert "Deploy(key=" not in json.dumps(bug), "the bug's text"


def test_a_refused_call_names_its_reason(logged) -> None:
    assert logged[2]["reason"] == "FIELD_INVALID"


def test_a_client_that_leaves_while_it_is_answered_is_no_error() -> None:
    """grpc.aio says so of some of them, with a stack for each."""
    said = subprocess.run(
        [sys.executable, "-c", _AS_GRPC_LOGS], capture_output=True, text=True, check=True
    )
    assert [json.loads(line)["event"] for line in said.stderr.splitlines()] == ["another error"]


_AS_GRPC_LOGS = """
import logging
from server import logs, settings
logs.configure(settings.Log(format="json"))
log = logging.getLogger("grpc._cython.cygrpc")
log.error("ExecuteBatchError raised in core by servicer method [%s]", "/a/List")
log.error("another error")
"""


def test_a_librarys_message_that_does_not_fit_its_arguments_raises_nothing_in_the_library() -> None:
    said = subprocess.run(
        [sys.executable, "-c", _AS_A_LIBRARY_LOGS], capture_output=True, text=True, check=True
    )
    assert json.loads(said.stderr.splitlines()[-1])["event"] == "after it"


_AS_A_LIBRARY_LOGS = """
import logging
from server import logs, settings
logs.configure(settings.Log(format="json"))
log = logging.getLogger("library")
log.warning("%d items", "a")
log.warning("after it")
"""
