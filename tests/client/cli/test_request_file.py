"""A request from a file: what is wrong is named by its line and its path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice_client.cli.request_file import (
    FileError,
    UnreadableFileError,
    parse,
    read_file,
)

from server.api.specs import spec_message
from server.domain.service.inference_service import InferenceServiceSpec
from tests.strategies import specs

WRONG = [
    ("spec:\n  model:\n    storage_url: x", ":3: spec.model.storage_url: ModelPredictor has no"),
    ("spec: {model: {storage_url: x}}", "did you mean storage_uri?"),
    ("name: 1", ":1: name: must be a string, got 1 (a number): put it in quotes"),
    ("name: true", ":1: name: must be a string, got true (a boolean): put it in quotes"),
    ("spec:\n  env:\n    KEY: 8", ':3: spec.env["KEY"]: must be a string, got a number'),
    ("spec: {env: {A: }}", 'spec.env["A"]: must be a string, got null'),
    ("spec: {scaling: {min_replicas: x}}", "min_replicas: must be a whole number of 32 bits"),
    ("spec: {scaling: {min_replicas: 99999999999}}", "must be a whole number of 32 bits"),
    ("spec: {request_timeout: 300}", 'must be a duration in seconds such as "300s", got 300'),
    (
        "spec: {rollout_strategy: {type: RECREATE}}",
        "spec.rollout_strategy.type: must be one of TYPE_ROLLING, TYPE_RECREATE, got RECREATE",
    ),
    ("force: 'yes'", "force: must be true or false, got yes (a string)"),
    ("spec:\n  model: {}\n  container: {}", ":3: spec.container: must not be given beside spec.mo"),
    ("spec: []", "spec: must be an object, got a list"),
    ("labels: a", "labels: must be an object, got a string"),
    ("spec: {tolerations: {}}", "spec.tolerations: must be a list, got an object"),
    ("spec: {model: {args: [a, 1]}}", "spec.model.args[1]: must be a string, got 1"),
    ("- name: a", ":1: must be an object, got a list"),
    ("name: a\nname: b", ":2: name: must be given once"),
    ("requestId: a\nrequest_id: b", ":2: request_id: must be given once"),
    ("name: a\n---\nname: b", ":2: must have one document"),
    ("name: [", ":1: "),
    ("", ": is empty"),
    ("[" * 1000, "is nested too deeply"),
    ("apiVersion: v1\nkind: Pod", ":1: is a Kubernetes manifest and must be a DeployRequest: see"),
    ('{"kind": "A", "spec": [], "apiVersion": "b"}', "docs/modelctl.md"),
    ("x: !!python/object/apply:os.system [id]", "DeployRequest has no such field"),
    ("name: !!python/object/apply:os.system [id]", "must be a string, got a list"),
]


@pytest.mark.parametrize(("text", "error"), WRONG)
def test_a_wrong_field_is_named_by_its_line_and_path(text: str, error: str) -> None:
    with pytest.raises(FileError) as raised:
        parse(text, "service.yaml")
    assert str(raised.value).startswith("service.yaml:")
    assert error in str(raised.value)


def test_everything_that_is_wrong_is_named_at_once() -> None:
    text = """\
nam: iris
spec:
  model: {storage_url: x}
  container: []
  scaling: {min_replicas: x, target: 5}
  env: {A: 1, B: two, A: three}
  tolerations: [{key: a}, b]
"""
    with pytest.raises(FileError) as raised:
        parse(text, "service.yaml")
    assert [problem.split(" ")[:2] for problem in raised.value.problems] == [
        ["service.yaml:1:", "nam:"],
        ["service.yaml:3:", "spec.model.storage_url:"],
        ["service.yaml:4:", "spec.container:"],
        ["service.yaml:4:", "spec.container:"],
        ["service.yaml:5:", "spec.scaling.min_replicas:"],
        ["service.yaml:6:", 'spec.env["A"]:'],
        ["service.yaml:6:", 'spec.env["A"]:'],
        ["service.yaml:7:", "spec.tolerations[1]:"],
    ]


def test_a_file_with_nothing_right_ends_after_some_lines() -> None:
    with pytest.raises(FileError) as raised:
        parse("\n".join(f"wrong-{i}: 1" for i in range(50)), "service.yaml")
    assert len(raised.value.problems) == 21
    assert raised.value.problems[-1] == "service.yaml: and 30 more"


def test_the_value_of_a_variable_is_in_no_error() -> None:
    with pytest.raises(FileError) as raised:
        parse("spec: {env: {TOKEN: 123456}}", "service.yaml")
    assert "123456" not in str(raised.value)


def test_the_request_of_the_document_is_one() -> None:
    text = Path("docs/modelctl.md").read_text().split("```yaml\n")[1].split("```")[0]
    found = parse(text, "service.yaml")
    assert found.request.spec.model.storage_uri == "gs://models/iris"


def test_json_may_have_tabs_escapes_and_both_spellings_of_names() -> None:
    text = '{\n\t"requestId": "a", "validate_only": true,\n\t"name": "\\ud83d\\ude42"}'
    found = parse(text, "deploy.json")
    assert (found.request.request_id, found.request.validate_only) == ("a", True)
    assert found.request.name == "🙂"
    assert found.lines == {"request_id": 2, "validate_only": 2, "name": 3}


def test_what_get_prints_is_a_request_and_keeps_its_etag() -> None:
    text = "name: iris\netag: abc\nuid: u\nstatus: {state: STATE_READY}\ncreateTime: x"
    found = parse(text, "iris.yaml")
    assert (found.request.name, found.request.etag) == ("iris", "abc")
    assert found.ignored == ["uid", "status", "create_time"]


@settings(max_examples=25)
@given(specs())
def test_every_spec_that_is_printed_as_json_is_read_again(spec: InferenceServiceSpec) -> None:
    service = InferenceService(name="iris", spec=spec_message(spec))
    data = json_format.MessageToDict(service, preserving_proto_field_name=True)
    assert parse(json.dumps(data), "iris.json").request.spec == service.spec


def test_a_refused_field_has_the_line_of_the_nearest_one_that_is_there() -> None:
    found = parse("name: iris\nspec:\n  resources:\n    limits:\n      memory: x\n", "a.yaml")
    assert found.place_of('spec.resources.limits["memory"]') == "a.yaml:5"
    assert found.place_of("spec.resources.requests") == "a.yaml:3"
    assert found.place_of("spec") == "a.yaml:2"
    assert found.place_of("namespace") == "a.yaml:1"


def test_aliases_cannot_make_a_small_file_large() -> None:
    text = f"spec: {{tolerations: [&t {{key: a, value: b}}{', *t' * 6_000}]}}"
    with pytest.raises(FileError, match="must have at most 10000 fields"):
        parse(text, "bomb.yaml")


def test_a_file_that_is_absent_too_large_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="No such file"):
        read_file(str(tmp_path / "absent"))
    large = tmp_path / "large"
    large.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(FileError, match="at most"):
        read_file(str(large))
    binary = tmp_path / "binary"
    binary.write_bytes(b"name: \xff")
    with pytest.raises(FileError, match="must be UTF-8, byte 6 is not"):
        read_file(str(binary))
