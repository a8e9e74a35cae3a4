"""A Deploy that may work, to be spoilt in one place."""

from __future__ import annotations

import dataclasses
from typing import Any

from server.domain.errors import FieldInvalid
from server.domain.service.commands import Deploy
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    RegisteredModelPredictor,
    Resources,
    SecretKeyRef,
    ServiceKey,
    Toleration,
)
from server.domain.service.validation import check_deploy, check_platform_keys

KEY = ServiceKey("model-serving", "iris")
CONTAINER = InferenceServiceSpec(ContainerPredictor("kserve/sklearnserver:latest"))
MODEL = InferenceServiceSpec(ModelPredictor(ModelFormat("sklearn"), "gs://bucket/model"))


def violations(deploy: Deploy) -> dict[str, str]:
    try:
        check_deploy(deploy)
        check_platform_keys(deploy, {}, {})
    except FieldInvalid as refused:
        return dict(refused.violations)
    return {}


def deploy(spec: InferenceServiceSpec | None = CONTAINER, **fields: Any) -> Deploy:
    return dataclasses.replace(Deploy(KEY, spec), **fields)


def container(**fields: Any) -> InferenceServiceSpec:
    return dataclasses.replace(
        CONTAINER, predictor=dataclasses.replace(CONTAINER.predictor, **fields)
    )


def model(**fields: Any) -> InferenceServiceSpec:
    return dataclasses.replace(MODEL, predictor=dataclasses.replace(MODEL.predictor, **fields))


def registered(**fields: str) -> InferenceServiceSpec:
    names = {"project": "fruit", "model": "iris", "environment": "staging"}
    return InferenceServiceSpec(RegisteredModelPredictor(**{**names, **fields}))


def spec(**fields: Any) -> InferenceServiceSpec:
    return dataclasses.replace(CONTAINER, **fields)


def env(**variables: str) -> InferenceServiceSpec:
    return spec(env=variables)


def secret(reference: SecretKeyRef, name: str = "TOKEN") -> InferenceServiceSpec:
    return spec(secret_env={name: reference})


def requests(**quantities: str) -> InferenceServiceSpec:
    return spec(resources=Resources(requests=quantities))


def resources(requests: dict[str, str], limits: dict[str, str]) -> InferenceServiceSpec:
    return spec(resources=Resources(requests, limits))


def toleration(**fields: Any) -> InferenceServiceSpec:
    return spec(tolerations=(Toleration(**fields),))


def knative(**fields: Any) -> InferenceServiceSpec:
    return spec(deployment_mode="Knative", **fields)
