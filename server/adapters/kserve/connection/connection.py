"""Open the connection to one API server, when the server starts.

Its address, TLS, proxy and impersonation stay the same; only the user's credentials are renewed.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult

import structlog

from server.adapters.kserve.connection.credentials import Credentials, Identity, identity_of
from server.adapters.kserve.connection.kubeconfig import (
    Cluster,
    Impersonation,
    Selection,
    User,
    load,
    parse_server,
    select,
)
from server.adapters.kserve.connection.proxies import proxy_for
from server.adapters.kserve.connection.tls import tls_context
from server.adapters.kserve.connection.yaml_document import ConfigurationUnusable

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_NOT_IN_HEADER_NAME = re.compile(rb"[^!#$&'*+\-.^_`|~0-9A-Za-z]")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Connection:
    """The API server's address, and the way to it; `headers` impersonate."""

    server: str
    tls_server_name: str
    proxy: str | None
    headers: Sequence[tuple[str, str]]
    credentials: Credentials


async def open_kubeconfig(paths: Sequence[Path], environment: Mapping[str, str]) -> Connection:
    """Open the current context of these kubeconfigs, as kubectl would.

    Runs its credential plugin. Raises ConfigurationUnusable.
    """
    return await _open(await asyncio.to_thread(lambda: select(load(paths))), environment)


async def open_in_cluster(environment: Mapping[str, str]) -> Connection:
    """Open the API server of the cluster that this pod runs in, as its service account.

    Raises ConfigurationUnusable.
    """
    field_path = "the pod's service account: "
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "")
    if not (host and port):
        raise ConfigurationUnusable(
            f"{field_path}KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be set"
        )
    cluster = Cluster(
        field_path="the pod's service account",
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        ca_file=SERVICE_ACCOUNT / "ca.crt",
    )
    user = User(field_path="the pod's service account", token_file=SERVICE_ACCOUNT / "token")
    return await _open(Selection(parse_server(cluster), cluster, user), environment)


async def _open(selection: Selection, environment: Mapping[str, str]) -> Connection:
    server, cluster, user = selection.server, selection.cluster, selection.user
    secure = server.scheme == "https"
    if not secure and user.has_credentials:
        log.warning("credentials are not sent over plain http", server=server.geturl())
    ca = await asyncio.to_thread(cluster.ca)

    async def obtain(user: User) -> Identity:
        if not secure:
            return Identity()
        return await identity_of(user, _cluster_for_plugins(cluster, server, ca), environment)

    def make_tls(certificate: tuple[bytes, bytes] | None) -> ssl.SSLContext | None:
        if not secure:
            return None
        return tls_context(
            ca, insecure=cluster.insecure, field_path=cluster.field_path, certificate=certificate
        )

    connection = Connection(
        server=server.geturl(),
        tls_server_name=cluster.tls_server_name,
        proxy=proxy_for(cluster, server, environment),
        headers=_impersonation_headers(user.impersonation),
        credentials=Credentials(user, obtain, make_tls),
    )
    await connection.credentials.open()
    return connection


def _cluster_for_plugins(cluster: Cluster, server: SplitResult, ca: bytes) -> dict[str, Any]:
    """Return the cluster as in an ExecCredential, without empty fields as in client-go."""
    fields = {
        "server": server.geturl(),
        "tls-server-name": cluster.tls_server_name,
        "insecure-skip-tls-verify": cluster.insecure,
        "certificate-authority-data": base64.b64encode(ca).decode(),
        "proxy-url": cluster.proxy_url,
        "disable-compression": cluster.disable_compression,
    }
    return {name: value for name, value in fields.items() if value} | {
        "config": cluster.exec_config
    }


def _impersonation_headers(impersonation: Impersonation) -> list[tuple[str, str]]:
    if not impersonation.user:
        return []
    headers = [("Impersonate-User", impersonation.user)]
    headers += [("Impersonate-Uid", impersonation.uid)] if impersonation.uid else []
    headers += [("Impersonate-Group", group) for group in impersonation.groups]
    for key, values in impersonation.extra:
        headers += [(f"Impersonate-Extra-{_escaped(key)}", value) for value in values]
    return headers


def _escaped(key: str) -> str:
    """Percent-encode the characters that RFC 7230 does not allow in a header's name."""
    return _NOT_IN_HEADER_NAME.sub(lambda found: b"%%%02X" % ord(found[0]), key.encode()).decode()
