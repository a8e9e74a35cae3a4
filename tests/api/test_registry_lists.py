"""Lists of the registry: newest first, in pages that no client refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from modelservice.v1 import registry_service_pb2 as pb
from modelservice.v1.registry_service_pb2_grpc import RegistryServiceStub

from server.api.responses import PAGE_BYTES
from tests.refusals import refused

from .registry_project import Project

INVALID = StatusCode.INVALID_ARGUMENT


def pages(call: Callable[[Any], Any], request: Any) -> Iterator[Any]:
    """Every page, bounded."""
    for _ in range(200):
        page = call(request)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_every_list_comes_newest_first_in_pages(project, registry_stub, size) -> None:
    names = [f"m{number}" for number in range(5)]
    for name in names:
        project.model(name)
        project.version(name, model="m0")
        project.environment(name)
    of_project = {"project": project.name, "page_size": size}
    for call, request, items, name in (
        (
            registry_stub.ListRegisteredModels,
            pb.ListRegisteredModelsRequest(**of_project),
            "models",
            "name",
        ),
        (
            registry_stub.ListModelVersions,
            pb.ListModelVersionsRequest(**of_project, model="m0"),
            "versions",
            "version",
        ),
        (
            registry_stub.ListServingEnvironments,
            pb.ListServingEnvironmentsRequest(**of_project),
            "environments",
            "name",
        ),
    ):
        got = [getattr(page, items) for page in pages(call, request)]
        assert [getattr(item, name) for page in got for item in page] == names[::-1]
        assert all(len(page) == size for page in got[:-1])


def test_a_list_returns_the_same_as_a_get(project, registry_stub) -> None:
    project.model()
    project.version(labels={"a": "1"})
    project.environment()
    of_project = {"project": project.name}
    models = registry_stub.ListRegisteredModels(pb.ListRegisteredModelsRequest(**of_project))
    assert list(models.models) == [project.get_model()]
    versions = pb.ListModelVersionsRequest(**of_project, model="fraud")
    assert list(registry_stub.ListModelVersions(versions).versions) == [project.get_version()]
    environments = pb.ListServingEnvironmentsRequest(**of_project)
    answer = registry_stub.ListServingEnvironments(environments)
    assert list(answer.environments) == [project.get_environment()]


def test_a_page_stays_under_2_mib_and_the_next_goes_on_from_there(project, registry_stub) -> None:
    project.model()
    names = [str(number) for number in range(150)]
    for name in names:
        project.version(name, description="x" * 16_000)
    request = pb.ListModelVersionsRequest(project=project.name, model="fraud", page_size=1000)
    got = list(pages(registry_stub.ListModelVersions, request))
    assert len(got) == 2
    assert all(page.ByteSize() < PAGE_BYTES + 1000 for page in got)
    assert [version.version for page in got for version in page.versions] == names[::-1]


@pytest.fixture(scope="module")
def project_of_250(grpc_channel: grpc.Channel) -> str:
    """The name of a project with the models m0 to m249."""
    project = Project(RegistryServiceStub(grpc_channel), "team-of-250")
    for number in range(250):
        project.model(f"m{number}")
    return project.name


@pytest.mark.parametrize("size", [100, 150, 249, 250, 1000])
def test_a_page_has_as_many_as_are_asked_for(project_of_250, registry_stub, size) -> None:
    request = pb.ListRegisteredModelsRequest(project=project_of_250, page_size=size)
    got = list(pages(registry_stub.ListRegisteredModels, request))
    names = [model.name for page in got for model in page.models]
    assert names == [f"m{number}" for number in reversed(range(250))]
    assert [len(page.models) for page in got[:-1]] == [size] * ((250 - 1) // size)


def test_an_empty_project_has_nothing(project, registry_stub) -> None:
    request = pb.ListRegisteredModelsRequest(project=project.name)
    answer = registry_stub.ListRegisteredModels(request)
    assert (list(answer.models), answer.next_page_token) == ([], "")


def test_the_versions_of_no_model_are_not_found(project, registry_stub) -> None:
    request = pb.ListModelVersionsRequest(project=project.name, model="fraud")
    call = registry_stub.ListModelVersions
    refused(StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", call, request)


def test_a_page_token_belongs_to_its_list(project, registry_stub) -> None:
    for name in ("a", "b"):
        project.model(name)
    call = registry_stub.ListRegisteredModels
    token = call(pb.ListRegisteredModelsRequest(project=project.name, page_size=1)).next_page_token
    assert token
    for request, other in (
        (pb.ListRegisteredModelsRequest(project="else", page_token=token), call),
        (pb.ListRegisteredModelsRequest(project=project.name, page_token="damaged"), call),
        (
            pb.ListServingEnvironmentsRequest(project=project.name, page_token=token),
            registry_stub.ListServingEnvironments,
        ),
    ):
        refused(INVALID, "PAGE_TOKEN_INVALID", other, request)


def test_a_list_that_makes_no_sense_is_refused_by_the_field(project, registry_stub) -> None:
    for request, field in (
        (pb.ListRegisteredModelsRequest(), "project"),
        (pb.ListRegisteredModelsRequest(project=project.name, page_size=-1), "page_size"),
    ):
        call = registry_stub.ListRegisteredModels
        assert refused(INVALID, "FIELD_INVALID", call, request).fields == [field]
