"""Answers of a real API server (1.34, with KServe 0.20), and the errors that callers get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.adapters.kserve.apply.api_server_errors import (
    error_of,
    has_two_predictors,
    is_absent,
    is_field_conflict,
    is_stale,
)
from server.adapters.kserve.client import Answer
from server.domain.errors import ErrorReason, ServiceError
from server.domain.service.inference_service import ServiceKey

ANSWERS = json.loads((Path(__file__).parent / "answers.json").read_text())
KEY = ServiceKey("model-serving", "iris")


def answer(name: str) -> Answer:
    return Answer(ANSWERS[name]["status"], {}, ANSWERS[name]["body"])


def error_for(name: str) -> ServiceError:
    return error_of(answer(name), KEY, writes=True)


def status(code: int, message: str = "", **body: Any) -> Answer:
    return Answer(code, {}, {"kind": "Status", "message": message, **body})


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("undeclared field", "SPEC_INVALID", ".spec.predictor.model.foo: field not declared"),
        ("duplicate entries", "SPEC_INVALID", ".spec.predictor.model.env: duplicate entries"),
        ("bad quantity", "SPEC_INVALID", "quantities must match"),
        ("not in the schema's enum", "SPEC_INVALID", "spec.predictor.scaleMetric: Unsupported"),
        ("bad name", "SPEC_INVALID", "metadata.name: Invalid value"),
        ("KServe's validator refuses", "POLICY_REFUSED", "PYTHONPATH"),
        ("an admission policy refuses", "POLICY_REFUSED", "the label nope is not for here"),
        ("two kinds of predictor", "POLICY_REFUSED", "exactly one of"),
        ("another deployment mode", "MODE_IMMUTABLE", "is Standard and cannot become Knative"),
        ("quota", "QUOTA_EXCEEDED", "count/inferenceservices.serving.kserve.io=0"),
        ("quota not counted yet", "QUOTA_EXCEEDED", "few"),
        ("namespace terminating", "NAMESPACE_TERMINATING", "is being deleted"),
        ("unknown namespace", "NAMESPACE_NOT_FOUND", "no namespace 'model-serving'"),
        ("another field manager", "FIELD_CONFLICT", "kubectl-edit set spec.predictor.maxReplicas"),
        ("no right to create", "SERVER_LACKS_RIGHTS", "may not patch InferenceServices"),
        ("no right to get", "SERVER_LACKS_RIGHTS", "may not get InferenceServices"),
        ("no right to delete", "SERVER_LACKS_RIGHTS", "may not delete InferenceServices"),
        ("absent", "SERVICE_NOT_FOUND", "no service model-serving/iris"),
        ("delete of an absent one", "SERVICE_NOT_FOUND", "no service model-serving/iris"),
        ("unknown resource", "KSERVE_MISSING", "not installed"),
        ("resource terminating", "KSERVE_MISSING", "is being removed"),
        ("API server not ready", "CLUSTER_UNAVAILABLE", "nothing was written"),
        ("KServe's webhook is down", "WEBHOOK_UNAVAILABLE", "nothing was written"),
    ],
)
def test_a_real_answer_becomes_the_error(name: str, reason: str, words: str) -> None:
    error = error_for(name)
    assert error.reason is ErrorReason(reason)
    assert words in error.message


@pytest.mark.parametrize("name", ANSWERS)
def test_a_message_has_no_account_and_no_address(name: str) -> None:
    message = error_for(name).message
    assert "alice" not in message
    assert "127.0.0.1" not in message
    assert "https://" not in message


def test_a_conflict_names_fields_and_owner() -> None:
    assert error_for("another field manager").metadata == {
        "fields": "spec.predictor.maxReplicas,spec.predictor.minReplicas",
        "owner": "kubectl-edit",
    }


def test_lacking_rights_name_verb_and_resource() -> None:
    assert error_for("no right to patch").metadata == {
        "verb": "patch",
        "resource": "inferenceservices",
    }


def test_a_refusing_webhook_is_named() -> None:
    webhook = "inferenceservice.kserve-webhook-server.validator"
    assert error_for("KServe's validator refuses").metadata == {"webhook": webhook}


@pytest.mark.parametrize(
    "name",
    [
        "exists already",
        "another uid",
        "uid of an absent object",
        "stale resourceVersion",
        "delete of another uid",
        "delete of a stale resourceVersion",
    ],
)
def test_a_failed_precondition_is_stale(name: str) -> None:
    assert is_stale(answer(name))


def test_nothing_else_is_stale() -> None:
    stale = {name for name in ANSWERS if is_stale(answer(name))}
    assert len(stale) == 6


def test_a_field_conflict_is_reported_before_a_stale_precondition() -> None:
    hidden = answer("another field manager and a stale resourceVersion")
    assert is_field_conflict(hidden)
    assert not is_stale(hidden)


def test_only_a_missing_object_is_absent() -> None:
    absent = {name for name in ANSWERS if is_absent(answer(name))}
    assert absent == {"absent", "delete of an absent one"}


def test_kserves_refusal_of_two_predictors_is_recognised() -> None:
    assert {name for name in ANSWERS if has_two_predictors(answer(name))} == {
        "two kinds of predictor"
    }


def test_a_policy_that_denies_with_400_is_no_invalid_spec() -> None:
    text = 'admission webhook "validate.kyverno.svc-fail" denied the request: no latest tags'
    error = error_of(status(400, text), KEY, writes=True)
    assert error.reason is ErrorReason.POLICY_REFUSED
    assert error.metadata == {"webhook": "validate.kyverno.svc-fail"}


def test_a_webhook_that_denies_with_409_is_no_failed_precondition() -> None:
    denied = status(409, 'admission webhook "a.b" denied the request: taken')
    assert not is_stale(denied)
    assert error_of(denied, KEY, writes=True).reason is ErrorReason.POLICY_REFUSED


def test_a_path_that_our_account_may_not_read_is_a_missing_right() -> None:
    path = "/apis/serving.knative.dev/v1"
    error = error_of(
        status(403, f'forbidden: User "system:bob" cannot get path "{path}"'), KEY, writes=False
    )
    assert error.reason is ErrorReason.SERVER_LACKS_RIGHTS
    assert error.metadata == {"verb": "get", "resource": path}
    assert "bob" not in error.message


@pytest.mark.parametrize(
    ("answered", "of_a_write", "of_a_dry_run"),
    [
        (status(429), "TOO_MANY_REQUESTS", "TOO_MANY_REQUESTS"),
        (
            status(401, "Unauthorized"),
            "SERVER_CREDENTIALS_REFUSED",
            "SERVER_CREDENTIALS_REFUSED",
        ),
        (status(413), "SPEC_INVALID", "SPEC_INVALID"),
        (status(503, "shutting down"), "CLUSTER_UNAVAILABLE", "CLUSTER_UNAVAILABLE"),
        (Answer(503, {}, {"message": "<html>"}), "WRITE_OUTCOME_UNKNOWN", "CLUSTER_UNAVAILABLE"),
        (Answer(502, {}, {"message": "<html>"}), "WRITE_OUTCOME_UNKNOWN", "CLUSTER_UNAVAILABLE"),
        (status(504, "request timed out"), "WRITE_OUTCOME_UNKNOWN", "CLUSTER_UNAVAILABLE"),
        (
            status(500, "etcdserver: request timed out"),
            "WRITE_OUTCOME_UNKNOWN",
            "CLUSTER_UNAVAILABLE",
        ),
        (Answer(500, {}, {"message": "<html>"}), "WRITE_OUTCOME_UNKNOWN", "CLUSTER_UNAVAILABLE"),
        (Answer(403, {}, {"message": "<html>"}), "CLUSTER_UNAVAILABLE", "CLUSTER_UNAVAILABLE"),
        (Answer(407, {}, {"message": "<html>"}), "CLUSTER_UNAVAILABLE", "CLUSTER_UNAVAILABLE"),
        (status(405, "not allowed"), "UNSUPPORTED_BY_CLUSTER", "UNSUPPORTED_BY_CLUSTER"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Answer) else value,
)
def test_an_answer_without_a_reason_becomes_the_error(
    answered: Answer, of_a_write: str, of_a_dry_run: str
) -> None:
    assert error_of(answered, KEY, writes=True).reason is ErrorReason(of_a_write)
    assert error_of(answered, KEY, writes=False).reason is ErrorReason(of_a_dry_run)
