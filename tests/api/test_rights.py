"""Rights: each RPC by each role, and what a stream shows while rights change."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from grpc import StatusCode
from modelservice.v1 import model_service_pb2, registry_service_pb2, rollout_service_pb2
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1 import registry_service_pb2 as registry_pb
from modelservice.v1 import rollout_service_pb2 as rollouts_pb
from modelservice.v1.inference_service_pb2 import InferenceServiceSpec, RegisteredModelPredictor
from modelservice.v1.registry_pb2 import ModelVersion, RegisteredModel, ServingEnvironment

from server import followed_file
from server.adapters.kserve.identity import review_cache
from server.adapters.kserve.identity.identities import KubernetesIdentities
from server.adapters.kserve.identity.review_cache import FRESH_SECONDS
from server.adapters.kserve.identity.reviews import REVIEW_SECONDS
from server.control import authorizer
from server.control.authorizer import Authorizer, Verb
from server.control.call import Call
from server.control.watch_cache import ALL
from server.domain.caller import Access, BearerToken, Caller
from server.domain.errors import ClusterUnavailable
from server.domain.service.inference_service import ServiceKey
from tests.patience import PATIENCE_SECONDS
from tests.refusals import refusal_of
from tests.serving import Served, serving, settings

from .reflection_client import listed_services
from .registry_project import FILES, Project
from .requests import deploy, eventually, kinds, watching
from .token_files import Client, entry, identity

HERE, THERE = "team-a", "team-b"
ROLES = ("none", "viewer", "deployer", "admin")
# Those that act in a namespace; those of the registry act in a project.
SERVICES = {
    method.name
    for module in (model_service_pb2, rollout_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
REGISTRY = {
    method.name
    for method in registry_service_pb2.DESCRIPTOR.services_by_name["RegistryService"].methods
}
_numbers = itertools.count(1)

# By RPC: the least role that may call it in a namespace or project, and the request about a name.
# A registered model is deployed with a role in both.
Row = tuple[str, Callable[[str], Message]]
TABLE: dict[str, Row] = {
    "Deploy": ("deployer", lambda name: deploy(name, namespace=HERE)),
    "Get": ("viewer", lambda name: pb.GetRequest(namespace=HERE, name=name)),
    "List": ("viewer", lambda name: pb.ListRequest(namespace=HERE)),
    "Delete": ("deployer", lambda name: pb.DeleteRequest(namespace=HERE, name=name)),
    "WatchStatus": ("viewer", lambda name: pb.WatchStatusRequest(namespace=HERE, name=name)),
    "ListRevisions": (
        "viewer",
        lambda name: rollouts_pb.ListRevisionsRequest(namespace=HERE, name=name),
    ),
    "Rollback": (
        "deployer",
        lambda name: rollouts_pb.RollbackRequest(namespace=HERE, name=name, revision=1),
    ),
    "Stop": ("deployer", lambda name: rollouts_pb.StopRequest(namespace=HERE, name=name)),
    "Start": ("deployer", lambda name: rollouts_pb.StartRequest(namespace=HERE, name=name)),
    "CreateRegisteredModel": (
        "deployer",
        lambda name: registry_pb.CreateRegisteredModelRequest(
            model=RegisteredModel(project=HERE, name=f"{name}-{next(_numbers)}")
        ),
    ),
    "GetRegisteredModel": (
        "viewer",
        lambda name: registry_pb.GetRegisteredModelRequest(project=HERE, name=name),
    ),
    "ListRegisteredModels": (
        "viewer",
        lambda name: registry_pb.ListRegisteredModelsRequest(project=HERE),
    ),
    "UpdateRegisteredModel": (
        "deployer",
        lambda name: registry_pb.UpdateRegisteredModelRequest(
            model=RegisteredModel(project=HERE, name=name)
        ),
    ),
    "DeleteRegisteredModel": (
        "deployer",
        lambda name: registry_pb.DeleteRegisteredModelRequest(project=HERE, name=name),
    ),
    "CreateModelVersion": (
        "deployer",
        lambda name: registry_pb.CreateModelVersionRequest(
            version=ModelVersion(project=HERE, model=name, version="1", **FILES)
        ),
    ),
    "GetModelVersion": (
        "viewer",
        lambda name: registry_pb.GetModelVersionRequest(project=HERE, model=name, version="1"),
    ),
    "ListModelVersions": (
        "viewer",
        lambda name: registry_pb.ListModelVersionsRequest(project=HERE, model=name),
    ),
    "UpdateModelVersion": (
        "deployer",
        lambda name: registry_pb.UpdateModelVersionRequest(
            version=ModelVersion(project=HERE, model=name, version="1", **FILES)
        ),
    ),
    "DeleteModelVersion": (
        "deployer",
        lambda name: registry_pb.DeleteModelVersionRequest(project=HERE, model=name, version="1"),
    ),
    "CreateServingEnvironment": (
        "deployer",
        lambda name: registry_pb.CreateServingEnvironmentRequest(
            environment=ServingEnvironment(project=HERE, name=f"{name}-{next(_numbers)}")
        ),
    ),
    "GetServingEnvironment": (
        "viewer",
        lambda name: registry_pb.GetServingEnvironmentRequest(project=HERE, name=name),
    ),
    "ListServingEnvironments": (
        "viewer",
        lambda name: registry_pb.ListServingEnvironmentsRequest(project=HERE),
    ),
    "UpdateServingEnvironment": (
        "deployer",
        lambda name: registry_pb.UpdateServingEnvironmentRequest(
            environment=ServingEnvironment(project=HERE, name=name)
        ),
    ),
    "DeleteServingEnvironment": (
        "deployer",
        lambda name: registry_pb.DeleteServingEnvironmentRequest(project=HERE, name=name),
    ),
    "GetModelDeployment": (
        "viewer",
        lambda name: registry_pb.GetModelDeploymentRequest(project=HERE, id=name),
    ),
    "ListModelDeployments": (
        "viewer",
        lambda name: registry_pb.ListModelDeploymentsRequest(project=HERE),
    ),
}


class Answer(NamedTuple):
    """All that a caller gets of a call that failed; the code alone of one that did not."""

    code: StatusCode
    message: str = ""
    metadata: tuple[Any, ...] = ()


def answer(client: Client, method: str, request: Message) -> Answer:
    try:
        response = client.method(method)(request)
        if method == "WatchStatus":
            next(response)
            response.cancel()
        return Answer(StatusCode.OK)
    except grpc.RpcError as error:
        return Answer(error.code(), error.details(), tuple(error.trailing_metadata()))


class World:
    """A server with a file of tokens, in which tests write what they like."""

    def __init__(self, file: Path, served: Served, channel: grpc.Channel) -> None:
        self.served, self._file, self.channel = served, file, channel

    def write(self, *entries: str) -> None:
        self._file.write_text("".join([entry("root", **everything()), *entries]))

    def client(self, user: str) -> Client:
        return Client.of(self.channel, user)


def everything() -> dict[str, dict[str, str]]:
    return {"namespaces": {"*": "admin"}, "projects": {"*": "admin"}}


def in_role(role: str, where: str = HERE) -> str:
    given = {} if role == "none" else {where: role}
    return entry(f"{role}-{where}", namespaces=given, projects=given)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Its file is read often, and streams are checked often. `root` may do everything."""
    monkeypatch.setattr(followed_file, "EVERY_SECONDS", 0.02)
    monkeypatch.setattr(authorizer, "RECHECK", authorizer.RECHECK / 600)
    file = tmp_path / "tokens.toml"
    file.write_text("".join([entry("root", **everything()), *map(in_role, ROLES)]))
    made = settings(registry=f"sqlite:///{tmp_path}/registry.db", identity=identity(file))
    with serving(made) as served, grpc.insecure_channel(served.address) as channel:
        served.wait_until_synced()
        yield World(file, served, channel)


def test_the_table_has_every_rpc_that_is_served(world: World) -> None:
    served = [name for name in listed_services(world.channel) if name.startswith("modelservice.")]
    pool = descriptor_pool.Default()
    methods = [m for name in served for m in pool.FindServiceByName(name).methods]
    assert sorted(method.name for method in methods) == sorted(TABLE)
    assert TABLE.keys() == SERVICES | REGISTRY


def test_each_rpc_takes_the_role_that_the_table_says(world: World) -> None:
    root = world.client("root")
    Project(root.registry, HERE).model("kept")
    for role, (method, (least, request)) in itertools.product(ROLES, TABLE.items()):
        code = answer(world.client(f"{role}-{HERE}"), method, request("iris")).code
        allowed = ROLES.index(role) >= ROLES.index(least)
        assert (code is not StatusCode.PERMISSION_DENIED) == allowed, (method, role, code)
        assert code is not StatusCode.UNAUTHENTICATED


def test_a_caller_without_rights_learns_nothing_of_what_is_there(world: World) -> None:
    root = world.client("root")
    root.models.Deploy(deploy("there", namespace=HERE))
    project = Project(root.registry, HERE)
    project.model("there")
    project.version(model="there")
    project.environment("there")
    nobody = world.client(f"none-{HERE}")
    for method, (_, request) in TABLE.items():
        there, absent = (answer(nobody, method, request(name)) for name in ("there", "absent"))
        assert there == absent, method
        assert there.code is StatusCode.PERMISSION_DENIED


def test_a_role_in_one_namespace_gives_nothing_in_another(world: World) -> None:
    world.write(in_role("admin", THERE))
    there = world.client(f"admin-{THERE}")
    eventually_known(there)
    for method, (_, request) in TABLE.items():
        assert answer(there, method, request("iris")).code is StatusCode.PERMISSION_DENIED, method


def eventually_known(client: Client) -> None:
    """Wait until the server has read a file with the client's user."""
    request = pb.GetRequest(namespace="nowhere", name="n")
    eventually(
        "the user is known",
        lambda: answer(client, "Get", request).code is not StatusCode.UNAUTHENTICATED,
    )


def test_the_first_model_of_a_project_takes_the_right_to_create_it(world: World) -> None:
    deployer, admin = world.client(f"deployer-{HERE}"), world.client(f"admin-{HERE}")
    request = TABLE["CreateRegisteredModel"][1]
    refusal = answer(deployer, "CreateRegisteredModel", request("fraud"))
    assert refusal.code is StatusCode.PERMISSION_DENIED
    assert "may not create projects.registry.modelservice.dev 'team-a'" in refusal.message
    assert answer(admin, "CreateRegisteredModel", request("fraud")).code is StatusCode.OK
    assert answer(deployer, "CreateRegisteredModel", request("fraud")).code is StatusCode.OK


@pytest.mark.parametrize(
    ("namespaces", "projects", "lacks"),
    [
        ({HERE: "admin"}, {}, "may not get projects.registry.modelservice.dev 'team-a'"),
        ({}, {HERE: "viewer"}, "may not patch inferenceservices.serving.kserve.io"),
        ({HERE: "deployer"}, {HERE: "viewer"}, ""),
    ],
)
def test_a_deploy_from_the_registry_takes_rights_in_the_project_and_in_the_namespace(
    world: World, namespaces: dict[str, str], projects: dict[str, str], lacks: str
) -> None:
    world.write(entry("ci", namespaces=namespaces, projects=projects))
    project = Project(world.client("root").registry, HERE)
    project.model()
    project.version()
    project.environment(namespace=HERE)
    client = world.client("ci")
    eventually_known(client)
    names = RegisteredModelPredictor(project=HERE, model="fraud", environment="staging")
    request = pb.DeployRequest(name="fraud", spec=InferenceServiceSpec(registered_model=names))
    done = answer(client, "Deploy", request)
    expected = StatusCode.PERMISSION_DENIED if lacks else StatusCode.OK
    assert done.code is expected, done
    assert lacks in done.message
    if not lacks:
        listed = registry_pb.ListModelDeploymentsRequest(project=HERE)
        records = world.client("root").registry.ListModelDeployments(listed).deployments
        assert [record.caller for record in records] == ["ci"]


def test_a_refusal_names_the_user_the_right_and_the_namespace(world: World) -> None:
    viewer = world.client(f"viewer-{HERE}")
    with pytest.raises(grpc.RpcError) as raised:
        viewer.models.Deploy(deploy("iris", namespace=HERE))
    refusal = refusal_of(raised.value)
    assert refusal.reason == "PERMISSION_DENIED"
    assert refusal.message == (
        "the user 'viewer-team-a' may not patch inferenceservices.serving.kserve.io in the"
        " namespace 'team-a'; ask the operator of this server for the role deployer there"
        " (MODELSERVICE_TOKENS_FILE)"
    )
    assert refusal.metadata == {
        "user": "viewer-team-a",
        "verb": "patch",
        "resource": "inferenceservices.serving.kserve.io",
        "namespace": "team-a",
    }


def deploy_everywhere(world: World) -> None:
    for namespace, name in itertools.product((HERE, THERE), ("a", "b")):
        world.client("root").models.Deploy(deploy(name, namespace=namespace))


def test_a_list_of_all_namespaces_has_those_that_the_caller_may_list(world: World) -> None:
    deploy_everywhere(world)
    names, token, pages = [], "", 0
    viewer = world.client(f"viewer-{HERE}").models
    while pages == 0 or token:
        page = viewer.List(pb.ListRequest(namespace="-", page_size=1, page_token=token))
        names += [(each.namespace, each.name) for each in page.services]
        token, pages = page.next_page_token, pages + 1
        assert page.total_size == 2
    assert names == [(HERE, "a"), (HERE, "b")]
    selected = viewer.List(pb.ListRequest(namespace="-", label_selector="team!=x"))
    assert [each.namespace for each in selected.services] == [HERE, HERE]
    assert world.client("root").models.List(pb.ListRequest(namespace="-")).total_size == 4
    nobody = world.client(f"none-{HERE}")
    refused = answer(nobody, "List", pb.ListRequest(namespace="-"))
    assert refused.code is StatusCode.PERMISSION_DENIED


def test_a_page_token_of_another_caller_shows_no_more_than_its_own_rights(world: World) -> None:
    deploy_everywhere(world)
    first = world.client("root").models.List(pb.ListRequest(namespace="-", page_size=1))
    request = pb.ListRequest(namespace="-", page_token=first.next_page_token)
    rest = world.client(f"viewer-{HERE}").models.List(request)
    assert [(each.namespace, each.name) for each in rest.services] == [(HERE, "b")]


def test_a_watch_of_all_namespaces_shows_those_that_the_caller_may_watch(world: World) -> None:
    deploy_everywhere(world)
    root = world.client("root").models
    with watching(world.client(f"viewer-{HERE}").models, namespace="-") as stream:
        assert kinds(stream.take(3)) == ["SNAPSHOT", "SNAPSHOT", "SYNCED"]
        root.Deploy(deploy("c", namespace=THERE))
        root.Delete(pb.DeleteRequest(namespace=THERE, name="a"))
        root.Deploy(deploy("c", namespace="team-c"))
        root.Deploy(deploy("c", namespace=HERE))
        changed = stream.next()
        assert (kinds([changed]), changed.service.namespace) == (["CHANGED"], HERE)


@pytest.mark.parametrize("others", [(), (THERE,)], ids=["only", "another"])
def test_a_watch_of_all_namespaces_outlives_the_last_service_of_one(
    world: World, others: tuple[str, ...]
) -> None:
    """The service goes while the rights are checked."""
    root = world.client("root").models
    for namespace in (HERE, *others):
        root.Deploy(deploy("a", namespace=namespace))
    root.Delete(pb.DeleteRequest(namespace=HERE, name="a"))
    world.write(entry("ci", namespaces=dict.fromkeys((HERE, *others), "viewer")))
    client = world.client("ci")
    eventually_known(client)
    identities = world.served.application.identities
    allows, checking, goes_on = identities.allows, threading.Event(), threading.Event()

    async def slowly(caller: Any, access: Any, *, fresh: bool = False) -> bool:
        if fresh and caller.name == "ci":
            checking.set()
            ends = time.monotonic() + 5
            while not goes_on.is_set() and time.monotonic() < ends:
                await asyncio.sleep(0.01)
        return await allows(caller, access, fresh=fresh)

    with watching(client.models, namespace="-") as stream:
        shown = stream.take(2 + len(others))
        assert kinds(shown) == ["SNAPSHOT"] * (1 + len(others)) + ["SYNCED"]
        identities.allows = slowly
        assert checking.wait(PATIENCE_SECONDS)
        world.served.memory.finish_delete(ServiceKey(HERE, "a"))
        eventually(
            "the service is gone",
            lambda: not root.List(pb.ListRequest(namespace=HERE)).services,
        )
        goes_on.set()
        deleted = stream.next()
        assert (kinds([deleted]), deleted.service.namespace) == (["DELETED"], HERE)
        # Some checks later.
        time.sleep(4 * authorizer.RECHECK.total_seconds())
        root.Deploy(deploy("b", namespace=HERE))
        changed = stream.next()
        assert (kinds([changed]), changed.service.name) == (["CHANGED"], "b")


class Reviews:
    """A double of reviews by the API server: `root` may do everything, `ann` all in one namespace.
    While it is away, they have no answer."""

    def __init__(self) -> None:
        self.away = False
        self.unanswered = 0

    async def caller_of(self, token: BearerToken) -> Caller:
        return Caller(token.reveal())

    async def allows(self, caller: Caller, access: Access) -> bool:
        if self.away:
            self.unanswered += 1
            raise ClusterUnavailable("away")
        return caller.name == "root" or (caller.name == "ann" and access.namespace == HERE)


def test_while_the_api_server_is_away_known_callers_read_on_in_all_their_namespaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(authorizer, "RECHECK", authorizer.RECHECK / 600)
    for name in ("ALLOWED_SECONDS", "DENIED_SECONDS", "FRESH_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(review_cache, name, 0.0)
    reviews: Any = Reviews()
    identities = KubernetesIdentities(reviews, "modelservice", timedelta(hours=1))
    request = pb.ListRequest(namespace="-")
    with (
        serving(settings(), identities=identities) as served,
        grpc.insecure_channel(served.address) as channel,
    ):
        served.wait_until_synced()
        root, ann, nobody = (Client(channel, f"Bearer {name}") for name in ("root", "ann", "joe"))
        for namespace in (HERE, THERE):
            root.models.Deploy(deploy("a", namespace=namespace))
        assert ann.models.List(request).total_size == 1
        assert answer(nobody, "List", request).code is StatusCode.PERMISSION_DENIED
        with watching(ann.models, namespace="-") as stream:
            assert kinds(stream.take(2)) == ["SNAPSHOT", "SYNCED"]
            reviews.away = True
            assert ann.models.List(request).total_size == 1
            assert answer(nobody, "List", request).code is StatusCode.UNAVAILABLE
            # Some checks later.
            before = reviews.unanswered
            eventually("the stream is checked", lambda: reviews.unanswered > before + 20)
            root.models.Deploy(deploy("a", "example.org/model:2", namespace=THERE))
            root.models.Deploy(deploy("a", "example.org/model:2", namespace=HERE))
            changed = stream.next()
            assert (kinds([changed]), changed.service.namespace) == (["CHANGED"], HERE)


async def test_a_namespace_without_services_is_asked_about_until_it_is_denied() -> None:
    allowed, asked = {HERE, THERE}, list[str]()

    class Rights:
        async def allows(self, caller: Caller, access: Access, *, fresh: bool = False) -> bool:
            asked.append(access.namespace)
            return access.namespace in allowed

    rights: Any = Rights()
    namespaces = [HERE, THERE]
    coverage = await Authorizer("default", identities=rights).coverage(
        Call(), Verb.WATCH, ServiceKey(ALL, ""), lambda: namespaces
    )
    namespaces.clear()
    for _ in range(2):
        asked.clear()
        assert not await coverage.renew()
        assert asked == ["", "default", HERE, THERE]
    allowed.remove(THERE)
    assert await coverage.renew() == {THERE}
    asked.clear()
    assert not await coverage.renew()
    assert asked == ["", "default", HERE]


def test_a_caller_whose_namespaces_have_no_services_yet_sees_the_first_one(world: World) -> None:
    deploy_everywhere(world)
    world.write(entry("ci", namespaces={"team-z": "viewer"}))
    client = world.client("ci")
    eventually_known(client)
    assert client.models.List(pb.ListRequest(namespace="-")).total_size == 0
    with watching(client.models, namespace="-") as stream:
        assert kinds(stream.take(1)) == ["SYNCED"]
        # Some checks later.
        time.sleep(4 * authorizer.RECHECK.total_seconds())
        world.client("root").models.Deploy(deploy("c", namespace=THERE))
        world.client("root").models.Deploy(deploy("first", namespace="team-z"))
        changed = stream.next()
        assert (kinds([changed]), changed.service.name) == (["CHANGED"], "first")
        world.write(entry("ci"))
        _, error = stream.rest()
    assert error
    assert error.code() is StatusCode.PERMISSION_DENIED


def test_services_that_a_watch_no_longer_covers_are_left_and_new_ones_come(world: World) -> None:
    deploy_everywhere(world)

    def write(*namespaces: str) -> None:
        world.write(entry("ci", namespaces=dict.fromkeys(namespaces, "viewer")))

    write(HERE, THERE)
    client = world.client("ci")
    eventually_known(client)
    with watching(client.models, namespace="-") as stream:
        assert kinds(stream.take(5)) == ["SNAPSHOT"] * 4 + ["SYNCED"]
        write(HERE)
        left = stream.take(2)
        assert kinds(left) == ["LEFT", "LEFT"]
        assert {each.service.namespace for each in left} == {THERE}
        world.client("root").models.Deploy(deploy("a", "example.org/model:2", namespace=THERE))
        write(HERE, THERE)
        back = stream.take(2)
        assert kinds(back) == ["CHANGED", "CHANGED"]
        assert [(each.service.namespace, each.service.name) for each in back] == [
            (THERE, "a"),
            (THERE, "b"),
        ]
        write()
        rest, error = stream.rest()
    assert error
    assert error.code() is StatusCode.PERMISSION_DENIED
    assert set(kinds(rest)) <= {"LEFT"}


def test_a_watch_of_a_namespace_ends_with_the_right_to_watch_it(world: World) -> None:
    deploy_everywhere(world)
    viewer = world.client(f"viewer-{HERE}").models
    with watching(viewer, namespace=HERE) as stream:
        assert kinds(stream.take(3)) == ["SNAPSHOT", "SNAPSHOT", "SYNCED"]
        world.write(entry(f"viewer-{HERE}", namespaces={THERE: "viewer"}))
        rest, error = stream.rest()
    assert error
    refusal = refusal_of(error)
    assert (refusal.code, refusal.reason) == (StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert not rest


def test_an_open_stream_relies_on_no_review_for_over_a_minute() -> None:
    """Checks begin with those that have ended, and take the time of their reviews."""
    oldest = authorizer.RECHECK.total_seconds() + FRESH_SECONDS + 2 * REVIEW_SECONDS
    assert oldest < 60


def test_a_watch_ends_with_its_token(world: World) -> None:
    deploy_everywhere(world)
    with watching(world.client(f"viewer-{HERE}").models, namespace=HERE, name="a") as stream:
        assert kinds(stream.take(2)) == ["SNAPSHOT", "SYNCED"]
        world.write()
        rest, error = stream.rest()
    assert error
    assert refusal_of(error).reason == "UNAUTHENTICATED"
    assert not rest


def test_a_watch_that_resumes_with_other_rights_begins_anew(world: World) -> None:
    deploy_everywhere(world)
    root, viewer = world.client("root").models, world.client(f"viewer-{HERE}").models
    with watching(root, namespace="-") as stream:
        wide = stream.take(5)[-1].resume_token
    with watching(viewer, namespace="-") as stream:
        narrow = stream.take(3)[-1].resume_token
    root.Delete(pb.DeleteRequest(namespace=THERE, name="a"))
    root.Deploy(deploy("b", "example.org/model:2", namespace=HERE))
    with watching(viewer, namespace="-", resume_token=wide) as stream:
        shown = stream.take(4)
        assert kinds(shown) == ["RESET", "SNAPSHOT", "SNAPSHOT", "SYNCED"]
        assert {each.service.namespace for each in shown if each.service.name} == {HERE}
    with watching(viewer, namespace="-", resume_token=narrow) as stream:
        shown = stream.take(2)
        assert kinds(shown) == ["CHANGED", "SYNCED"]
        assert shown[0].service.name == "b"


def test_an_update_takes_no_right_to_create_and_a_creation_does(world: World) -> None:
    """With the rights of Kubernetes, which the roles of files do not tell apart."""
    denied = authorizer.Access("create", authorizer.Resource.SERVICES, HERE)
    world.client("root").models.Deploy(deploy("there", namespace=HERE))
    identities = world.served.application.identities
    allows = identities.allows

    async def without_create(caller: Any, access: Any, *, fresh: bool = False) -> bool:
        return access != denied and await allows(caller, access, fresh=fresh)

    identities.allows = without_create
    root = world.client("root")
    update = deploy("there", "example.org/model:2", namespace=HERE)
    assert answer(root, "Deploy", update).code is StatusCode.OK
    refusal = answer(root, "Deploy", deploy("absent", namespace=HERE))
    assert refusal.code is StatusCode.PERMISSION_DENIED
    assert "may not create inferenceservices.serving.kserve.io" in refusal.message
    assert world.served.awaited(world.served.memory.read(ServiceKey(HERE, "absent"))) is None
