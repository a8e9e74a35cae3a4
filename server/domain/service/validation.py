"""Validate requests before the cluster is asked: refuse those that can never work.

Kubernetes and KServe accept much that then never works, even in a dry run. A check reports all
violations at once, each with its field's path in the request. Whatever may come to exist later (a
runtime, a storage scheme, a namespace) is left to the cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from server.domain.errors import FieldViolation, refuse_violations
from server.domain.kubernetes.names import (
    Count,
    count_violations,
    dns_label_problem,
    escaped,
    field_path,
    label_value_problem,
    name_problem,
    qualified_name_problem,
    size,
    violation_at,
)
from server.domain.service.commands import MANAGED_BY_LABEL, STOP_ANNOTATION, Delete, Deploy
from server.domain.service.inference_service import RegisteredModelPredictor, ServiceKey
from server.domain.service.spec_validation import (
    AUTOSCALER_CLASS,
    predictor_violations,
    spec_violations,
)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

# KServe accepts longer names, and then no pod ever comes up: it derives names of DNS labels.
LONGEST_NAME = 48
LONGEST_HOST = 63
# Kubernetes accepts such names, so another client may have created one.
LONGEST_NAME_THERE = 253

MOST_LABELS = 128
MOST_ANNOTATIONS = 512
# Kubernetes accepts 256 KiB in total. The rest is for annotations that KServe and this server add.
MOST_ANNOTATION_BYTES = 240 * 1024

_PLATFORM_DOMAINS = ("kubernetes.io", "k8s.io", "serving.kserve.io")
_OUR_DOMAIN = "modelservice.dev"
_FREE_DOMAIN = "app.kubernetes.io"
_FREE_ANNOTATIONS = frozenset(
    {
        STOP_ANNOTATION,
        AUTOSCALER_CLASS,
        "serving.kserve.io/storageSecretName",
        "serving.kserve.io/enable-prometheus-scraping",
        "serving.kserve.io/enable-metric-aggregation",
    }
)


def check_deploy(deploy: Deploy) -> None:
    """Refuse a Deploy that can never work. Raises FieldInvalid with all violations."""
    refuse_violations(_deploy_violations(deploy))


def check_platform_keys(
    deploy: Deploy, labels: Mapping[str, str], annotations: Mapping[str, str]
) -> None:
    """Refuse keys of Kubernetes and KServe that a Deploy may not set. Raises FieldInvalid.

    `labels` and `annotations` are those of the service: they may be sent back unchanged.
    """
    refuse_violations(_refused_platform_keys(deploy, labels, annotations))


def without_platform_keys(
    deploy: Deploy, labels: Mapping[str, str], annotations: Mapping[str, str]
) -> tuple[Deploy, Sequence[str]]:
    """Return a Deploy without the keys that `check_platform_keys` refuses, and their paths."""
    refused = [violation.path for violation in _refused_platform_keys(deploy, labels, annotations)]

    def rest(kind: str, asked: Mapping[str, str]) -> Mapping[str, str]:
        return {k: v for k, v in asked.items() if field_path(kind, k) not in refused}

    settable = replace(
        deploy,
        labels=rest("labels", deploy.labels),
        annotations=rest("annotations", deploy.annotations),
    )
    return settable, refused


def _refused_platform_keys(
    deploy: Deploy, labels: Mapping[str, str], annotations: Mapping[str, str]
) -> list[FieldViolation]:
    free = {key: deploy.annotations.get(key) for key in _FREE_ANNOTATIONS}
    return [
        *_platform_violations("labels", deploy.labels, labels),
        *_platform_violations("annotations", deploy.annotations, {**annotations, **free}),
    ]


def check_registered(predictor: RegisteredModelPredictor) -> None:
    """Refuse invalid names of registered resources. Raises FieldInvalid."""
    refuse_violations(predictor_violations(predictor))


def check_delete(delete: Delete) -> None:
    """Refuse a Delete of a service that cannot exist. Raises FieldInvalid."""
    check_key(delete.key)


# Both are asked at every Get, mostly of the same keys; an exception is not cached.
@lru_cache(maxsize=20_000)
def check_key(key: ServiceKey) -> None:
    """Refuse a key that no service can have. Raises FieldInvalid.

    Names that are too long for a Deploy pass: another client may have created such a service.
    """
    refuse_violations([*_name_violations(key.name), *_namespace_violations(key.namespace)])


@lru_cache(maxsize=20_000)
def check_namespace(namespace: str) -> None:
    """Refuse an invalid name of a namespace. Raises FieldInvalid."""
    refuse_violations(_namespace_violations(namespace))


def _deploy_violations(deploy: Deploy) -> Iterator[FieldViolation]:
    yield from _name_violations(deploy.key.name)
    yield from _namespace_violations(deploy.key.namespace)
    if deploy.stop is None:
        yield from _length_violations(deploy.key)
    if deploy.request_id and not _REQUEST_ID.fullmatch(deploy.request_id):
        given = escaped(deploy.request_id)
        why = f"must have 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', got {given}"
        yield FieldViolation("request_id", why)
    yield from count_violations(
        [
            Count("labels", len(deploy.labels), MOST_LABELS),
            Count("annotations", len(deploy.annotations), MOST_ANNOTATIONS),
        ]
    )
    yield from _label_violations(deploy.labels)
    yield from _annotation_violations(deploy.annotations)
    if deploy.spec is not None:
        yield from spec_violations(deploy.spec, deploy.annotations)
    else:
        yield from _bare_restart_violations(deploy)


def _name_violations(name: str) -> Iterator[FieldViolation]:
    yield from violation_at("name", name_problem(name, LONGEST_NAME_THERE))


def _namespace_violations(namespace: str) -> Iterator[FieldViolation]:
    yield from violation_at("namespace", dns_label_problem(namespace))


def room_for_name(namespace: str) -> int:
    """Return the most characters of a service's name in the namespace; may be negative."""
    return min(LONGEST_NAME, LONGEST_HOST - len(_host("", namespace)))


def _length_violations(key: ServiceKey) -> Iterator[FieldViolation]:
    host = _host(key.name, key.namespace)
    if len(key.name) > LONGEST_NAME:
        yield FieldViolation(
            "name", f"must have at most {LONGEST_NAME} characters, got {len(key.name)}"
        )
    elif len(host) > LONGEST_HOST:
        yield FieldViolation(
            "name",
            f"<name>-predictor-<namespace> must have at most {LONGEST_HOST} characters, got"
            f" {len(host)}",
        )


def _host(name: str, namespace: str) -> str:
    return f"{name}-predictor-{namespace}"


def _bare_restart_violations(deploy: Deploy) -> Iterator[FieldViolation]:
    if not deploy.restart and deploy.stop is None and deploy.refusal is None:
        yield FieldViolation("spec", "must be set, except for a restart")
    for path, given in (("labels", deploy.labels), ("annotations", deploy.annotations)):
        if given:
            yield FieldViolation(
                path,
                "must be empty without a spec: a restart keeps them as they are",
            )


def _label_violations(labels: Mapping[str, str]) -> Iterator[FieldViolation]:
    for key, value in labels.items():
        path = field_path("labels", key)
        yield from violation_at(path, qualified_name_problem(key) or _our_key_problem(key))
        yield from violation_at(path, label_value_problem(value))


def _annotation_violations(annotations: Mapping[str, str]) -> Iterator[FieldViolation]:
    if sum(size(k) + size(v) for k, v in annotations.items()) > MOST_ANNOTATION_BYTES:
        yield FieldViolation(
            "annotations", f"must have at most {MOST_ANNOTATION_BYTES >> 10} KiB in total"
        )
    for key in annotations:
        # Kubernetes reads the domain of an annotation's key in any case.
        problem = qualified_name_problem(key.lower()) or _our_key_problem(key.lower())
        yield from violation_at(field_path("annotations", key), problem)
    asked = annotations.get(STOP_ANNOTATION, "true")
    if asked.lower() not in ("true", "false"):
        why = f"must be 'true' or 'false', got {escaped(asked)}"
        yield FieldViolation(field_path("annotations", STOP_ANNOTATION), why)


def _platform_violations(
    kind: str, asked: Mapping[str, str], free: Mapping[str, str | None]
) -> Iterator[FieldViolation]:
    for key, value in asked.items():
        if free.get(key) != value:
            yield from violation_at(field_path(kind, key), _platform_key_problem(key.lower()))


def _our_key_problem(key: str) -> str | None:
    if key == MANAGED_BY_LABEL[0] or _is_under(_OUR_DOMAIN, key):
        return "must not be set: this server sets it"
    return None


def _platform_key_problem(key: str) -> str | None:
    if key.rpartition("/")[0] == _FREE_DOMAIN:
        return None
    for domain in _PLATFORM_DOMAINS:
        if _is_under(domain, key):
            return (
                f"must not be set: {domain}/ belongs to the platform; only a key that the"
                " service already has may be sent, with the same value"
            )
    return None


def _is_under(domain: str, key: str) -> bool:
    """Report whether a key's domain is this one or a subdomain."""
    return f".{key.rpartition('/')[0]}".endswith(f".{domain}")
