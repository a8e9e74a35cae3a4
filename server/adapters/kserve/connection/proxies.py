"""Choose the proxy to the API server, by the rules of Go's net/http."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from server.adapters.kserve.connection.kubeconfig import Cluster
from server.adapters.kserve.connection.yaml_document import ConfigurationUnusable

_PORTS = {"http": 80, "https": 443}
_NAMES = {"http": ("HTTP_PROXY", "http_proxy"), "https": ("HTTPS_PROXY", "https_proxy")}


def proxy_for(cluster: Cluster, server: SplitResult, environment: Mapping[str, str]) -> str | None:
    """Return the URL of the proxy, or None. Raises ConfigurationUnusable.

    The cluster's own proxy-url applies to any server; a proxy of the environment never to loopback.
    """
    if cluster.proxy_url:
        return _validated(cluster.proxy_url, f"{cluster.field_path}.proxy-url")
    names = _NAMES[server.scheme]
    name, proxy = next(((n, environment[n]) for n in names if environment.get(n)), ("", ""))
    no_proxy = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    if not proxy or _bypasses_proxy(server, no_proxy):
        return None
    return _validated(proxy if "://" in proxy else f"http://{proxy}", name)


def _validated(proxy: str, field_path: str) -> str:
    """Validate a proxy's URL. Messages do not show it: it may have a password."""
    try:
        split = urlsplit(proxy)
        usable = bool(split.hostname) and split.port != 0
    except ValueError:
        raise ConfigurationUnusable(f"{field_path}: must be a URL") from None
    if split.scheme.startswith("socks"):
        raise ConfigurationUnusable(
            f"{field_path}: must begin with http://, got {split.scheme}://: SOCKS proxies are not"
            " supported"
        )
    if split.scheme != "http" or not usable:
        raise ConfigurationUnusable(f"{field_path}: must be a URL that begins with http://")
    return proxy


def _bypasses_proxy(server: SplitResult, no_proxy: str) -> bool:
    host = (server.hostname or "").lower()
    port = server.port or _PORTS[server.scheme]
    address = _address(host)
    if host == "localhost" or (address and address.is_loopback):
        return True
    entries = [entry.strip().lower() for entry in no_proxy.split(",")]
    return any(_matches(entry, host, address, port) for entry in entries if entry)


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _matches(entry: str, host: str, address: _Address | None, port: int) -> bool:
    """Return whether an entry of NO_PROXY, an address, network, domain or `*`, names the host."""
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, entry_port = _split_port(entry)
    if entry_port not in ("", str(port)):
        return False
    if entry_address := _address(name):
        return address == entry_address
    if address or not name:
        return False
    name = name.removeprefix("*")
    return host.endswith(name) if name.startswith(".") else f".{host}".endswith(f".{name}")


def _split_port(entry: str) -> tuple[str, str]:
    if entry.startswith("["):
        name, _, port = entry[1:].partition("]")
        return name, port.removeprefix(":")
    name, _, port = entry.rpartition(":")
    return (name, port) if entry.count(":") == 1 else (entry, "")


def _address(host: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    # Go takes an IPv4-mapped address for the IPv4 address.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
