"""Concurrent writes, also from two servers, keep the promises of the registry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

import pytest

from server.adapters.sql.factory import opened_registry
from server.control.call import Call
from server.domain.errors import EtagMismatch, ServiceError
from server.domain.registry.deployment import ModelDeployment
from server.domain.registry.registered import ModelVersion, RegisteredModel, VersionState
from server.domain.registry.registry_errors import (
    InUse,
    ModelNotFound,
    RegistryUnavailable,
    VersionArchived,
    VersionNotFound,
)
from server.ports import RegistryReading
from tests.control.registry_control import Registering

ROUNDS = 25

Pair = tuple[Registering, Registering]


@pytest.fixture
async def servers(patient_url: str) -> AsyncIterator[Pair]:
    """Two servers on one database."""
    async with opened_registry(patient_url) as one, opened_registry(patient_url) as other:
        first = Registering(one)
        yield first, Registering(other, first.project)


async def together(*calls: Awaitable[Any]) -> list[type[Any]]:
    """What each call came to: its answer's type, or its refusal's."""
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, ServiceError):
            raise outcome
        # Under load other transactions may conflict for too long.
        assert not isinstance(outcome, RegistryUnavailable) or "nothing was stored" in str(outcome)
    return [type(outcome) for outcome in outcomes]


async def test_a_default_that_is_archived_or_deleted_as_it_is_set_is_cleared_or_refused(
    servers: Pair,
) -> None:
    one, other = servers
    outcomes: set[type[Any]] = set()
    await one.new_model()
    for number in range(ROUNDS):
        version = f"v{number}"
        await one.new_version(version)
        key = one.version(version)
        ending: Awaitable[Any] = (
            other.archive(version)
            if number % 2
            else other.versions.delete(Call(), key, etag="", allow_missing=False)
        )
        calls = (one.change_model(default_version=version), ending)
        outcomes |= set(await together(*(calls if number % 3 else calls[::-1])))
        await require_ready_default(one)
    assert outcomes <= {
        RegisteredModel,
        ModelVersion,
        type(None),
        VersionArchived,
        VersionNotFound,
        RegistryUnavailable,
    }


async def require_ready_default(registering: Registering) -> None:
    default = (await registering.models.get(Call(), registering.model())).default_version
    if default:
        version = await registering.versions.get(Call(), registering.version(default))
        assert version.state is VersionState.READY


async def test_a_version_that_is_added_as_its_model_is_deleted_goes_with_it(servers: Pair) -> None:
    one, other = servers
    for number in range(ROUNDS):
        await one.new_model()
        adding, deleting = (
            other.new_version(),
            one.models.delete(Call(), one.model(), etag="", allow_missing=False),
        )
        await together(*((adding, deleting) if number % 2 else (deleting, adding)))
        await one.models.delete(Call(), one.model(), etag="", allow_missing=True)
        # A version that was left would be in the new model's way.
        await one.new_model()
        await one.new_version()
        await one.models.delete(Call(), one.model(), etag="", allow_missing=False)


async def test_of_many_changes_with_one_etag_one_is_written(servers: Pair) -> None:
    one, other = servers
    model = await one.new_model()
    for _ in range(ROUNDS):
        changes = [
            server.change_model(description=f"of {server_number} {number}", etag=model.etag)
            for server_number, server in enumerate((one, other))
            for number in range(3)
        ]
        outcomes = await together(*changes)
        assert outcomes.count(type(model)) == 1
        assert set(outcomes) <= {type(model), EtagMismatch, RegistryUnavailable}
        model = await one.models.get(Call(), one.model())
        model = await one.change_model("description", description="", etag=model.etag)


async def test_what_is_deleted_as_it_is_deployed_is_in_use_or_not_found(servers: Pair) -> None:
    one, other = servers
    environment = await one.new_environment()
    outcomes: set[type[Any]] = set()
    for number in range(ROUNDS):
        await one.new_model()
        version = await one.new_version()

        deploying = other.deployed(version.key, environment.key)
        deleting: Awaitable[None] = (
            one.versions.delete(Call(), version.key, etag="", allow_missing=False)
            if number % 2
            else one.models.delete(Call(), one.model(), etag="", allow_missing=False)
        )
        calls = (deploying, deleting) if number % 3 else (deleting, deploying)
        outcomes |= set(await together(*calls))
        for record in await open_records(one):
            # What it runs is still there.
            assert (await one.versions.get(Call(), version.key)).id == record.version_id
            await one.undeployed(record)
        await one.models.delete(Call(), one.model(), etag="", allow_missing=True)
    assert outcomes <= {
        ModelDeployment,
        type(None),
        InUse,
        ModelNotFound,
        VersionNotFound,
        RegistryUnavailable,
    }


async def open_records(registering: Registering) -> Sequence[ModelDeployment]:
    async def work(tx: RegistryReading) -> Sequence[ModelDeployment]:
        return await tx.open_deployments()

    return await registering.registry.read(work)
