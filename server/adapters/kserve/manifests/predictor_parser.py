"""From spec.predictor of an InferenceService to the spec of the contract, and what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from server.adapters.kserve.manifests.annotations import FilledIn
from server.adapters.kserve.manifests.extra_fields import beyond
from server.adapters.kserve.manifests.manifest import predictor_of
from server.adapters.kserve.names import CONTAINER
from server.domain.kubernetes.quantities import canonical
from server.domain.service.commands import OUR_PREFIX
from server.domain.service.inference_service import (
    LONGEST_DURATION_SECONDS,
    ContainerPredictor,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    Predictor,
    Resources,
    Scaling,
    SecretKeyRef,
    Toleration,
)


def spec_of(
    predictor: Mapping[str, Any], mode: str, filled_in: Resources
) -> InferenceServiceSpec | None:
    """What was asked; None where the predictor is of a kind that the contract does not have.

    `filled_in` are resources that nobody asked for: they are left out while they are unchanged.
    """
    read = _implementation(predictor)
    if read is None:
        return None
    implementation, serving = read
    env, secret_env = _variables(serving.get("env", ()))
    return InferenceServiceSpec(
        predictor=implementation,
        env=env,
        secret_env=secret_env,
        resources=_resources(serving.get("resources", {}), filled_in),
        scaling=_scaling(predictor),
        service_account=predictor.get("serviceAccountName", ""),
        image_pull_policy=serving.get("imagePullPolicy", ""),
        deployment_mode=mode,
        node_selector=dict(predictor.get("nodeSelector", {})),
        tolerations=tuple(_toleration(t) for t in predictor.get("tolerations", ())),
        request_timeout=_duration(predictor.get("timeout")),
    )


def unfit(
    spec: Mapping[str, Any], read: InferenceServiceSpec | None, filled_in: FilledIn
) -> list[str]:
    """The paths of what the object has beside `filled_in` and the contract has no field for."""
    predictor = dict(spec.get("predictor", {}))
    riders = predictor.pop("annotations", {})
    foreign = {key: text for key, text in riders.items() if not key.startswith(OUR_PREFIX)}
    whole = {**spec, "predictor": {**predictor, **({"annotations": foreign} if foreign else {})}}
    shown = predictor_of(read, filled_in) if read else {}
    reordered = _reordered_variables(predictor, shown)
    return sorted({*beyond(whole, {"predictor": shown}, "spec"), *reordered})


def _reordered_variables(predictor: Mapping[str, Any], shown: Mapping[str, Any]) -> list[str]:
    """Where variables stand in another order than that of `shown`, and one refers to another."""
    before, after = _variables_of(predictor), _variables_of(shown)
    refers = any("$(" in str(variable.get("value")) for variable in before)
    moved = [v["name"] for v in before] != [v["name"] for v in after]
    kind = "model" if predictor.get("model") else "containers"
    return [f"the order of spec.predictor.{kind}.env"] if refers and moved else []


def _variables_of(predictor: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    read = _implementation(predictor)
    return list(read[1].get("env") or ()) if read else []


def _implementation(
    predictor: Mapping[str, Any],
) -> tuple[Predictor, Mapping[str, Any]] | None:
    """The predictor, and the fields of the container that serves it."""
    if model := predictor.get("model"):
        return _model(model), model
    if containers := predictor.get("containers"):
        serving = next((c for c in containers if c.get("name") == CONTAINER), containers[0])
        return _container(serving), serving
    return None


def _model(model: Mapping[str, Any]) -> ModelPredictor:
    form = model.get("modelFormat", {})
    return ModelPredictor(
        format=ModelFormat(form.get("name", ""), form.get("version", "")),
        storage_uri=model.get("storageUri", ""),
        runtime=model.get("runtime", ""),
        protocol_version=model.get("protocolVersion", ""),
        args=tuple(model.get("args", ())),
    )


def _container(container: Mapping[str, Any]) -> ContainerPredictor:
    ports = container.get("ports") or [{}]
    return ContainerPredictor(
        image=container.get("image", ""),
        command=tuple(container.get("command", ())),
        args=tuple(container.get("args", ())),
        port=ports[0].get("containerPort", 0),
    )


def _duration(seconds: int | None) -> timedelta | None:
    """Seconds as a duration that JSON has too; None where no request may ask for so many, so that
    they are named among what does not fit."""
    fits = seconds is not None and 1 <= seconds <= LONGEST_DURATION_SECONDS
    return timedelta(seconds=seconds) if fits and seconds else None


def _variables(
    variables: Any,
) -> tuple[dict[str, str], dict[str, SecretKeyRef]]:
    plain, secret = {}, {}
    for variable in variables:
        source = variable.get("valueFrom")
        if not source:
            plain[variable["name"]] = variable.get("value", "")
        elif ref := source.get("secretKeyRef"):
            secret[variable["name"]] = SecretKeyRef(ref.get("name", ""), ref["key"])
    return plain, secret


def _resources(resources: Mapping[str, Any], filled_in: Resources) -> Resources:
    return Resources(
        _asked(resources.get("requests", {}), filled_in.requests),
        _asked(resources.get("limits", {}), filled_in.limits),
    )


def _asked(quantities: Mapping[str, Any], filled_in: Mapping[str, str]) -> dict[str, str]:
    texts = {name: _canonical(quantity) for name, quantity in quantities.items()}
    return {name: text for name, text in texts.items() if filled_in.get(name) != text}


def _canonical(quantity: Any) -> str:
    """Others' objects may hold numbers, and texts that only Kubernetes can read."""
    try:
        return canonical(str(quantity))
    except ValueError:
        return str(quantity)


def _scaling(predictor: Mapping[str, Any]) -> Scaling:
    return Scaling(
        min_replicas=predictor.get("minReplicas"),
        max_replicas=predictor.get("maxReplicas"),
        target=predictor.get("scaleTarget"),
        metric=predictor.get("scaleMetric", ""),
    )


def _toleration(toleration: Mapping[str, Any]) -> Toleration:
    return Toleration(
        key=toleration.get("key", ""),
        operator=toleration.get("operator", ""),
        value=toleration.get("value", ""),
        effect=toleration.get("effect", ""),
        toleration_seconds=toleration.get("tolerationSeconds"),
    )
