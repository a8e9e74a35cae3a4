"""Every method of control knows its call, and nothing is written before the call is authorized."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace

import pytest

from server.control.authorizer import Authorizer, ReservedNamespaces
from server.control.call import Call
from server.control.deploy import Deployer
from server.control.read import Reader
from server.control.registry.deployments import Deployments
from server.control.registry.environments import Environments
from server.control.registry.models import Models
from server.control.registry.versions import Versions
from server.control.registry_deploy import RegistryDeployer
from server.control.watch import Watcher
from server.deadline import Deadline
from server.domain.caller import Caller
from server.domain.errors import ConcurrentWrite, NamespaceNotServed, ReservedNamespace
from server.ports import RegistryReading
from tests.control.registry_control import Registering
from tests.control.registry_world import FailingRegistry, RegistryWorld, Result

SERVICES = [
    Deployer,
    RegistryDeployer,
    Reader,
    Watcher,
    Models,
    Versions,
    Environments,
    Deployments,
]


@pytest.fixture
async def world(registering: Registering) -> AsyncIterator[RegistryWorld]:
    async with RegistryWorld(registering).followed() as world:
        yield world


@pytest.mark.parametrize("service", SERVICES)
def test_every_method_takes_its_call_first(service: type) -> None:
    methods = {
        name: list(inspect.signature(method).parameters.values())
        for name, method in inspect.getmembers(service, inspect.isfunction)
        if not name.startswith("_")
    }
    assert methods
    for name, (_, first, *_) in methods.items():
        assert (first.name, first.annotation) == ("call", "Call"), name


async def no_write() -> None:
    raise AssertionError("the registry was written to before the call was authorized")


@pytest.mark.parametrize(
    ("authorizer", "refusal"),
    [
        (Authorizer("elsewhere", frozenset({"elsewhere"})), NamespaceNotServed),
        (
            Authorizer("elsewhere", reserved=ReservedNamespaces(frozenset({"platform"}))),
            ReservedNamespace,
        ),
    ],
    ids=["not served", "reserved"],
)
async def test_a_registered_deploy_is_authorized_before_anything_is_written(
    world: RegistryWorld, authorizer: Authorizer, refusal: type[Exception]
) -> None:
    world.namespace = "platform"
    await world.prepare("1")
    world.registry = FailingRegistry(world.registering.registry, 0, no_write)
    world.authorizer = authorizer
    with pytest.raises(refusal):
        await world.deploy()


class ChangedAfterFirstRead(FailingRegistry):
    """A registry in which `change` happens right after the first read."""

    def __init__(self, world: RegistryWorld, change: Callable[[], Awaitable[None]]) -> None:
        super().__init__(world.registering.registry, 99, no_write)
        self.change: Callable[[], Awaitable[None]] | None = change

    async def read(self, work: Callable[[RegistryReading], Awaitable[Result]]) -> Result:
        result = await super().read(work)
        if change := self.change:
            self.change = None
            await change()
        return result


async def test_an_environment_made_anew_after_the_authorization_gets_nothing(
    world: RegistryWorld,
) -> None:
    await world.prepare("1")
    control = world.registering

    async def make_anew() -> None:
        environment = control.environment()
        await control.environments.delete(Call(), environment, etag="", allow_missing=False)
        await control.new_environment(namespace="unauthorized")

    world.registry = ChangedAfterFirstRead(world, make_anew)
    with pytest.raises(ConcurrentWrite, match="try again"):
        await world.deploy()
    assert await world.records() == []
    assert (await world.deploy()).service.key.namespace == "unauthorized"


async def test_the_record_of_a_deploy_has_the_callers_name(world: RegistryWorld) -> None:
    await world.prepare("1")
    world.call = Call(Caller("trainer@risk"))
    await world.deploy()
    assert [record.caller for record in await world.records()] == ["trainer@risk"]


@pytest.mark.parametrize(
    ("left", "expected"), [(None, 30), (3600, 30), (10, 9.7), (0.4, 0.2), (-1, 0)]
)
def test_the_cluster_may_take_until_shortly_before_the_deadline(
    left: float | None, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.deadline.time", SimpleNamespace(monotonic=lambda: 1000.0))
    seconds = Call(deadline=Deadline.after(left)).write_deadline().left()
    assert seconds == pytest.approx(expected)
