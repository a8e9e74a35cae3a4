"""The registry refuses what can never be stored, all of it at once, with the path of each field."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.errors import FieldInvalid
from server.domain.registry.deployment import DeploymentFilter
from server.domain.registry.registered import EnvironmentKey, ModelKey, VersionKey, VersionState
from server.domain.registry.registry_commands import (
    Change,
    EnvironmentContent,
    ModelContent,
    VersionContent,
)
from server.domain.registry.registry_validation import (
    Key,
    check_change,
    check_deployment,
    check_filter,
    check_key,
    check_new,
)
from server.domain.service.inference_service import (
    ModelFormat,
    Resources,
    Scaling,
    SecretKeyRef,
    ServingOptions,
    Toleration,
)
from tests import strategies

MODEL = ModelKey("risk", "fraud")
VERSION = VersionKey("risk", "fraud", "v1.0")
ENVIRONMENT = EnvironmentKey("risk", "staging")
SKLEARN = ModelFormat("sklearn")
FILES = VersionContent(storage_uri="s3://models/fraud/1", format=SKLEARN)

Contents = ModelContent | VersionContent | EnvironmentContent
_OF: dict[type[Contents], tuple[Key, str]] = {
    ModelContent: (MODEL, "model"),
    VersionContent: (VERSION, "version"),
    EnvironmentContent: (ENVIRONMENT, "environment"),
}


def refused(check: Any, *args: Any) -> list[str]:
    """The paths of what is wrong."""
    try:
        check(*args)
    except FieldInvalid as e:
        violations = e.violations
    else:
        return []
    assert all("must " in why for _, why in violations)
    return [path for path, _ in violations]


def refused_new(content: Contents) -> list[str]:
    key, resource = _OF[type(content)]
    return refused(check_new, key, content, resource)


def refused_change(content: Any, *mask: str) -> list[str]:
    key, resource = _OF[type(content)]
    return refused(check_change, key, Change(content, mask), resource)


def defaults(**fields: Any) -> EnvironmentContent:
    return EnvironmentContent(defaults=ServingOptions(**fields))


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"in": value}
    return value


@pytest.mark.parametrize(
    ("key", "path"),
    [
        (ModelKey("", "fraud"), "project"),
        (ModelKey("p" * 101, "fraud"), "project"),
        (ModelKey("risk\n", "fraud"), "project"),
        (ModelKey("risk\0", "fraud"), "project"),
        (ModelKey("risk", ""), "name"),
        (ModelKey("risk", "Fraud"), "name"),
        (ModelKey("risk", "1fraud"), "name"),
        (ModelKey("risk", "fraud-"), "name"),
        (ModelKey("risk", "fraud\n"), "name"),
        (ModelKey("risk", "f" * 64), "name"),
        (EnvironmentKey("risk", "sta ging"), "name"),
        (VersionKey("risk", "fraud", ""), "version"),
        (VersionKey("risk", "fraud", "-1"), "version"),
        (VersionKey("risk", "fraud", "1/2"), "version"),
        (VersionKey("risk", "fraud", "1" * 64), "version"),
        (VersionKey("risk", "Fraud", "1"), "model"),
    ],
)
def test_a_name_that_nothing_can_have_is_refused(key: Key, path: str) -> None:
    assert [path] == refused(check_key, key)


@pytest.mark.parametrize(
    "key",
    [
        ModelKey("risk", "f"),
        ModelKey("p" * 63, "f" * 63),
        VersionKey("risk", "fraud", "2"),
        VersionKey("risk", "fraud", "v1.4.0-rc1_B"),
        EnvironmentKey("risk", "staging-eu-1"),
    ],
)
def test_a_name_by_the_rules_is_taken(key: Key) -> None:
    check_key(key)


# Of each of these an earlier release made a project that looks like another or like none.
LOOK_ALIKES = [
    (" ", "' '"),
    ("risk ", "'risk '"),
    ("risk\u200b", r"'risk\u200b'"),
    ("\u202eksir", r"'\u202eksir'"),
    ("caf\u00e9", r"'caf\xe9'"),
    ("cafe\u0301", r"'cafe\u0301'"),
    ("r\u0456sk", r"'r\u0456sk'"),
    ("Risk", "'Risk'"),
]


@pytest.mark.parametrize(("project", "shown"), LOOK_ALIKES)
def test_a_project_that_looks_like_another_is_read_and_no_longer_made(
    project: str, shown: str
) -> None:
    assert not refused(check_key, ModelKey(project, "fraud"))
    assert not refused(check_key, EnvironmentKey(project, "staging"))
    assert not refused(check_new, VersionKey(project, "fraud", "1"), FILES, "version")
    for key, content in (
        (ModelKey(project, "fraud"), ModelContent()),
        (EnvironmentKey(project, "staging"), EnvironmentContent()),
    ):
        with pytest.raises(FieldInvalid) as refusal:
            check_new(key, content, "resource")
        assert refusal.value.message == (
            "resource.project: must have lower-case letters, digits and '-' only, begin with a"
            f" letter and end with a letter or digit, got {shown}"
        )


@pytest.mark.parametrize("text", ["a\u200b", "a\u202e", "a b", " ", "cafe\u0301", "\u2003"])
def test_no_key_that_people_choose_may_have_what_cannot_be_seen(text: str) -> None:
    labels = ModelContent(labels={text: "x"})
    for content in (
        labels,
        ModelContent(labels={"team": text}),
        VersionContent("s3://a", format=ModelFormat(text)),
        VersionContent("s3://a", format=ModelFormat("sklearn", text)),
        VersionContent(image=text),
        EnvironmentContent(namespace=text),
        defaults(env={text: "1"}),
        defaults(secret_env={"A": SecretKeyRef(text, "k")}),
        defaults(secret_env={"A": SecretKeyRef("s", text)}),
        defaults(resources=Resources({text: "1"})),
        defaults(service_account=text),
        defaults(node_selector={text: "a"}),
    ):
        key, resource = _OF[type(content)]
        with pytest.raises(FieldInvalid) as refusal:
            check_new(key, content, resource)
        assert ascii(text)[1:-1] in refusal.value.message
        assert refusal.value.message.isascii()
    assert refused(check_key, ModelKey("risk", text)) == ["name"]
    assert refused(check_key, EnvironmentKey("risk", text)) == ["name"]
    assert refused(check_key, VersionKey("risk", "fraud", text)) == ["version"]


@pytest.mark.parametrize(
    ("content", "path"),
    [
        (ModelContent(description="x" * 16_385), "model.description"),
        (ModelContent(description="a\0b"), "model.description"),
        (ModelContent(default_version="1"), "model.default_version"),
        (ModelContent(labels={"team risk": "x"}), 'model.labels["team risk"]'),
        (ModelContent(labels={"team": "a b"}), 'model.labels["team"]'),
        (ModelContent(labels={f"l{i}": "" for i in range(129)}), "model.labels"),
        (VersionContent(), "version.artifact"),
        (VersionContent("s3://a", "image:1", SKLEARN), "version.artifact"),
        (VersionContent("s3://a"), "version.format"),
        (VersionContent(image="image:1", format=SKLEARN), "version.format"),
        (VersionContent(image="my image"), "version.image"),
        (VersionContent(image="i" * 8193), "version.image"),
        (VersionContent("s3://a\0", format=SKLEARN), "version.storage_uri"),
        (VersionContent("s" * 8193, format=SKLEARN), "version.storage_uri"),
        (VersionContent("s3://a", format=ModelFormat("")), "version.format.name"),
        (VersionContent("s3://a", format=ModelFormat("a\0")), "version.format.name"),
        (VersionContent("s3://a", format=ModelFormat("a", "\0")), "version.format.version"),
        (VersionContent("s3://a", format=ModelFormat("a" * 101)), "version.format.name"),
        (VersionContent(image="i", metadata={"auc": math.nan}), 'version.metadata["auc"]'),
        (VersionContent(image="i", metadata={"a": [{"b": math.inf}]}), 'version.metadata["a"]'),
        (VersionContent(image="i", metadata={"a": {"b": "\0"}}), 'version.metadata["a"]'),
        (VersionContent(image="i", metadata={"a\0": 1.0}), 'version.metadata["a\\u0000"]'),
        (VersionContent(image="i", metadata=nested(33)), 'version.metadata["in"]'),
        (VersionContent(image="i", metadata={"a": "x" * 65_530}), "version.metadata"),
        (EnvironmentContent(namespace="No_Namespace"), "environment.namespace"),
        (EnvironmentContent(description="\0"), "environment.description"),
        (defaults(env={"A=B": "1"}), 'environment.defaults.env["A=B"]'),
        (
            defaults(env={"A": "1"}, secret_env={"A": SecretKeyRef("s", "k")}),
            'environment.defaults.env["A"]',
        ),
        (defaults(env={f"V{i}": "x" * 100_000 for i in range(6)}), "environment.defaults"),
        (
            defaults(resources=Resources({"cpu": "2"}, {"cpu": "1"})),
            'environment.defaults.resources.requests["cpu"]',
        ),
        (defaults(scaling=Scaling(3, 2)), "environment.defaults.scaling.min_replicas"),
        (defaults(image_pull_policy="always"), "environment.defaults.image_pull_policy"),
        (defaults(node_selector={"zone": "a/b"}), 'environment.defaults.node_selector["zone"]'),
        (defaults(tolerations=(Toleration(),)), "environment.defaults.tolerations[0].key"),
        (defaults(request_timeout=timedelta(0)), "environment.defaults.request_timeout"),
    ],
)
def test_what_can_never_be_is_refused_at_its_field(content: Contents, path: str) -> None:
    assert [path] == refused_new(content)


@pytest.mark.parametrize(
    "content",
    [
        ModelContent("é" * 8192, labels={f"example.com/l{i}": "v" for i in range(128)}),
        FILES,
        VersionContent(image="registry.example/fraud@sha256:0", state=VersionState.ARCHIVED),
        VersionContent(image="i", metadata=nested(32)),
        VersionContent(image="i", metadata={"a": None, "b": [True, 1.5, "x"], "": {}}),
        EnvironmentContent(),
        defaults(env={"STORAGE_URI": "x", "PROTOCOL": "v3"}),
    ],
)
def test_what_can_be_is_taken(content: Contents) -> None:
    assert not refused_new(content)


@given(strategies.specs())
def test_whatever_a_spec_may_ask_for_may_be_a_default(spec: Any) -> None:
    options = {name: getattr(spec, name) for name in ServingOptions.__dataclass_fields__}
    assert not refused_new(defaults(**options))


def test_all_that_is_wrong_is_told_at_once() -> None:
    content = VersionContent("s3://a\0", labels={"a b": ""}, metadata={"auc": math.nan})
    assert refused(check_new, VersionKey("", "Fraud", "-"), content, "version") == [
        "version.project",
        "version.model",
        "version.version",
        "version.storage_uri",
        'version.labels["a b"]',
        'version.metadata["auc"]',
        "version.format",
    ]


@pytest.mark.parametrize(
    "path",
    ["name", "id", "etag", "create_time", "labels.team", "default_version.x", "", "Labels", "nope"],
)
def test_a_mask_names_whole_fields_that_can_change(path: str) -> None:
    with pytest.raises(FieldInvalid) as refusal:
        check_change(MODEL, Change(ModelContent(), ("labels", path)), "model")
    assert [violation.path for violation in refusal.value.violations] == ["update_mask"]
    assert repr(path) in refusal.value.message


def test_the_mask_of_everything_stands_alone() -> None:
    assert refused_change(ModelContent(), "*", "labels") == ["update_mask"]
    assert not refused_change(ModelContent(), "*")


def test_only_the_fields_that_a_change_takes_are_looked_at() -> None:
    content = ModelContent(description="\0", labels={"a b": ""})
    assert refused_change(content, "description") == ["model.description"]
    assert refused_change(content) == ["model.description", 'model.labels["a b"]']
    assert refused_change(content, "labels", "name") == ["update_mask", 'model.labels["a b"]']


def test_a_state_that_the_mask_names_is_given() -> None:
    assert refused_change(VersionContent(), "state") == ["version.state"]
    assert not refused_change(VersionContent(state=VersionState.READY), "state")
    assert not refused_change(FILES, "*")


@pytest.mark.parametrize(
    ("wanted", "paths"),
    [
        (DeploymentFilter(""), ["project"]),
        (DeploymentFilter("risk", model="F", version="/", environment=" "), None),
        (DeploymentFilter("risk", namespace="\0", service="a\0"), ["namespace", "service"]),
        (DeploymentFilter("risk", "fraud", "1", "staging", "risk-1", "1-fraud"), []),
    ],
)
def test_a_filter_that_nothing_fits_is_refused(
    wanted: DeploymentFilter, paths: list[str] | None
) -> None:
    every = ["model", "version", "environment"]
    assert refused(check_filter, wanted) == (every if paths is None else paths)


def test_the_id_of_a_record_is_required() -> None:
    assert refused(check_deployment, "", "") == ["project", "id"]
    assert refused(check_deployment, "risk", "a\0") == ["id"]
    assert not refused(check_deployment, "risk", "0d3b9a0e-6c1e-4e55-a2a4-3a2b8a3d4d5e")


@given(st.text(max_size=120))
def test_any_text_is_a_project_or_is_told_why_not(project: str) -> None:
    fine = 1 <= len(project) <= 100 and not any(c < " " or "\x7f" <= c < "\xa0" for c in project)
    assert refused(check_key, ModelKey(project, "fraud")) == ([] if fine else ["project"])
