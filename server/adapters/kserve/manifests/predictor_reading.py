"""From spec.predictor of an InferenceService to the spec of the contract, and what does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from server.adapters.kserve.manifests.manifest import predictor_of
from server.adapters.kserve.manifests.riders import FilledIn
from server.adapters.kserve.names import CONTAINER
from server.domain.commands import OUR_PREFIX
from server.domain.inference_service import (
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
from server.domain.quantities import canonical

# What KServe's webhook and the schema put in beside whatever was asked.
_ADDED_BY_KSERVE = ("spec.predictor.automountServiceAccountToken",)

# What Kubernetes takes for a field that is left out: to name it asks for nothing.
_DEFAULTS = {
    "optional": False,
    "hostNetwork": False,
    "hostPID": False,
    "hostIPC": False,
    "stdin": False,
    "stdinOnce": False,
    "tty": False,
    "restartPolicy": "Always",
}


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
    timeout = predictor.get("timeout")
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
        request_timeout=None if timeout is None else timedelta(seconds=timeout),
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
    paths = _beyond(whole, {"predictor": shown}, "spec")
    return sorted(path for path in paths if path not in _ADDED_BY_KSERVE)


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


def _beyond(whole: Any, shown: Any, path: str) -> Iterator[str]:
    """The paths in `whole` that `shown` lacks; what is empty in `whole` says nothing."""
    if isinstance(whole, dict) and isinstance(shown, Mapping):
        for name, value in whole.items():
            if value in ("", None, {}, []) or (name in _DEFAULTS and _DEFAULTS[name] == value):
                continue
            if name in shown:
                yield from _beyond(value, shown[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}"
    elif isinstance(whole, list) and isinstance(shown, list):
        yield from _items_beyond(whole, shown, path)


def _items_beyond(whole: list[Any], shown: list[Any], path: str) -> Iterator[str]:
    """The items of a list: each found again by its name where it has one, else by its place."""
    # The first of a name counts, so it is put in last.
    twins = {_name(s): s for s in reversed(shown)} | dict(enumerate(shown))
    for place, value in enumerate(whole):
        known_by = _name(value) or place
        if known_by in twins:
            yield from _beyond(value, twins[known_by], f"{path}[{known_by}]")
        else:
            yield f"{path}[{known_by}]"


def _name(item: Any) -> str | None:
    return item.get("name") if isinstance(item, dict) else None
