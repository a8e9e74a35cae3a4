"""Parse spec.predictor of an InferenceService into the API's spec, and list unsupported fields."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from server.adapters.kserve.held_object import share_text
from server.adapters.kserve.manifests.annotations import AddedFields
from server.adapters.kserve.manifests.extra_fields import extra_fields
from server.adapters.kserve.manifests.manifest import predictor_of, with_added_fields
from server.adapters.kserve.manifests.ready_timeout import parse_timeout, timeout_annotations
from server.adapters.kserve.manifests.rollout_strategy import parse_strategy
from server.adapters.kserve.modes import KNATIVE
from server.adapters.kserve.names import CONTAINER
from server.domain.kubernetes.quantities import canonical
from server.domain.service.commands import OUR_PREFIX
from server.domain.service.inference_service import (
    LONGEST_DURATION_SECONDS,
    ContainerPredictor,
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
    Resources,
    Scaling,
    SecretKeyRef,
    ServingPredictor,
    Toleration,
)


def parse_spec(
    predictor: Mapping[str, Any], mode: str, added: Resources
) -> InferenceServiceSpec | None:
    """Return the spec; None where the predictor is of a kind that the API does not have.

    Resources that we `added` are left out while they are unchanged.
    """
    serving = _serving_container(predictor)
    if serving is None:
        return None
    env: dict[str, str] = {}
    secret_env: dict[str, SecretKeyRef] = {}
    for variable in serving.get("env", ()):
        source = variable.get("valueFrom")
        if not source:
            env[share_text(variable["name"])] = share_text(variable.get("value") or "")
        elif ref := source.get("secretKeyRef"):
            secret_env[variable["name"]] = SecretKeyRef(ref.get("name", ""), ref["key"])
    resources = serving.get("resources", {})
    return InferenceServiceSpec(
        predictor=_model(serving) if predictor.get("model") else _container(serving),
        env=env,
        secret_env=secret_env,
        resources=Resources(
            _asked(resources.get("requests", {}), added.requests),
            _asked(resources.get("limits", {}), added.limits),
        ),
        scaling=Scaling(
            min_replicas=predictor.get("minReplicas"),
            max_replicas=predictor.get("maxReplicas"),
            target=predictor.get("scaleTarget"),
            metric=predictor.get("scaleMetric", ""),
        ),
        service_account=predictor.get("serviceAccountName", ""),
        image_pull_policy=serving.get("imagePullPolicy", ""),
        deployment_mode=mode,
        node_selector=dict(predictor.get("nodeSelector", {})),
        tolerations=tuple(_toleration(t) for t in predictor.get("tolerations", ())),
        request_timeout=_duration(predictor.get("timeout")),
        ready_timeout=parse_timeout(predictor.get("annotations") or {}),
        rollout_strategy=parse_strategy(predictor.get("deploymentStrategy") or {}),
    )


def unsupported_paths(
    spec: Mapping[str, Any], parsed: InferenceServiceSpec | None, added: AddedFields
) -> list[str]:
    """Return the paths of the fields that are neither in the parsed spec nor `added` by us."""
    predictor = dict(spec.get("predictor", {}))
    annotations = predictor.pop("annotations", {})
    own = timeout_annotations(parsed.ready_timeout, KNATIVE) if parsed else {}
    foreign = {
        key: text
        for key, text in annotations.items()
        if not key.startswith(OUR_PREFIX) and own.get(key) != text
    }
    whole = {**spec, "predictor": {**predictor, **({"annotations": foreign} if foreign else {})}}
    shown = with_added_fields(predictor_of(parsed), added) if parsed else {}
    paths = {*extra_fields(whole, {"predictor": shown}, "spec"), *_reordered_env(predictor, shown)}
    return sorted(paths)


def _reordered_env(predictor: Mapping[str, Any], shown: Mapping[str, Any]) -> list[str]:
    """Return the path of `env` if its order is another one in `shown`, and matters: one variable
    refers to another."""
    before = (_serving_container(predictor) or {}).get("env") or ()
    after = (_serving_container(shown) or {}).get("env") or ()
    refers = any("$(" in str(variable.get("value")) for variable in before)
    moved = [v["name"] for v in before] != [v["name"] for v in after]
    kind = "model" if predictor.get("model") else "containers"
    return [f"the order of spec.predictor.{kind}.env"] if refers and moved else []


def _serving_container(predictor: Mapping[str, Any]) -> Any:
    """Return the fields of `model`, or of the container that serves, or else None."""
    if model := predictor.get("model"):
        return model
    containers = predictor.get("containers") or [None]
    return next((c for c in containers if c and c.get("name") == CONTAINER), containers[0])


def _model(model: Mapping[str, Any]) -> ServingPredictor:
    model_format = model.get("modelFormat", {})
    return ModelPredictor(
        format=ModelFormat(model_format.get("name", ""), model_format.get("version", "")),
        storage_uri=model.get("storageUri", ""),
        runtime=model.get("runtime", ""),
        protocol_version=model.get("protocolVersion", ""),
        args=tuple(model.get("args", ())),
    )


def _container(container: Mapping[str, Any]) -> ServingPredictor:
    ports = container.get("ports") or [{}]
    return ContainerPredictor(
        image=container.get("image", ""),
        command=tuple(container.get("command", ())),
        args=tuple(container.get("args", ())),
        port=ports[0].get("containerPort", 0),
    )


def _toleration(toleration: Mapping[str, Any]) -> Toleration:
    return Toleration(
        key=toleration.get("key", ""),
        operator=toleration.get("operator", ""),
        value=toleration.get("value", ""),
        effect=toleration.get("effect", ""),
        toleration_seconds=toleration.get("tolerationSeconds"),
    )


def _duration(seconds: int | None) -> timedelta | None:
    """Return None for a duration that JSON cannot express; its path is then unsupported."""
    fits = seconds is not None and 1 <= seconds <= LONGEST_DURATION_SECONDS
    return timedelta(seconds=seconds) if fits and seconds else None


def _asked(quantities: Mapping[str, Any], added: Mapping[str, str]) -> dict[str, str]:
    asked = {}
    for name, quantity in quantities.items():
        if added.get(name) == quantity:
            continue
        text = _canonical(quantity)
        if added.get(name) != text:
            asked[name] = text
    return asked


def _canonical(quantity: Any) -> str:
    """Others' objects may hold numbers, and texts that only Kubernetes can read."""
    try:
        return canonical(str(quantity))
    except ValueError:
        return str(quantity)
