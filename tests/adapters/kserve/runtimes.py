"""Serving runtimes as clusters have them."""

from __future__ import annotations

from typing import Any

from server.adapters.kserve.manifests.serving_runtimes import Runtimes


def runtime(
    name: str = "kserve-sklearnserver",
    *,
    formats: tuple[str, ...] = ("sklearn:1",),
    protocols: tuple[str, ...] = ("v1", "v2"),
    args: tuple[str, ...] = ("--model_name={{.Name}}", "--http_port=8080"),
    server_type: str = "",
    auto_select: bool = True,
    container: dict[str, Any] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    known = [
        {"name": name, **({"version": version} if version else {}), "autoSelect": auto_select}
        for name, _, version in (form.partition(":") for form in formats)
    ]
    serving = {"name": "kserve-container", "image": f"{name}:1", "args": list(args)}
    annotations = {"serving.kserve.io/server-type": server_type} if server_type else {}
    return {
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "supportedModelFormats": known,
            "protocolVersions": list(protocols),
            "containers": [{"name": "sidecar"}, {**serving, **(container or {})}],
            **spec,
        },
    }


SKLEARN = runtime()
MLSERVER = runtime(
    "kserve-mlserver", formats=("sklearn:0", "sklearn:1"), protocols=("v2",), args=()
)
HUGGINGFACE = runtime(
    "kserve-huggingfaceserver", formats=("huggingface:1",), protocols=("v2", "v1")
)
TRITON = runtime(
    "kserve-tritonserver",
    formats=("triton:2",),
    protocols=("v2", "grpc-v2"),
    args=("tritonserver",),
)
VLLM = runtime(
    "kserve-vllmserver",
    formats=("vLLM:1",),
    protocols=(),
    container={"readinessProbe": {"httpGet": {"path": "/v1/models", "port": 8080}}},
)
MULTINODE = runtime(
    "kserve-huggingfaceserver-multinode",
    formats=("huggingface:1",),
    protocols=("v2", "v1"),
    container={"readinessProbe": {"exec": {"command": ["true"]}}},
    workerSpec={"containers": [{"name": "worker"}]},
)
STOCK = (SKLEARN, MLSERVER, HUGGINGFACE, TRITON, VLLM, MULTINODE)


def clusters(*runtimes: dict[str, Any]) -> Runtimes:
    return Runtimes((), runtimes)
