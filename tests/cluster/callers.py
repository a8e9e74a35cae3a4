"""Callers of a server with identity, and the roles that tests give them on the cluster."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from lab import Cluster, Lab
from tests.api.requests import eventually
from tests.api.token_files import Client

from .serving import ROOT, Server

GROUP = "rbac.authorization.k8s.io"
RBAC = f"{GROUP}/v1"
ROLES = yaml.safe_load_all((ROOT / "k8s/base/caller-roles.yaml").read_text())
CALLER_ROLES = {role["metadata"]["name"]: role for role in ROLES}


class Principal:
    """A caller without rights, and its calls. `user` is its name in the cluster."""

    def __init__(
        self, cluster: Cluster, client: Client, user: str, subject: dict[str, Any] | None = None
    ) -> None:
        self._cluster, self.client, self.user = cluster, client, user
        self._subject = subject or {"kind": "User", "name": user, "apiGroup": GROUP}

    def bind(self, role: str, namespace: str) -> dict[str, Any]:
        """Give it one of the roles for callers in a namespace."""
        return self.bind_to(CALLER_ROLES[role], namespace)

    def bind_to(self, role: dict[str, Any], namespace: str) -> dict[str, Any]:
        """Give it a ClusterRole in a namespace, and return once that counts: the API server takes
        a moment, and the server keeps a denial for 10 s."""
        self._cluster.apply(role)
        binding = self._binding(role, f"{self._subject['name']}-{role['metadata']['name']}")
        binding["kind"] = "RoleBinding"
        binding["metadata"]["namespace"] = namespace
        self._cluster.apply(binding)
        self._wait_for(role["rules"][0], namespace)
        return binding

    @contextmanager
    def bound_everywhere(self, role: dict[str, Any]) -> Iterator[None]:
        """Give it a ClusterRole in the cluster, for the length of a block."""
        self._cluster.apply(role)
        name = f"{self.user.replace(':', '-')}-{role['metadata']['name']}"
        binding = self._binding(role, name) | {"kind": "ClusterRoleBinding"}
        self._cluster.apply(binding)
        self._wait_for(role["rules"][0], "")
        try:
            yield
        finally:
            self._cluster.delete(binding)

    def _binding(self, role: dict[str, Any], name: str) -> dict[str, Any]:
        return {
            "apiVersion": RBAC,
            "metadata": {"name": name},
            "roleRef": {
                "apiGroup": GROUP,
                "kind": "ClusterRole",
                "name": role["metadata"]["name"],
            },
            "subjects": [self._subject],
        }

    def _wait_for(self, rule: dict[str, Any], namespace: str) -> None:
        attributes = {
            "verb": rule["verbs"][0],
            "group": rule["apiGroups"][0],
            "resource": rule["resources"][0],
            "name": next(iter(rule.get("resourceNames", [])), ""),
            "namespace": namespace,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": self.user, "resourceAttributes": attributes},
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        eventually(
            f"{self.user} has a right",
            lambda: self._cluster.request("POST", path, review)["status"]["allowed"],
        )


class Account(Principal):
    """A ServiceAccount."""

    def __init__(self, cluster: Cluster, server: Server, namespace: str, name: str) -> None:
        self.channel, self._namespace, self.name = server.channel, namespace, name
        self.manifest = {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": namespace},
        }
        cluster.apply(self.manifest)
        self._cluster = cluster
        user = f"system:serviceaccount:{namespace}:{name}"
        subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        super().__init__(cluster, self.with_token(self.token()), user, subject)

    def token(self, audience: str = "modelservice") -> str:
        path = f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{self.name}/token"
        spec = {"audiences": [audience], "expirationSeconds": 3600}
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": spec,
        }
        return str(self._cluster.request("POST", path, request)["status"]["token"])

    def token_until(self, lab: Lab, ends: float) -> str:
        """A token that ends at a Unix time, signed with the API server's own key: a TokenRequest
        makes none for less than 10 minutes."""
        header, claims, _ = self.token().split(".")
        begins = {"iat": int(ends) - 3600, "nbf": int(ends) - 3600, "exp": int(ends)}
        changed = json.dumps(json.loads(_decoded(claims)) | begins).encode()
        signed = f"{header}.{_encoded(changed)}"
        key = load_pem_private_key((lab.folder / "sa.key").read_bytes(), None)
        assert isinstance(key, RSAPrivateKey)
        return f"{signed}.{_encoded(key.sign(signed.encode(), PKCS1v15(), hashes.SHA256()))}"

    def with_token(self, token: str) -> Client:
        return Client(self.channel, f"Bearer {token}")


def project_role(name: str) -> dict[str, Any]:
    """A ClusterRole with all rights on one project."""
    [rule] = CALLER_ROLES["modelservice-registry-admin"]["rules"]
    return {
        "apiVersion": RBAC,
        "kind": "ClusterRole",
        "metadata": {"name": f"{name}-project"},
        "rules": [rule | {"resourceNames": [name]}],
    }


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")
