"""Choose the readiness probe that makes a pod ready once its model is loaded.

KServe's own probe checks for an open port, which many model servers open before they load a model.
A probe for the model itself needs the protocol and the model's name: with a wrong one, a good
service would never become ready.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from server.adapters.kserve.manifests.serving_runtimes import (
    MLSERVER,
    OPENVINO,
    protocol_of,
    server_type,
    serving_container,
)
from server.adapters.kserve.objects import Object, find_by_name, get_list
from server.domain.service import model_name
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceServiceSpec,
    ModelPredictor,
)

Probe = dict[str, Any]

# A server under load answers late: like KServe's own probe, this one fails after half a minute.
TIMING = {"periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 6}

# KServe's Service and its own probe use it if the container names no port.
_DEFAULT_PORT = 8080
_NOT_HTTP = ("h2c", "grpc")
_PATHS = {"v1": "/v1/models/{}", "v2": "/v2/models/{}/ready"}
_SERVER_READY = {"v2": "/v2/health/ready"}
_PROTOCOL_VARIABLE = "PROTOCOL"
# KServe replaces it in the arguments of runtimes and models.
_NAME_TEMPLATE = re.compile(r"\{\{-?\s*\.Name\s*-?\}\}")


def probe_for(name: str, spec: InferenceServiceSpec, candidates: Sequence[Object]) -> Probe | None:
    """Return the probe for a service of this name; None for KServe's own.

    A model's probe must fit all the `candidates`, the runtimes that KServe may take; none of them
    may have a probe of its own. A container's probe needs PROTOCOL in its `env`.
    """
    predictor = spec.serving
    if isinstance(predictor, ContainerPredictor):
        return _for_container(predictor, spec)
    fit = [_for_model(name, predictor, spec, r) for r in candidates]
    shared = [probe for probe in fit[0] if all(probe in other for other in fit)] if fit else []
    return shared[0] if shared else None


def _for_model(
    name: str, model: ModelPredictor, spec: InferenceServiceSpec, runtime: Object
) -> list[Probe]:
    """Return the probes that fit a runtime, the best first."""
    container = serving_container(runtime)
    # KServe would merge two probes into one, and two kinds of probe make an invalid pod.
    if container.get("readinessProbe") or _is_multi_model(model):
        return []
    arguments = [*get_list(container, "args"), *model.args]
    names = [
        *_names_by_runtime(name, model, runtime),
        *_names_in_env(spec),
        *model_name.names_in_arguments(arguments),
    ]
    served = _servable_name([_NAME_TEMPLATE.sub(name, given) for given in names])
    port = _http_port(get_list(container, "ports"))
    if not (served and port):
        return []
    paths = [_PATHS[p] for p in _probe_protocols(runtime, model) if p in _PATHS]
    return [_probe(path.format(served), port) for path in paths]


def _is_multi_model(model: ModelPredictor) -> bool:
    """Return whether KServe takes it for a multi-model server, which loads models once it runs."""
    return not model.storage_uri and model.format.name != "huggingface"


def _probe_protocols(runtime: Object, model: ModelPredictor) -> tuple[str, ...]:
    protocol = protocol_of(runtime, model)
    # OpenVINO speaks both, and answers v1 with 200 while it loads.
    both = (server_type(runtime), protocol) == (OPENVINO, "v1")
    return ("v2", "v1") if both else (protocol,)


def _for_container(container: ContainerPredictor, spec: InferenceServiceSpec) -> Probe | None:
    served = _servable_name([*_names_in_env(spec), *model_name.names_in_arguments(container.args)])
    paths = _PATHS if served else _SERVER_READY
    path = paths.get(spec.env.get(_PROTOCOL_VARIABLE, ""))
    return _probe(path.format(served), container.port or _DEFAULT_PORT) if path else None


def _servable_name(names: Sequence[str]) -> str:
    """Return the last of the model's names; empty if a URL cannot have it.

    The values of templates and variables are not known here, and servers do not find a name with a
    slash, such as `meta/llama`.
    """
    return names[-1] if names and quote(names[-1], safe="") == names[-1] else ""


def _names_by_runtime(name: str, model: ModelPredictor, runtime: Object) -> Iterator[str]:
    variable = find_by_name(get_list(serving_container(runtime), "env"), model_name.VARIABLE)
    if variable:
        yield str(variable.get("value", ""))
    # KServe sets the object's name for MLServer, if there is a model to load.
    if server_type(runtime) == MLSERVER and model.storage_uri:
        yield name


def _names_in_env(spec: InferenceServiceSpec) -> Iterator[str]:
    if model_name.VARIABLE in spec.secret_env:
        yield ""
    if model_name.VARIABLE in spec.env:
        yield spec.env[model_name.VARIABLE]


def _http_port(ports: Sequence[Object]) -> int:
    """Return the port that KServe sends requests to; 0 if it does not speak HTTP/1."""
    first = ports[0] if ports else {"containerPort": _DEFAULT_PORT}
    return 0 if str(first.get("name", "")).startswith(_NOT_HTTP) else int(first["containerPort"])


def _probe(path: str, port: int) -> Probe:
    return {"httpGet": {"path": path, "port": port}, **TIMING}
