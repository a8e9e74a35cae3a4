"""Models, versions and environments are changed by the registry's rules, whatever is stored."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta

import pytest

from server.control.call import Call
from server.domain.errors import AlreadyExists, EtagMismatch, FieldInvalid, ServiceError
from server.domain.registry.registered import VersionState
from server.domain.registry.registry_commands import Change, ModelContent, VersionContent
from server.domain.registry.registry_errors import (
    EnvironmentNamespaceFixed,
    EnvironmentNotFound,
    ModelNotFound,
    VersionArchived,
    VersionNotFound,
    VersionNotReady,
)
from server.domain.service.inference_service import ModelFormat, Resources, Scaling, ServingOptions
from tests.control.registry_control import FILES, Registering

PENDING, READY, ARCHIVED = VersionState.PENDING, VersionState.READY, VersionState.ARCHIVED


async def paths_of(call: Awaitable[object]) -> list[str]:
    """The paths for which a call is refused."""
    with pytest.raises(FieldInvalid) as refusal:
        await call
    return [violation.path for violation in refusal.value.violations]


async def test_what_is_registered_is_read_back_as_it_was_answered(registering: Registering) -> None:
    model = await registering.new_model(description="who pays?", labels={"team": "risk"})
    version = await registering.new_version(metadata={"auc": 0.97, "of": [{"commit": None}]})
    options = ServingOptions(scaling=Scaling(min_replicas=0), request_timeout=timedelta(seconds=5))
    environment = await registering.new_environment(defaults=options)
    assert await registering.models.get(Call(), registering.model()) == model
    assert await registering.versions.get(Call(), registering.version()) == version
    assert await registering.environments.get(Call(), registering.environment()) == environment
    assert environment.defaults == options


async def test_a_name_is_taken_once_in_a_project(registering: Registering) -> None:
    other = Registering(registering.registry)
    for project in (registering, other):
        await project.new_model()
        await project.new_version()
        await project.new_environment()
    for again in (
        registering.new_model(),
        registering.new_version(),
        registering.new_environment(),
    ):
        with pytest.raises(AlreadyExists, match="exists already"):
            await again


async def test_what_nobody_registered_is_not_found(registering: Registering) -> None:
    with pytest.raises(ModelNotFound, match="there is no model 'fraud' of project"):
        await registering.models.get(Call(), registering.model())
    with pytest.raises(ModelNotFound):
        await registering.new_version()
    with pytest.raises(ModelNotFound):
        await registering.versions.get(Call(), registering.version())
    with pytest.raises(ModelNotFound):
        await registering.versions.list(Call(), registering.model(), 10, "")
    with pytest.raises(EnvironmentNotFound):
        await registering.environments.get(Call(), registering.environment())
    await registering.new_model()
    with pytest.raises(VersionNotFound):
        await registering.versions.get(Call(), registering.version())


async def test_nothing_is_read_across_projects(registering: Registering) -> None:
    other = Registering(registering.registry)
    await other.new_model()
    with pytest.raises(ModelNotFound):
        await registering.models.get(Call(), registering.model())
    assert not (await registering.models.list(Call(), registering.project, 10, "")).items


async def test_an_id_is_never_used_again(registering: Registering) -> None:
    first = await registering.new_model()
    await registering.models.delete(Call(), registering.model(), etag="", allow_missing=False)
    assert (await registering.new_model()).id != first.id


async def test_a_version_is_ready_unless_it_is_said_to_be_pending(registering: Registering) -> None:
    await registering.new_model()
    assert (await registering.new_version("1")).state is READY
    assert (await registering.new_version("2", state=PENDING)).state is PENDING


async def test_a_default_version_is_one_that_is_ready(registering: Registering) -> None:
    assert await paths_of(registering.new_model(default_version="1")) == ["model.default_version"]
    await registering.new_model()
    with pytest.raises(VersionNotFound):
        await registering.change_model(default_version="1")
    await registering.new_version("1", state=PENDING)
    with pytest.raises(VersionNotReady):
        await registering.change_model(default_version="1")
    await registering.change_version(state=READY)
    assert (await registering.change_model(default_version="1")).default_version == "1"
    await registering.new_version("2")
    await registering.archive("2")
    with pytest.raises(VersionArchived):
        await registering.change_model(default_version="2")
    kept = await registering.models.get(Call(), registering.model())
    assert kept.default_version == "1"


@pytest.mark.parametrize("ending", ["archive", "delete"])
async def test_a_default_version_that_goes_leaves_the_model_without_one(
    registering: Registering, ending: str
) -> None:
    await registering.new_model()
    await registering.new_version("1")
    await registering.new_version("2")
    before = await registering.change_model(default_version="1")
    for version in ("2", "1"):
        if ending == "archive":
            await registering.archive(version)
        else:
            key = registering.version(version)
            await registering.versions.delete(Call(), key, etag="", allow_missing=False)
        default = (await registering.models.get(Call(), registering.model())).default_version
        assert default == ("1" if version == "2" else "")
    after = await registering.models.get(Call(), registering.model())
    assert after.etag != before.etag
    assert after.update_time >= before.update_time
    with pytest.raises(EtagMismatch):
        await registering.change_model(description="x", etag=before.etag)


async def test_a_default_version_is_cleared_by_an_empty_one(registering: Registering) -> None:
    await registering.new_model()
    await registering.new_version()
    await registering.change_model(default_version="1")
    assert (await registering.change_model(description="x")).default_version == "1"
    assert (await registering.change_model("default_version")).default_version == ""


@pytest.mark.parametrize(
    ("begun", "moves"),
    [
        (PENDING, [READY, ARCHIVED, READY, READY]),
        (PENDING, [PENDING, ARCHIVED, READY]),
        (READY, [ARCHIVED, ARCHIVED, READY]),
        (ARCHIVED, [READY]),
    ],
)
async def test_a_version_moves_between_its_states(
    registering: Registering, begun: VersionState, moves: list[VersionState]
) -> None:
    await registering.new_model()
    await registering.new_version(state=begun)
    for state in moves:
        assert (await registering.change_version(state=state)).state is state
    assert await paths_of(registering.change_version(state=PENDING)) == ["version.state"]


async def test_an_unset_state_stays_under_a_mask_of_everything(registering: Registering) -> None:
    await registering.new_model()
    await registering.new_version(state=PENDING)
    change = Change(replace(FILES, description="x"), ("*",))
    after = await registering.versions.update(Call(), registering.version(), change)
    assert (after.state, after.description) == (PENDING, "x")


async def test_an_artifact_changes_while_its_version_is_pending_only(
    registering: Registering,
) -> None:
    await registering.new_model()
    await registering.new_version(state=PENDING)
    moved = await registering.change_version(storage_uri="s3://other")
    assert moved.storage_uri == "s3://other"
    imaged = await registering.change_version(image="fraud:1")
    assert (imaged.storage_uri, imaged.image, imaged.format) == ("", "fraud:1", None)
    assert await paths_of(registering.change_version(storage_uri="s3://a")) == ["version.format"]
    assert await paths_of(registering.change_version("image")) == ["version.artifact"]
    # The last change of it may be the one that makes it READY.
    ready = await registering.change_version(
        storage_uri="s3://a", format=ModelFormat("onnx", "1"), state=READY
    )
    assert (ready.image, ready.state) == ("", READY)
    for change in ({"storage_uri": "s3://b"}, {"image": "fraud:2"}):
        path = f"version.{next(iter(change))}"
        assert await paths_of(registering.change_version(**change)) == [path]
    assert await paths_of(registering.change_version(format=ModelFormat("onnx"))) == [
        "version.format"
    ]
    assert await registering.change_version("*") == ready
    assert await registering.versions.get(Call(), registering.version()) == ready


async def test_an_environment_keeps_its_namespace(registering: Registering) -> None:
    own = await registering.new_environment("staging")
    other = await registering.new_environment("live", namespace="risk-live")
    assert (own.namespace, other.namespace) == ("staging", "risk-live")
    for mask in ((), ("*",), ("namespace",)):
        with pytest.raises(EnvironmentNamespaceFixed, match="never changes"):
            await registering.change_environment(*mask, namespace="risk-live", description="x")
        same = await registering.change_environment(*mask, namespace="staging", description="x")
        assert same.namespace == "staging"
    with pytest.raises(EnvironmentNamespaceFixed):
        await registering.change_environment("namespace")
    assert (await registering.change_environment("*")).namespace == "staging"


async def test_an_environments_defaults_are_kept_as_they_will_be_deployed(
    registering: Registering,
) -> None:
    given = ServingOptions(
        resources=Resources({"cpu": "1000m"}, {"memory": "1024Mi"}), deployment_mode="RawDeployment"
    )
    kept = ServingOptions(
        resources=Resources({"cpu": "1"}, {"memory": "1Gi"}), deployment_mode="Standard"
    )
    made = await registering.new_environment(defaults=given)
    assert made.defaults == kept
    assert await registering.change_environment(defaults=given) == made


async def test_a_change_takes_what_its_mask_names(registering: Registering) -> None:
    await registering.new_model(description="old", labels={"team": "risk"})
    given = {"description": "new", "labels": {"tier": "1"}}
    assert (await registering.change_model("labels", **given)).description == "old"
    assert (await registering.change_model(description="new")).labels == {"tier": "1"}
    emptied = await registering.change_model("labels", description="newer")
    assert (emptied.description, emptied.labels) == ("new", {})
    cleared = await registering.change_model("*")
    assert (cleared.description, cleared.labels) == ("", {})


async def test_a_change_that_changes_nothing_leaves_all_as_it_is(registering: Registering) -> None:
    model = await registering.new_model(description="as it is")
    version = await registering.new_version(metadata={"auc": 1.0})
    environment = await registering.new_environment()
    assert await registering.change_model(description="as it is") == model
    assert await registering.change_model() == model
    assert await registering.change_version("metadata", metadata={"auc": 1.0}) == version
    assert await registering.change_environment("*") == environment


async def test_only_the_last_etag_writes(registering: Registering) -> None:
    stale = (await registering.new_model()).etag
    fresh = (await registering.change_model(description="x", etag=stale)).etag
    with pytest.raises(EtagMismatch, match="has changed since its etag was read"):
        await registering.change_model(description="y", etag=stale)
    with pytest.raises(EtagMismatch):
        await registering.models.delete(Call(), registering.model(), etag=stale, allow_missing=True)
    await registering.models.delete(Call(), registering.model(), etag=fresh, allow_missing=False)


async def test_a_refused_change_stores_nothing(registering: Registering) -> None:
    model = await registering.new_model()
    version = await registering.new_version()
    bad = VersionContent(description="fine", labels={"a b": ""})
    with pytest.raises(FieldInvalid):
        await registering.versions.update(Call(), registering.version(), Change(bad))
    with pytest.raises(ServiceError):
        await registering.change_model(description="fine", default_version="none")
    assert await registering.models.get(Call(), registering.model()) == model
    assert await registering.versions.get(Call(), registering.version()) == version


async def test_allow_missing_lets_an_absent_resource_be_deleted(registering: Registering) -> None:
    for parts, key, missing in (
        (registering.models, registering.model(), ModelNotFound),
        (registering.versions, registering.version(), ModelNotFound),
        (registering.environments, registering.environment(), EnvironmentNotFound),
    ):
        with pytest.raises(missing):
            await parts.delete(Call(), key, etag="", allow_missing=False)
        await parts.delete(Call(), key, etag="", allow_missing=True)
    await registering.new_model()
    await registering.versions.delete(Call(), registering.version(), etag="", allow_missing=True)
    with pytest.raises(VersionNotFound):
        await registering.versions.delete(
            Call(), registering.version(), etag="", allow_missing=False
        )


async def test_a_deleted_model_takes_its_versions_along(registering: Registering) -> None:
    await registering.new_model()
    await registering.new_version()
    await registering.models.delete(Call(), registering.model(), etag="", allow_missing=False)
    await registering.models.create(Call(), registering.model(), ModelContent())
    with pytest.raises(VersionNotFound):
        await registering.versions.get(Call(), registering.version())
