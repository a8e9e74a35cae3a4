"""The connection to one API server, settled when the server starts.

Which server, how it is verified, through which proxy and on whose behalf stays as it was; only the
credentials of the one user change.
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

_NO_TOKEN = re.compile(rb"[^!#$&'*+\-.^_`|~0-9A-Za-z]")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the API server is and how it is asked; `headers` impersonate."""

    server: str
    tls_server_name: str
    proxy: str | None
    headers: Sequence[tuple[str, str]]
    credentials: Credentials


async def open_kubeconfig(paths: Sequence[Path], environment: Mapping[str, str]) -> Connection:
    """Open what the current context of these kubeconfigs names, as kubectl would.

    A credential plugin is run. Raises ConfigurationUnusable.
    """
    return await _open(await asyncio.to_thread(lambda: select(load(paths))), environment)


async def open_pod(environment: Mapping[str, str]) -> Connection:
    """Open the cluster that this pod runs in, as its service account.

    Raises ConfigurationUnusable.
    """
    at = "the pod's service account: "
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "")
    if not (host and port):
        raise ConfigurationUnusable(
            f"{at}KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be set"
        )
    cluster = Cluster(
        at="the pod's service account",
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        ca_file=SERVICE_ACCOUNT / "ca.crt",
    )
    user = User(at="the pod's service account", token_file=SERVICE_ACCOUNT / "token")
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
        return tls_context(ca, insecure=cluster.insecure, at=cluster.at, certificate=certificate)

    connection = Connection(
        server=server.geturl(),
        tls_server_name=cluster.tls_server_name,
        proxy=proxy_for(cluster, server, environment),
        headers=_impersonating(user.impersonation),
        credentials=Credentials(user, obtain, make_tls),
    )
    await connection.credentials.open()
    return connection


def _cluster_for_plugins(cluster: Cluster, server: SplitResult, ca: bytes) -> dict[str, Any]:
    """The cluster as an ExecCredential has it; empty fields are left out, as client-go does."""
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


def _impersonating(who: Impersonation) -> list[tuple[str, str]]:
    if not who.user:
        return []
    headers = [("Impersonate-User", who.user)]
    headers += [("Impersonate-Uid", who.uid)] if who.uid else []
    headers += [("Impersonate-Group", group) for group in who.groups]
    for key, values in who.extra:
        headers += [(f"Impersonate-Extra-{_escaped(key)}", value) for value in values]
    return headers


def _escaped(key: str) -> str:
    """An extra's key with percent signs for what RFC 7230 keeps out of a header's name."""
    return _NO_TOKEN.sub(lambda found: b"%%%02X" % ord(found[0]), key.encode()).decode()
