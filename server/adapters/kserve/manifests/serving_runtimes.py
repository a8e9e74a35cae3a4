"""Serving runtimes: which of them KServe may run a model on, and what it runs there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
from server.domain.service.inference_service import ModelFormat, ModelPredictor, Resources

MLSERVER = "mlserver"
OPENVINO = "ovms"

_SERVER_TYPE = "serving.kserve.io/server-type"
# Runtimes from before that annotation are known by name.
_SERVER_TYPES = {
    "kserve-mlserver": MLSERVER,
    "kserve-tritonserver": "tritonserver",
    "kserve-torchserve": "torchserve",
}
_PROTOCOLS = ("v1", "v2", "grpc-v1", "grpc-v2")
# What KServe takes where a model names no protocol: by its format, then by the server, then the
# first of _PROTOCOLS that the runtime speaks.
_PROTOCOL_OF_FORMAT = {"triton": "v2", "vLLM": "v2"}
_PROTOCOL_OF_SERVER = {MLSERVER: "v2", "tritonserver": "v2", "torchserve": "v1"}


@dataclass(frozen=True, slots=True)
class Runtimes:
    """The ServingRuntimes of a namespace and the ClusterServingRuntimes; None: not to be known."""

    namespaced: Sequence[Object] | None = None
    cluster: Sequence[Object] | None = None


def candidates(model: ModelPredictor, runtimes: Runtimes) -> list[Object]:
    """The runtimes that KServe chooses from, in its order: it takes the first unless one has come
    or gone meanwhile. Empty also where not all of them are known."""
    if runtimes.namespaced is None:
        return []
    if model.runtime:
        # Those of the namespace hide those of the cluster.
        both = [*runtimes.namespaced, *(runtimes.cluster or ())]
        return [r for r in both if name_of(r) == model.runtime][:1]
    if runtimes.cluster is None:
        return []
    return [*_selectable(runtimes.namespaced, model), *_selectable(runtimes.cluster, model)]


def protocol_of(runtime: Object, model: ModelPredictor) -> str:
    """The protocol that KServe has the model served by on this runtime; empty: none is known."""
    spoken = get_list(runtime, "spec", "protocolVersions")
    return (
        model.protocol_version
        or _PROTOCOL_OF_FORMAT.get(model.format.name)
        or _PROTOCOL_OF_SERVER.get(server_type(runtime))
        or next((p for p in _PROTOCOLS if p in spoken), "")
    )


def server_type(runtime: Object) -> str:
    """The model server of a runtime, in KServe's words; empty where it does not say."""
    by_name = _SERVER_TYPES.get(name_of(runtime), "")
    return str(annotations_of(runtime).get(_SERVER_TYPE, by_name))


def serving_container(runtime: Object) -> Object:
    """The container that KServe merges a model's own fields into."""
    return find_by_name(get_list(runtime, "spec", "containers"), CONTAINER)


def resources_of(runtime: Object) -> Resources:
    """What the serving container has by the runtime; what is no quantity is left out."""
    container = serving_container(runtime)
    requests, limits = (get_map(container, "resources", kind) for kind in ("requests", "limits"))
    return Resources(quantities(requests), quantities(limits))


def _selectable(runtimes: Iterable[Object], model: ModelPredictor) -> list[Object]:
    """Those for the model: by priority for its format, then by protocol, the newest first."""
    found = [r for r in runtimes if _is_selectable(r, model)]
    found.sort(key=name_of)
    found.sort(key=lambda r: str(get_map(r, "metadata").get("creationTimestamp")), reverse=True)
    found.sort(key=_first_protocol)
    found.sort(key=lambda r: -_priority(r, model.format))
    return found


def _first_protocol(runtime: Object) -> int:
    spoken = get_list(runtime, "spec", "protocolVersions")
    return next((place for place, p in enumerate(_PROTOCOLS) if p in spoken), len(_PROTOCOLS))


def _priority(runtime: Object, asked: ModelFormat) -> float:
    """Of several the highest counts; none is below any."""
    known = find_by_name(get_list(runtime, "spec", "supportedModelFormats"), asked.name)
    priority = known.get("priority")
    return -inf if priority is None else float(priority)


def _is_selectable(runtime: Object, model: ModelPredictor) -> bool:
    spec = get_map(runtime, "spec")
    spoken = get_list(spec, "protocolVersions")
    # Among runtimes a model that names no protocol is one of v1.
    asked = model.protocol_version or _PROTOCOL_OF_FORMAT.get(model.format.name, "v1")
    return (
        not (spec.get("disabled") or spec.get("multiModel") or spec.get("workerSpec"))
        and (not spoken or asked in spoken)
        and any(_is_for(model.format, known) for known in _selected_by(spec))
    )


def _selected_by(spec: Object) -> Iterator[Object]:
    return (known for known in get_list(spec, "supportedModelFormats") if known.get("autoSelect"))


def _is_for(asked: ModelFormat, known: Object) -> bool:
    return known.get("name") == asked.name and asked.version in ("", known.get("version"))
