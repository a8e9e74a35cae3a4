"""What it takes to call the server that k8s/ installs: its certificate, and a caller's token."""

from __future__ import annotations

import base64
from pathlib import Path

import grpc

from lab import NodeLab
from tests.api.test_tls_document import make_certificate
from tests.cluster.serving import NAMESPACE

NAME = "a-caller"
RBAC = "rbac.authorization.k8s.io"


def make_secret(lab: NodeLab, folder: Path) -> bytes:
    """Make the Secret of the server's certificate, and return the CA."""
    make_certificate(folder)
    lab.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    data = {
        name: base64.b64encode((folder / name).read_bytes()).decode()
        for name in ("tls.crt", "tls.key")
    }
    metadata = {"name": "modelservice-tls", "namespace": NAMESPACE}
    kind = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls"}
    lab.apply(kind | {"metadata": metadata, "data": data})
    return (folder / "ca.crt").read_bytes()


def deployer_token(lab: NodeLab) -> str:
    """The token of a ServiceAccount that may deploy everywhere."""
    metadata = {"name": NAME, "namespace": "default"}
    lab.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    role = {"apiGroup": RBAC, "kind": "ClusterRole", "name": "modelservice-deployer"}
    lab.apply(
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": NAME},
            "roleRef": role,
            "subjects": [{"kind": "ServiceAccount"} | metadata],
        }
    )
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": ["modelservice"], "expirationSeconds": 3600},
    }
    path = f"/api/v1/namespaces/default/serviceaccounts/{NAME}/token"
    return str(lab.request("POST", path, request)["status"]["token"])


def calling(
    target: str, ca: bytes, token: str, options: tuple[tuple[str, object], ...] = ()
) -> grpc.Channel:
    """A channel whose calls have the token."""
    named = ("grpc.ssl_target_name_override", "modelservice.modelservice")
    credentials = grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(ca), grpc.access_token_call_credentials(token)
    )
    return grpc.secure_channel(target, credentials, options=[named, *options])
