"""Whether a Deployment's pod template is made from what an InferenceService asks for now.

Where all of the predictor is ours, our marker tells. Where others wrote any of it, the marker may
be an old one, and of other components there is none: then what the spec names is compared too.
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
_CONTAINER_FIELDS = ("image", "command", "env")
_POD_FIELDS = ("serviceAccountName", "nodeSelector", "tolerations")
# Longer lists of arguments are compared in part, so that nobody's object can take long.
_MOST_ARGUMENTS = 1000
_MOST_ARGUMENTS_BEFORE = 200


def is_applied(service: Object, which: ComponentSpec, template: Object) -> bool:
    """Whether the template is made from the component's present spec."""
    marker = get_map(which.spec, "annotations").get(ROLLOUT_ANNOTATION)
    if annotations_of(template).get(ROLLOUT_ANNOTATION) != marker:
        return False
    if marker and which.component is Component.PREDICTOR and not predictor_owners(service):
        return True
    return _fits(service, which, template)


def _fits(service: Object, which: ComponentSpec, template: Object) -> bool:
    """Whether the template has everything that the spec names, whatever else it has."""
    pod = get_map(template, "spec")
    containers = get_list(pod, "containers")
    return (
        contains(pod, _named_in(which.spec, _POD_FIELDS))
        and _storage_uri(which.spec) in (None, annotations_of(template).get(STORAGE_URI_ANNOTATION))
        and all(_container_fits(c, containers) for c in get_list(which.spec, "containers"))
        and _model_fits(service, get_map(which.spec, "model"), containers)
    )


def _model_fits(service: Object, model: Object, containers: list[Object]) -> bool:
    if not model:
        return True
    status = get_map(service, "status")
    selected = (status.get("clusterServingRuntimeName"), status.get("servingRuntimeName"))
    runtime_fits = not model.get("runtime") or model["runtime"] in selected
    return runtime_fits and _container_fits({**model, "name": CONTAINER}, containers)


def _container_fits(asked: Object, containers: list[Object]) -> bool:
    actual = find_by_name(containers, asked.get("name", CONTAINER))
    return (
        bool(actual)
        and contains(actual, _named_in(asked, _CONTAINER_FIELDS))
        and _arguments_fit(get_list(asked, "args"), get_list(actual, "args"))
        and all(
            _quantities_fit(get_map(asked, "resources", kind), get_map(actual, "resources", kind))
            for kind in ("requests", "limits")
        )
    )


def _storage_uri(spec: Object) -> object:
    """Where the model comes from; in a container it is an environment variable."""
    if "model" in spec:
        return get_map(spec, "model").get("storageUri")
    containers = get_list(spec, "containers")
    container = find_by_name(containers, CONTAINER) or (containers[0] if containers else {})
    return find_by_name(get_list(container, "env"), "STORAGE_URI").get("value")


def _named_in(spec: Object, fields: tuple[str, ...]) -> dict[str, Any]:
    return {name: spec[name] for name in fields if spec.get(name)}


def contains(actual: Any, asked: Any) -> bool:
    """Whether `actual` has all of `asked`; in lists, objects may stand anywhere among others."""
    if isinstance(asked, Mapping):
        return isinstance(actual, Mapping) and all(
            contains(actual.get(name), item) for name, item in asked.items()
        )
    if isinstance(asked, list):
        return isinstance(actual, list) and _list_contains(actual, asked)
    # KServe replaces placeholders such as {{.Name}}.
    return bool(actual == asked) or (isinstance(asked, str) and "{{" in asked)


def _list_contains(actual: list[Any], asked: list[Any]) -> bool:
    if all(isinstance(item, Mapping) for item in [*actual, *asked]):
        # There may be a thousand variables, and two of a name.
        known: defaultdict[str | None, list[Object]] = defaultdict(list, {None: actual})
        for item in actual:
            if identity := _identity(item):
                known[identity].append(item)
        return all(any(contains(a, item) for a in known[_identity(item)]) for item in asked)
    return len(actual) == len(asked) and all(map(contains, actual, asked))


def _identity(item: Object) -> str | None:
    """What an object of a list is known by: its name, or a toleration's key; None: by nothing."""
    return item.get("name") or item.get("key") or None


def _arguments_fit(asked: list[Any], actual: list[Any]) -> bool:
    """Whether the asked arguments stand in one piece among the actual ones.

    KServe puts those of a serving runtime before them, and its own behind them.
    """
    compared = asked[:_MOST_ARGUMENTS]
    before = range(min(len(actual) - len(asked), _MOST_ARGUMENTS_BEFORE) + 1)
    return any(contains(actual[i : i + len(compared)], compared) for i in before)


def _quantities_fit(asked: Object, actual: Object) -> bool:
    return all(_same(text, actual.get(name)) for name, text in asked.items())


def _same(asked: object, actual: object) -> bool:
    """Whether two quantities are the same, however they are written."""
    try:
        return value(str(asked)) == value(str(actual))
    except ValueError:
        return asked == actual
