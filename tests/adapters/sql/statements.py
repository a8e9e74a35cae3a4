"""What tests of a database's faults ask of a registry, and how long an answer may take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from server.domain.registry.registered import RegisteredModel
from server.domain.registry.registry_errors import RegistryUnavailable
from server.ports import Registry
from tests.contracts.registry_things import model, new_project, stored
from tests.patience import PATIENCE_SECONDS

AIM_SECONDS = 2.0
AT_MOST_SECONDS = 10 * AIM_SECONDS
# Of a registry that knows that its database is away: it does not wait for another silence.
AT_ONCE_SECONDS = 0.9 * AIM_SECONDS


@contextmanager
def refused(match: str, within: float = AT_MOST_SECONDS) -> Iterator[None]:
    """RegistryUnavailable, which says this, and in time."""
    began = time.monotonic()
    with pytest.raises(RegistryUnavailable, match=match) as caught:
        yield
    assert time.monotonic() - began < within
    assert "secret" not in str(caught.value)


async def add(registry: Registry) -> RegisteredModel:
    """A model that is stored."""
    added = model(new_project())
    await stored(registry, added)
    return added


async def add_until_refused(registry: Registry, told: list[RegisteredModel]) -> None:
    """At most as many as would fill the whole disk."""
    for _ in range(1000):
        large = model(new_project(), description="x" * 5000)
        await stored(registry, large)
        told.append(large)


async def has(registry: Registry, thing: RegisteredModel) -> bool:
    """Whether the registry has it."""
    found = await registry.read(lambda reading: reading.model(thing.key))
    return found == thing


async def healed(registry: Registry) -> None:
    """Returns once the registry is back, by itself, and can be written."""
    await until(registry.reachable, "the registry is back")
    assert await has(registry, await add(registry))


async def until(holds: Callable[[], Any], what: str) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS:.0f} s: {what}"
        await asyncio.sleep(0.01)


async def answer(call: Awaitable[Any]) -> Any:
    """What came of it, an error too; never later than a caller waits."""
    try:
        return await asyncio.wait_for(call, AT_MOST_SECONDS)
    except RegistryUnavailable as e:
        return e
