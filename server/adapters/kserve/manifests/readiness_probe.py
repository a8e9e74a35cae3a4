"""The readiness probe that makes a pod ready once its model is loaded.

KServe's own asks whether the port is open, which many model servers open before they load anything.
One that asks for the model itself is possible only where its protocol and its name are known: a
wrong one would keep a good service from ever being ready.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from server.adapters.kserve.manifests.serving_runtimes import (
    MLSERVER,
    OPENVINO,
    Runtimes,
    candidates,
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

# A server under load answers late: it is taken out of the Service after half a minute without an
# answer in time, as KServe's own probe does it.
TIMING = {"periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 6}

# Where KServe's Service and its own probe go if the container names no port.
_DEFAULT_PORT = 8080
_NOT_HTTP = ("h2c", "grpc")
_PATHS = {"v1": "/v1/models/{}", "v2": "/v2/models/{}/ready"}
_SERVER_READY = {"v2": "/v2/health/ready"}
_PROTOCOL_VARIABLE = "PROTOCOL"
# KServe fills it in for runtimes, and for what is added to their arguments.
_OBJECTS_NAME = re.compile(r"\{\{-?\s*\.Name\s*-?\}\}")


def probe_for(name: str, spec: InferenceServiceSpec, runtimes: Runtimes) -> Probe | None:
    """The probe for a service of this name; None where KServe's own has to do.

    For a model: one that fits every runtime that KServe may take, if none has a probe of its own.
    For a container: where PROTOCOL in its `env` tells what it speaks.
    """
    predictor = spec.serving
    if isinstance(predictor, ContainerPredictor):
        return _for_container(predictor, spec)
    fit = [_for_model(name, predictor, spec, r) for r in candidates(predictor, runtimes)]
    shared = [probe for probe in fit[0] if all(probe in other for other in fit)] if fit else []
    return shared[0] if shared else None


def _for_model(
    name: str, model: ModelPredictor, spec: InferenceServiceSpec, runtime: Object
) -> list[Probe]:
    """The probes that fit a runtime, the best first."""
    container = serving_container(runtime)
    # KServe would merge two probes into one, and of two kinds no pod can be made.
    if container.get("readinessProbe") or _loads_later(model):
        return []
    arguments = [*get_list(container, "args"), *model.args]
    names = [
        *_by_runtime(name, model, runtime),
        *_in_variables(spec),
        *model_name.names_in_arguments(arguments),
    ]
    served = _served([_OBJECTS_NAME.sub(name, given) for given in names])
    port = _http_port(get_list(container, "ports"))
    if not (served and port):
        return []
    paths = [_PATHS[p] for p in _asked_by(runtime, model) if p in _PATHS]
    return [_probe(path.format(served), port) for path in paths]


def _loads_later(model: ModelPredictor) -> bool:
    """Whether KServe takes it for a server of many models, which come once it runs."""
    return not model.storage_uri and model.format.name != "huggingface"


def _asked_by(runtime: Object, model: ModelPredictor) -> tuple[str, ...]:
    protocol = protocol_of(runtime, model)
    # By v1 OpenVINO answers 200 while it loads, too; it speaks both at once.
    both = (server_type(runtime), protocol) == (OPENVINO, "v1")
    return ("v2", "v1") if both else (protocol,)


def _for_container(container: ContainerPredictor, spec: InferenceServiceSpec) -> Probe | None:
    served = _served([*_in_variables(spec), *model_name.names_in_arguments(container.args)])
    paths = _PATHS if served else _SERVER_READY
    path = paths.get(spec.env.get(_PROTOCOL_VARIABLE, ""))
    return _probe(path.format(served), container.port or _DEFAULT_PORT) if path else None


def _served(names: Sequence[str]) -> str:
    """The last of the names that the model is given; empty: none that can be asked for.

    Templates and variables are filled in where it cannot be seen, and servers do not find a name
    that is more than one plain part of a path, such as `meta/llama`.
    """
    return names[-1] if names and quote(names[-1], safe="") == names[-1] else ""


def _by_runtime(name: str, model: ModelPredictor, runtime: Object) -> Iterator[str]:
    variable = find_by_name(get_list(serving_container(runtime), "env"), model_name.VARIABLE)
    if variable:
        yield str(variable.get("value", ""))
    # KServe tells its MLServers the object's name, if there is something to load.
    if server_type(runtime) == MLSERVER and model.storage_uri:
        yield name


def _in_variables(spec: InferenceServiceSpec) -> Iterator[str]:
    if model_name.VARIABLE in spec.secret_env:
        yield ""
    if model_name.VARIABLE in spec.env:
        yield spec.env[model_name.VARIABLE]


def _http_port(ports: Sequence[Object]) -> int:
    """Where KServe sends requests; 0 where that is not for HTTP/1."""
    first = ports[0] if ports else {"containerPort": _DEFAULT_PORT}
    return 0 if str(first.get("name", "")).startswith(_NOT_HTTP) else int(first["containerPort"])


def _probe(path: str, port: int) -> Probe:
    return {"httpGet": {"path": path, "port": port}, **TIMING}
