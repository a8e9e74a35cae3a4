"""Compare a pod template with the present spec of an InferenceService.

If this server owns the whole predictor, the rollout hash decides. If others wrote a part of it, the
hash may be out of date, and other components have none: then the fields of the spec are compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from server.adapters.kserve.manifests.field_ownership import predictor_owners
from server.adapters.kserve.names import CONTAINER, ROLLOUT_ANNOTATION
from server.adapters.kserve.objects import Object, annotations_of, find_by_name, get_list, get_map
from server.adapters.kserve.status.components import ComponentSpec
from server.domain.kubernetes.quantities import value
from server.domain.rollout.status import Component

STORAGE_URI_ANNOTATION = "internal.serving.kserve.io/storage-initializer-sourceuri"
# KServe copies these fields to the template. A field that is missing here is not waited for.
_CONTAINER_FIELDS = ("image", "command", "env", "imagePullPolicy")
_POD_FIELDS = ("serviceAccountName", "nodeSelector", "tolerations")
# Longer lists of arguments are compared in part, to bound the time.
_MAX_ARGUMENTS = 1000
_MAX_PREFIX = 200


def is_applied(service: Object, component: ComponentSpec, template: Object) -> bool:
    """Return whether the template is made from the component's present spec."""
    rollout_hash = get_map(component.spec, "annotations").get(ROLLOUT_ANNOTATION)
    if annotations_of(template).get(ROLLOUT_ANNOTATION) != rollout_hash:
        return False
    if rollout_hash and component.kind is Component.PREDICTOR and not predictor_owners(service):
        return True
    return _fits(service, component, template)


def _fits(service: Object, component: ComponentSpec, template: Object) -> bool:
    """Return whether the template has every field that the spec sets."""
    pod = get_map(template, "spec")
    containers = get_list(pod, "containers")
    return (
        contains(pod, _set_fields(component.spec, _POD_FIELDS))
        and _storage_uri(component.spec)
        in (None, annotations_of(template).get(STORAGE_URI_ANNOTATION))
        and all(_container_fits(c, containers) for c in get_list(component.spec, "containers"))
        and _model_fits(service, get_map(component.spec, "model"), containers)
    )


def _model_fits(service: Object, model: Object, containers: list[Object]) -> bool:
    if not model:
        return True
    status = get_map(service, "status")
    selected = (status.get("clusterServingRuntimeName"), status.get("servingRuntimeName"))
    runtime_fits = not model.get("runtime") or model["runtime"] in selected
    return runtime_fits and _container_fits({**model, "name": CONTAINER}, containers)


def _container_fits(desired: Object, containers: list[Object]) -> bool:
    actual = find_by_name(containers, desired.get("name", CONTAINER))
    return (
        bool(actual)
        and contains(actual, _set_fields(desired, _CONTAINER_FIELDS))
        and _arguments_fit(get_list(desired, "args"), get_list(actual, "args"))
        and _ports(desired) <= _ports(actual)
        and all(
            _quantities_fit(get_map(desired, "resources", kind), get_map(actual, "resources", kind))
            for kind in ("requests", "limits")
        )
    )


def _ports(container: Object) -> set[object]:
    """Return the numbers of the ports; API servers and Knative complete the rest of a port."""
    return {port.get("containerPort") for port in get_list(container, "ports")}


def _storage_uri(spec: Object) -> object:
    """Return the model's storage URI; in a container it is an environment variable."""
    if "model" in spec:
        return get_map(spec, "model").get("storageUri")
    containers = get_list(spec, "containers")
    container = find_by_name(containers, CONTAINER) or (containers[0] if containers else {})
    return find_by_name(get_list(container, "env"), "STORAGE_URI").get("value")


def _set_fields(spec: Object, fields: tuple[str, ...]) -> dict[str, Any]:
    return {name: spec[name] for name in fields if spec.get(name)}


def contains(actual: Any, desired: Any) -> bool:
    """Return whether `actual` has all of `desired`; in lists of objects, in any order."""
    if isinstance(desired, Mapping):
        return isinstance(actual, Mapping) and all(
            contains(actual.get(name), item) for name, item in desired.items()
        )
    if isinstance(desired, list):
        return isinstance(actual, list) and _list_contains(actual, desired)
    # KServe replaces placeholders such as {{.Name}}.
    return bool(actual == desired) or (isinstance(desired, str) and "{{" in desired)


def _list_contains(actual: list[Any], desired: list[Any]) -> bool:
    if all(isinstance(item, Mapping) for item in [*actual, *desired]):
        # There may be a thousand variables, and two of the same name.
        known: defaultdict[str | None, list[Object]] = defaultdict(list, {None: actual})
        for item in actual:
            if identity := _identity(item):
                known[identity].append(item)
        return all(any(contains(a, item) for a in known[_identity(item)]) for item in desired)
    return len(actual) == len(desired) and all(map(contains, actual, desired))


def _identity(item: Object) -> str | None:
    """Return the key of an object in a list: its name, or a toleration's key; else None."""
    return item.get("name") or item.get("key") or None


def _arguments_fit(desired: list[Any], actual: list[Any]) -> bool:
    """Return whether the arguments of the spec stand in a row among the actual ones.

    KServe puts those of a serving runtime before them, and its own after them.
    """
    compared = desired[:_MAX_ARGUMENTS]
    before = range(min(len(actual) - len(desired), _MAX_PREFIX) + 1)
    return any(contains(actual[i : i + len(compared)], compared) for i in before)


def _quantities_fit(desired: Object, actual: Object) -> bool:
    return all(_same(text, actual.get(name)) for name, text in desired.items())


def _same(desired: object, actual: object) -> bool:
    """Return whether two quantities are equal, such as 1Gi and 1024Mi."""
    try:
        return value(str(desired)) == value(str(actual))
    except ValueError:
        return desired == actual
