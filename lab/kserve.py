"""KServe's own manifests, taken from the source that its controller is built from."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

from .builds import KServe, Mode
from .cluster import Manifest
from .manifests import documents

NAMESPACE = "kserve"
SERVER_NAMESPACE = "model-serving"

# The names of `defaultDeploymentMode`; a release that knows neither does not start.
_MODES: dict[KServe, dict[Mode, str]] = {
    "0.15": {"standard": "RawDeployment", "knative": "Serverless"},
}
_PRESENT_MODES: dict[Mode, str] = {"standard": "Standard", "knative": "Knative"}

# `modelFormat` of a model predictor -> the image that scripts its pods' outcome (stages.yaml).
SCRIPTED_FORMATS = {
    "lab-slow": "lab/slow:10s",
    "lab-slow-3s": "lab/slow:3s",
    "lab-missing": "lab/missing:1",
    "lab-crash": "lab/crash:1",
    "lab-crash-once": "lab/crash-once:1",
    "lab-init-fails": "lab/init-fails:1",
}


def crds(source: Path) -> list[Manifest]:
    """InferenceServices, runtimes and what belongs to them."""
    folder = source / "config/crd/full"
    files = [
        *folder.glob("serving.kserve.io_*.yaml"),
        *folder.glob("clusterstoragecontainer/serving.kserve.io_*.yaml"),
    ]
    return [document for file in sorted(files) for document in documents(file)]


def namespaces() -> list[Manifest]:
    """KServe's own and the one that the server deploys to by default."""
    names = (NAMESPACE, SERVER_NAMESPACE)
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": n}} for n in names]


def configuration(source: Path, mode: Mode, kserve: KServe) -> Manifest:
    """KServe's ConfigMap: this mode, and no ingress but what Knative brings."""
    [config_map] = documents(source / "config/configmap/inferenceservice.yaml")
    data = config_map["data"]
    del data["_example"]
    data["deploy"] = json.dumps({"defaultDeploymentMode": _MODES.get(kserve, _PRESENT_MODES)[mode]})
    without_ingress = {
        # In Knative mode that would leave a service without its URL, and it waits for one.
        "disableIngressCreation": mode == "standard",
        "disableIstioVirtualHost": True,
        "enableGatewayApi": False,
    }
    storage = {"enableModelcar": True}  # a model may be an image, `oci://`
    data["storageInitializer"] = json.dumps(json.loads(data["storageInitializer"]) | storage)
    data["ingress"] = json.dumps(json.loads(data["ingress"]) | without_ingress)
    config_map["metadata"]["namespace"] = NAMESPACE
    return config_map


def runtimes(source: Path) -> list[Manifest]:
    """KServe's runtimes and storage container with their released images, and the lab's own."""
    manifests = [
        *_kustomized(source / "config/runtimes", "kserve-*.yaml"),
        *_kustomized(source / "config/storagecontainers", "default.yaml"),
    ]
    return manifests + [_scripted_runtime(name, image) for name, image in SCRIPTED_FORMATS.items()]


def webhooks(source: Path, port: int, certificate: bytes) -> list[Manifest]:
    """KServe's admission webhooks, called on 127.0.0.1:`port` instead of a Service."""
    manifests = list(documents(source / "config/webhook/manifests.yaml"))
    for webhook in (webhook for manifest in manifests for webhook in manifest["webhooks"]):
        path = webhook["clientConfig"]["service"]["path"]
        webhook["clientConfig"] = {
            "url": f"https://127.0.0.1:{port}{path}",
            "caBundle": base64.b64encode(certificate).decode(),
        }
    return manifests


def _scripted_runtime(model_format: str, image: str) -> Manifest:
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ClusterServingRuntime",
        "metadata": {"name": model_format},
        "spec": {
            "supportedModelFormats": [{"name": model_format, "version": "1", "autoSelect": True}],
            "protocolVersions": ["v1", "v2"],
            "containers": [
                {
                    "name": "kserve-container",
                    "image": image,
                    "args": ["--model_name={{.Name}}", "--model_dir=/mnt/models"],
                }
            ],
        },
    }


def _kustomized(folder: Path, pattern: str) -> Iterator[Manifest]:
    """The folder's manifests with the images that its kustomization names."""
    [kustomization] = documents(folder / "kustomization.yaml")
    images = {image["name"]: image for image in kustomization["images"]}
    for file in sorted(folder.glob(pattern)):
        for manifest in documents(file):
            for container in _containers(manifest):
                name = container["image"].rpartition(":")[0]
                if name in images:
                    container["image"] = f"{images[name]['newName']}:{images[name]['newTag']}"
            yield manifest


def _containers(manifest: Manifest) -> list[Manifest]:
    spec = manifest["spec"]
    worker = spec.get("workerSpec", {}).get("containers", [])
    single = [spec["container"]] if "container" in spec else []
    return [*spec.get("containers", []), *worker, *single]
