"""What tests do to a cluster with KServe, the lab's or another one."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from .credentials import write_kubeconfig
from .processes import wait_until

Manifest = dict[str, Any]


class Cluster:
    """A cluster as its administrator sees it; blocking calls, safe to use from any thread.

    Every call raises kubernetes.client.exceptions.ApiException for an answer that is not 2xx.
    Kubeconfig files that it writes go to `folder`.
    """

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self.kubeconfig = kubeconfig
        self.folder = folder
        self._kinds: dict[tuple[str, str], Manifest] = {}

    @cached_property
    def client(self) -> client.ApiClient:
        """For the typed APIs of the kubernetes package."""
        connected: client.ApiClient = config.new_client_from_config(str(self.kubeconfig))  # type: ignore[no-untyped-call]
        return connected

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self.client.configuration.host)

    @property
    def ca(self) -> bytes:
        """The API server's certificate authority, PEM."""
        return Path(self.client.configuration.ssl_ca_cert).read_bytes()

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str = "application/json",
    ) -> Manifest:
        """The JSON that the API server answers; `path` may carry a query."""
        prepared = self.client.param_serialize(
            method=method,
            resource_path=path,
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = self.client.call_api(*prepared, _request_timeout=30)
        text: bytes = answer.read()  # type: ignore[no-untyped-call]
        if not 200 <= answer.status < 300:
            raise ApiException.from_response(
                http_resp=answer, body=text.decode(errors="replace"), data=None
            )
        return dict(json.loads(text))

    def get(self, path: str) -> Manifest:
        """The object or list at `path`."""
        return self.request("GET", path)

    def apply(self, manifest: Manifest, *, field_manager: str = "lab") -> Manifest:
        """Server-side apply, forced; the object as stored."""
        query = f"?fieldManager={field_manager}&force=true"
        content_type = "application/apply-patch+yaml"
        return self.request("PATCH", self.path_of(manifest) + query, manifest, content_type)

    def apply_all(self, manifests: list[Manifest]) -> None:
        """Apply them in no order, several at once."""
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(self.apply, manifests))

    def apply_crds(self, crds: list[Manifest]) -> None:
        """Apply these CustomResourceDefinitions and return when their kinds are served."""
        self.apply_all(crds)
        # A controller that starts before its kinds are served ends at once.
        wait_until(lambda: all(map(self._serves, crds)), "the CRDs' kinds are served")

    def delete(self, manifest: Manifest) -> None:
        """Delete the object that `manifest` names."""
        self.request("DELETE", self.path_of(manifest))

    def path_of(self, manifest: Manifest) -> str:
        """The URL path of the object that `manifest` names (namespace `default` if it has none).

        KeyError when the cluster does not know its kind.
        """
        version, kind = manifest["apiVersion"], manifest["kind"]
        self.knows(version, kind)
        resource = self._kinds[version, kind]
        metadata = manifest["metadata"]
        namespace = f"/namespaces/{metadata.get('namespace', 'default')}"
        scope = namespace if resource["namespaced"] else ""
        return f"{_root(version)}{scope}/{resource['name']}/{metadata['name']}"

    def knows(self, version: str, kind: str) -> bool:
        """Whether the cluster serves this kind, asked at most once while the answer is yes."""
        if (version, kind) not in self._kinds:
            self._discover(version)
        return (version, kind) in self._kinds

    def kubeconfig_for(self, service_account: str, namespace: str) -> Path:
        """A new kubeconfig that acts with an hour's token of this ServiceAccount."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        }
        token = self.request("POST", path, request)["status"]["token"]
        return self.kubeconfig_with(token, f"{namespace}-{service_account}")

    def kubeconfig_with(self, token: str, name: str) -> Path:
        """A kubeconfig of this name, for this cluster, that acts with `token`."""
        path = self.folder / f"{name}.kubeconfig"
        return write_kubeconfig(path, server=self.server, ca=self.ca, token=token)

    def _serves(self, crd: Manifest) -> bool:
        spec = crd["spec"]
        versions = [version["name"] for version in spec["versions"] if version["served"]]
        kinds = [(f"{spec['group']}/{version}", spec["names"]["kind"]) for version in versions]
        return all(self.knows(*kind) for kind in kinds)

    def _discover(self, version: str) -> None:
        try:
            resources = self.get(_root(version))["resources"]
        except ApiException as error:
            if error.status != 404:
                raise
            return
        for resource in resources:
            if "/" not in resource["name"]:
                self._kinds[version, resource["kind"]] = resource


def _root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"
