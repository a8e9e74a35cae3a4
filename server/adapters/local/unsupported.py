"""What this cluster cannot do: refused at once, with what to do instead."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from server.adapters.local.processes.process_environment import expand, expanded
from server.domain.errors import UnsupportedByCluster
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceServiceSpec,
    ModelPredictor,
)
from server.domain.service.model_name import model_name


def refuse_unsupported(spec: InferenceServiceSpec) -> None:
    """Raise UnsupportedByCluster, with everything that asks for more than processes can do."""
    if refusals := list(_refusals(spec)):
        raise UnsupportedByCluster(
            f"the local cluster runs model servers as processes of this machine: "
            f"{'; '.join(refusals)}; or deploy on a cluster with KServe (KSERVE_ENABLED)"
        )


def _refusals(spec: InferenceServiceSpec) -> Iterator[str]:
    if isinstance(spec.serving, ContainerPredictor):
        yield (
            "it has no containers, so give spec.model with a format and a storage_uri instead of"
            " spec.container"
        )
    if spec.secret_env:
        yield (
            "it has no Secrets, so leave spec.secret_env out and give the values in spec.env or in"
            " this server's own environment"
        )
    if spec.service_account:
        yield (
            "it has no service accounts, so leave spec.service_account out and give this server's"
            " own environment the credentials"
        )
    if spec.node_selector or spec.tolerations:
        yield "it has no nodes to choose from, so leave spec.node_selector and spec.tolerations out"
    if spec.deployment_mode:
        yield "it has no deployment modes, so leave spec.deployment_mode out"
    if isinstance(spec.serving, ModelPredictor) and not _fits_path(spec, spec.serving):
        yield (
            "it asks for a model by its name in a path, so let MLSERVER_MODEL_NAME in spec.env, or"
            " --model_name in spec.model.args, have letters, digits, '-', '_', '.' and '~' alone"
        )
    if (spec.scaling.min_replicas or 0) > 1:
        yield "it runs one replica of each service, so leave spec.scaling.min_replicas at 1"


def _fits_path(spec: InferenceServiceSpec, model: ModelPredictor) -> bool:
    variables = expanded(spec.env)
    arguments = [expand(argument, variables) for argument in model.args]
    name = model_name("service", variables, arguments)
    return name not in ("", ".", "..") and quote(name, safe="") == name
