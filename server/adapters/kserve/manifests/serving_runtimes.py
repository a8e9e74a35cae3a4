"""Select serving runtimes as KServe does, and read their containers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

from server.adapters.kserve.names import CONTAINER
from server.adapters.kserve.objects import (
    Object,
    annotations_of,
    find_by_name,
    get_list,
    get_map,
    name_of,
)
from server.domain.kubernetes.quantities import quantities
from server.domain.service import model_name
from server.domain.service.inference_service import ModelFormat, ModelPredictor, Resources

MLSERVER = "mlserver"
OPENVINO = "ovms"

_SERVER_TYPE = "serving.kserve.io/server-type"
# Runtimes older than that annotation are known by their names.
_SERVER_TYPES = {
    "kserve-mlserver": MLSERVER,
    "kserve-tritonserver": "tritonserver",
    "kserve-torchserve": "torchserve",
}
_USED_OF_METADATA = ("namespace", "name", "creationTimestamp")
_USED_OF_SPEC = ("supportedModelFormats", "protocolVersions", "disabled", "multiModel")
_USED_OF_CONTAINER = ("name", "args", "ports", "readinessProbe", "resources")
_PROTOCOLS = ("v1", "v2", "grpc-v1", "grpc-v2")
# KServe's protocol for a model that names none: by its format, then by the server, then the first
# of _PROTOCOLS that the runtime supports.
_PROTOCOL_OF_FORMAT = {"triton": "v2", "vLLM": "v2"}
_PROTOCOL_OF_SERVER = {MLSERVER: "v2", "tritonserver": "v2", "torchserve": "v1"}


@dataclass(frozen=True, slots=True)
class Runtimes:
    """The ServingRuntimes of a namespace and the ClusterServingRuntimes; None: not readable."""

    namespaced: Sequence[Object] | None = None
    cluster: Sequence[Object] | None = None


def with_used_fields(runtime: Object) -> Object:
    """Return a runtime with nothing but what this module and the readiness probe read."""
    metadata, spec = get_map(runtime, "metadata"), get_map(runtime, "spec")
    container = serving_container(runtime)
    variable = find_by_name(get_list(container, "env"), model_name.VARIABLE)
    used = {name: container[name] for name in _USED_OF_CONTAINER if name in container}
    return {
        "metadata": {
            **{name: metadata[name] for name in _USED_OF_METADATA if name in metadata},
            "annotations": {
                name: text for name, text in annotations_of(runtime).items() if name == _SERVER_TYPE
            },
        },
        "spec": {
            **{name: spec[name] for name in _USED_OF_SPEC if name in spec},
            # Its fields do not count, but that it has them.
            "workerSpec": bool(spec.get("workerSpec")),
            "containers": [{**used, "env": [variable] if variable else []}] if container else [],
        },
    }


def candidates(model: ModelPredictor, runtimes: Runtimes) -> list[Object]:
    """Return the runtimes for a model in KServe's order; KServe takes the first.

    Empty if not all of them are readable.
    """
    if runtimes.namespaced is None:
        return []
    if model.runtime:
        # A runtime of the namespace hides the cluster's of the same name.
        both = [*runtimes.namespaced, *(runtimes.cluster or ())]
        return [r for r in both if name_of(r) == model.runtime][:1]
    if runtimes.cluster is None:
        return []
    return [*_selectable(runtimes.namespaced, model), *_selectable(runtimes.cluster, model)]


def protocol_of(runtime: Object, model: ModelPredictor) -> str:
    """Return the protocol that KServe serves the model by on this runtime, or an empty text."""
    supported = get_list(runtime, "spec", "protocolVersions")
    return (
        model.protocol_version
        or _PROTOCOL_OF_FORMAT.get(model.format.name)
        or _PROTOCOL_OF_SERVER.get(server_type(runtime))
        or next((p for p in _PROTOCOLS if p in supported), "")
    )


def server_type(runtime: Object) -> str:
    """Return KServe's name of the runtime's model server, or an empty text."""
    by_name = _SERVER_TYPES.get(name_of(runtime), "")
    return str(annotations_of(runtime).get(_SERVER_TYPE, by_name))


def serving_container(runtime: Object) -> Object:
    """Return the container that KServe merges the model's fields into."""
    return find_by_name(get_list(runtime, "spec", "containers"), CONTAINER)


def resources_of(runtime: Object) -> Resources:
    """Return the runtime's resources of the serving container, without invalid quantities."""
    container = serving_container(runtime)
    requests, limits = (get_map(container, "resources", kind) for kind in ("requests", "limits"))
    return Resources(quantities(requests), quantities(limits))


def _selectable(runtimes: Iterable[Object], model: ModelPredictor) -> list[Object]:
    """Sort the model's runtimes by priority for its format, by protocol, and newest first."""
    found = [r for r in runtimes if _is_selectable(r, model)]
    found.sort(key=name_of)
    found.sort(key=lambda r: str(get_map(r, "metadata").get("creationTimestamp")), reverse=True)
    found.sort(key=_first_protocol)
    found.sort(key=lambda r: -_priority(r, model.format))
    return found


def _first_protocol(runtime: Object) -> int:
    supported = get_list(runtime, "spec", "protocolVersions")
    return next((place for place, p in enumerate(_PROTOCOLS) if p in supported), len(_PROTOCOLS))


def _priority(runtime: Object, wanted: ModelFormat) -> float:
    """Return the priority for a format; a runtime without one comes last."""
    found = find_by_name(get_list(runtime, "spec", "supportedModelFormats"), wanted.name)
    priority = found.get("priority")
    return -inf if priority is None else float(priority)


def _is_selectable(runtime: Object, model: ModelPredictor) -> bool:
    spec = get_map(runtime, "spec")
    supported = get_list(spec, "protocolVersions")
    # KServe selects by v1 for a model that names no protocol.
    protocol = model.protocol_version or _PROTOCOL_OF_FORMAT.get(model.format.name, "v1")
    return (
        not (spec.get("disabled") or spec.get("multiModel") or spec.get("workerSpec"))
        and (not supported or protocol in supported)
        and any(
            known.get("autoSelect")
            and known.get("name") == model.format.name
            and model.format.version in ("", known.get("version"))
            for known in get_list(spec, "supportedModelFormats")
        )
    )
