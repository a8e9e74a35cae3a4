"""What this cluster cannot do: refused at once, with what to do instead."""

from __future__ import annotations

from collections.abc import Iterator

from server.domain.errors import UnsupportedByCluster
from server.domain.inference_service import ContainerPredictor, InferenceServiceSpec


def refuse_unsupported(spec: InferenceServiceSpec) -> None:
    """Raise UnsupportedByCluster, with everything that asks for more than processes can do."""
    if refusals := list(_refusals(spec)):
        raise UnsupportedByCluster(
            f"the local cluster runs model servers as processes of this machine: "
            f"{'; '.join(refusals)}; or deploy on a cluster with KServe (KSERVE_ENABLED)"
        )


def _refusals(spec: InferenceServiceSpec) -> Iterator[str]:
    if isinstance(spec.serving, ContainerPredictor):
        yield "it has no containers, so give spec.model with a format and a storage_uri"
    if spec.secret_env:
        yield "it has no Secrets, so give the values in spec.env or in the server's environment"
    if spec.service_account:
        yield (
            "it has no service accounts, so leave spec.service_account out and give this server's"
            " own environment the credentials"
        )
    if spec.node_selector or spec.tolerations:
        yield "it has no nodes to choose from, so leave spec.node_selector and tolerations out"
    if spec.deployment_mode:
        yield "it has no deployment modes, so leave spec.deployment_mode out"
    if (spec.scaling.min_replicas or 0) > 1:
        yield "it runs one replica of each service, so leave spec.scaling.min_replicas at 1"
