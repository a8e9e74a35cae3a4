"""What the registry's suite stores: with every field set, or as hypothesis draws it."""

from __future__ import annotations

import itertools
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from hypothesis import strategies as st

from server.domain.registry.deployment import DeploymentState, DesiredState, ModelDeployment
from server.domain.registry.registered import (
    EnvironmentKey,
    ModelKey,
    ModelVersion,
    Registered,
    RegisteredModel,
    ServingEnvironment,
    VersionKey,
    VersionState,
)
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import Failure
from server.domain.service.inference_service import (
    InferenceServiceSpec,
    ModelFormat,
    ServiceKey,
    ServingOptions,
)
from server.ports import Registry
from tests import strategies

NOW = datetime(2026, 11, 22, 12, 0, 0, 123456, tzinfo=UTC)
FEW = 40  # examples, each of which takes some transactions

_projects = itertools.count(1)


def new_project() -> str:
    """A project that no other test has."""
    return f"project-{next(_projects)}"


def model(project: str, name: str = "fraud", **given: Any) -> RegisteredModel:
    return RegisteredModel(ModelKey(project, name), str(uuid4()), **_times(given))


def version(of: RegisteredModel, name: str = "1", **given: Any) -> ModelVersion:
    return ModelVersion(VersionKey(*of.key, name), str(uuid4()), **_times(given))


def environment(project: str, name: str = "staging", **given: Any) -> ServingEnvironment:
    given = {"namespace": name} | given
    return ServingEnvironment(EnvironmentKey(project, name), str(uuid4()), **_times(given))


def deployment(project: str, **given: Any) -> ModelDeployment:
    names = {
        "model": "fraud",
        "version": "1",
        "environment": "staging",
        "model_id": "m",
        "version_id": "v",
        "environment_id": "e",
        "service": ServiceKey("staging", "fraud-staging"),
        "content": "c",
    }
    return ModelDeployment(id=str(uuid4()), project=project, **_times(names | given))


async def stored(registry: Registry, *things: Registered | ModelDeployment) -> None:
    """Add them in one transaction, in this order."""

    async def work(writing: Any) -> None:
        for thing in things:
            await writing.add(thing)

    await registry.write(work)


def _times(given: dict[str, Any]) -> dict[str, Any]:
    return {"create_time": NOW, "update_time": NOW} | given


# Whatever control lets through; no text of people's has NUL.
_moments = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)).map(  # noqa: DTZ001
    lambda moment: moment.replace(tzinfo=UTC)
)
_json = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | strategies.texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(strategies.texts, inner, max_size=3)
    ),
    max_leaves=8,
)
_described = {
    "create_time": _moments,
    "update_time": _moments,
    "description": strategies.texts,
    "labels": strategies.labels,
    "etag": strategies.texts,
}
_formats = st.builds(ModelFormat, strategies.names, strategies.texts)


def _options(spec: InferenceServiceSpec) -> ServingOptions:
    return ServingOptions(
        **{each.name: getattr(spec, each.name) for each in fields(ServingOptions)}
    )


models = st.fixed_dictionaries(_described | {"default_version": strategies.texts})
versions = st.fixed_dictionaries(
    _described
    | {
        "storage_uri": strategies.texts,
        "image": strategies.texts,
        "format": st.none() | _formats,
        "state": st.sampled_from(VersionState),
        "metadata": st.dictionaries(strategies.texts, _json, max_size=4),
    }
)
environments = st.fixed_dictionaries(
    _described | {"namespace": strategies.names, "defaults": strategies.specs().map(_options)}
)
failures = st.builds(
    Failure,
    log_lines=st.lists(strategies.texts, max_size=3).map(tuple),
    message=strategies.texts,
    remedy=strategies.texts,
    rollout_id=strategies.texts,
    pod=strategies.texts,
    container=strategies.texts,
    first_seen_time=st.none() | _moments,
)
deployments = st.fixed_dictionaries(
    {
        "create_time": _moments,
        "update_time": _moments,
        "rollout": st.none() | st.builds(Rollout, strategies.names, st.integers(0, 2**63 - 1)),
        "desired_state": st.sampled_from(DesiredState),
        "state": st.sampled_from(DeploymentState),
        "url": strategies.texts,
        "failure": st.none() | failures,
        "error_reason": strategies.texts,
        "error_message": strategies.texts,
        "caller": strategies.texts,
        "ready_time": st.none() | _moments,
        "end_time": st.none() | _moments,
    }
)


def moments_around(at: datetime) -> st.SearchStrategy[datetime]:
    """A few moments close to another, so that some are the same."""
    return st.integers(-3, 3).map(lambda steps: at + timedelta(microseconds=steps))
