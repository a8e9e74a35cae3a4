"""Knative Serving's own manifests, taken from the source that its programs are built from."""

from __future__ import annotations

from lab.builds import module_source
from lab.cluster import Manifest
from lab.images import QUEUE_PROXY
from lab.manifests import documents

NAMESPACE = "knative-serving"
WEBHOOK_PORT = 8443

# Whatever is not said here is as Knative has it.
_CONFIGURATION = {
    "config-autoscaler": {
        # The activator stays in the path of every request, so that nobody asks whether it is.
        "target-burst-capacity": "-1",
        # An idle service is at zero 8 s later instead of 90.
        "stable-window": "6s",
        "scale-to-zero-grace-period": "2s",
    },
    "config-deployment": {
        "queue-sidecar-image": QUEUE_PROXY,
        # What an image's tag stands for is asked of no registry, the one of the tests included.
        "registries-skipping-tag-resolving": "index.docker.io,docker.io,gcr.io,ghcr.io,nvcr.io,"
        "quay.io,public.ecr.aws,registry.example",
        # A rollout that fails is told by Knative after this, not after 600 s.
        "progress-deadline": "60s",
    },
    "config-domain": {"example.com": ""},
    # What one that was killed held is free after this, not after 60 s.
    "config-leader-election": {
        "lease-duration": "15s",
        "renew-deadline": "10s",
        "retry-period": "2s",
    },
    # Its port tells that a program runs.
    "config-observability": {"runtime-profiling": "enabled"},
    "config-network": {"ingress-class": "lab.ingress.networking.knative.dev"},
}


class Source:
    """The folders of the modules that the programs are built from."""

    def __init__(self) -> None:
        self._serving = module_source("knative", "knative.dev/serving")
        self._networking = module_source("knative", "knative.dev/networking")
        self._caching = module_source("knative", "knative.dev/caching")

    def crds(self) -> list[Manifest]:
        """Knative Services, Revisions and what they are made of."""
        networking = ("certificate", "domain-claim", "ingress", "serverlessservice")
        files = [
            *(self._serving / "config/core/300-resources").glob("*.yaml"),
            *(self._networking / f"config/{name}.yaml" for name in networking),
            self._caching / "config/image.yaml",
        ]
        return [document for file in sorted(files) for document in documents(file)]

    def configuration(self) -> list[Manifest]:
        """Every ConfigMap that the programs read."""
        files = [
            *(self._serving / "config/core/configmaps").glob("*.yaml"),
            self._networking / "config/config-network.yaml",
        ]
        names = [document["metadata"]["name"] for file in files for document in documents(file)]
        return [_object("ConfigMap", name, data=_CONFIGURATION.get(name, {})) for name in names]

    def webhooks(self) -> list[Manifest]:
        """Its admission webhooks, to which its own program adds the certificate."""
        folder = self._serving / "config/core/webhooks"
        files = [folder / "defaulting.yaml", folder / "resource-validation.yaml"]
        manifests = [document for file in files for document in documents(file)]
        for webhook in (webhook for manifest in manifests for webhook in manifest["webhooks"]):
            webhook["clientConfig"]["service"]["port"] = WEBHOOK_PORT
        return manifests


def namespace() -> Manifest:
    """Where all of it is."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}


def webhook_service(address: str) -> list[Manifest]:
    """The webhook program as it wants to be called: as a Service, which leads to this address."""
    return [
        _object("Service", "webhook", spec={"type": "ExternalName", "externalName": address}),
        _object("Secret", "webhook-certs"),
    ]


def activator(address: str) -> list[Manifest]:
    """The Service that a Revision at zero is called through, with an endpoint at this address.

    Knative waits for there to be one; in the lab nothing answers there.
    """
    ports = [{"name": "http", "port": 8012}, {"name": "http2", "port": 8013}]
    name = "activator-service"
    return [
        _object("Service", name, spec={"ports": ports}),
        _object("Endpoints", name, subsets=[{"addresses": [{"ip": address}], "ports": ports}]),
    ]


def _object(kind: str, name: str, **fields: object) -> Manifest:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **fields}
