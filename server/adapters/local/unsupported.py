"""Refuses specs that the local cluster cannot run, and warns of what it does not enforce."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from server.adapters.local.model_files.model_sources import names_source, shown
from server.adapters.local.processes.process_environment import expand, expand_env
from server.domain.errors import UnsupportedByCluster
from server.domain.kubernetes.names import escaped
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceServiceSpec,
    ModelPredictor,
)
from server.domain.service.model_name import model_name
from server.domain.service.write_warnings import WriteWarning

_ONE_REPLICA = "the local cluster always runs one replica"
_NO_EFFECT = "has no effect: {}; the value is stored"


def refuse_unsupported(spec: InferenceServiceSpec) -> None:
    """Raise UnsupportedByCluster with every field that processes cannot provide."""
    if problems := list(_problems(spec)):
        raise UnsupportedByCluster(
            f"the local cluster runs model servers as processes of this machine: "
            f"{'; '.join(problems)}; or deploy on a cluster with KServe (KSERVE_ENABLED)"
        )


def unenforced(spec: InferenceServiceSpec) -> Iterator[WriteWarning]:
    """Yield a warning for each field that is kept and has no effect on processes."""
    scaling = spec.scaling
    if spec.resources.requests or spec.resources.limits:
        yield WriteWarning(
            "spec.resources", _NO_EFFECT.format("the local cluster does not limit processes")
        )
    if spec.image_pull_policy:
        yield WriteWarning(
            "spec.image_pull_policy", _NO_EFFECT.format("the local cluster pulls no images")
        )
    if scaling.min_replicas == 0:
        yield WriteWarning("spec.scaling.min_replicas", f"0 means 1: {_ONE_REPLICA}")
    if (scaling.max_replicas or 1) > 1:
        yield WriteWarning("spec.scaling.max_replicas", _NO_EFFECT.format(_ONE_REPLICA))
    if scaling.target is not None:
        yield WriteWarning("spec.scaling.target", _NO_EFFECT.format(_ONE_REPLICA))
    if scaling.metric:
        yield WriteWarning("spec.scaling.metric", _NO_EFFECT.format(_ONE_REPLICA))
    if strategy := spec.rollout_strategy:
        for name in ("max_surge", "max_unavailable"):
            if getattr(strategy, name):
                yield WriteWarning(f"spec.rollout_strategy.{name}", _NO_EFFECT.format(_ONE_REPLICA))


def _problems(spec: InferenceServiceSpec) -> Iterator[str]:
    if isinstance(spec.serving, ContainerPredictor):
        yield (
            "it has no containers, so set spec.model with a format and a storage_uri instead of"
            " spec.container"
        )
    if spec.secret_env:
        yield (
            "it has no Secrets, so leave spec.secret_env out and set the values in spec.env or in"
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
    if isinstance(spec.serving, ModelPredictor) and not names_source(spec.serving.storage_uri):
        yield (
            "it knows no folder of the caller's, so spec.model.storage_uri must be a URI or an"
            f" absolute path of this machine, got {escaped(shown(spec.serving.storage_uri))}"
        )
    if isinstance(spec.serving, ModelPredictor) and not _fits_path(spec, spec.serving):
        yield (
            "the model's name is part of a URL, so MLSERVER_MODEL_NAME in spec.env, or --model_name"
            " in spec.model.args, must have only letters, digits, '-', '_', '.' and '~'"
        )
    if (spec.scaling.min_replicas or 0) > 1:
        yield "it runs one replica of each service, so leave spec.scaling.min_replicas at 1"


def _fits_path(spec: InferenceServiceSpec, model: ModelPredictor) -> bool:
    variables = expand_env(spec.env)
    arguments = [expand(argument, variables) for argument in model.args]
    name = model_name("service", variables, arguments)
    return name not in ("", ".", "..") and quote(name, safe="") == name
