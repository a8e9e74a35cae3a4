"""Which servers are reached through the environment's proxy, by the rules of Go's net/http."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from server.adapters.kserve.connection.kubeconfig import Cluster
from server.adapters.kserve.connection.proxies import proxy_for
from server.adapters.kserve.connection.yaml_document import ConfigurationUnusable

PROXY = "http://proxy.test:3128"


def proxied(server: str, **environment: str) -> str | None:
    return proxy_for(Cluster("c", server), urlsplit(server), {"HTTPS_PROXY": PROXY, **environment})


@pytest.mark.parametrize(
    ("server", "no_proxy"),
    [
        ("https://localhost:6443", ""),
        ("https://127.8.9.1:6443", ""),
        ("https://[::1]:6443", ""),
        ("https://api.test", "*"),
        ("https://api.test", "other, API.test"),
        ("https://a.b.test", "b.test"),
        ("https://a.b.test", ".b.test"),
        ("https://a.b.test", "*.b.test"),
        ("https://api.test", "api.test:443"),
        ("https://api.test:6443", "api.test:6443"),
        ("https://10.1.2.3:6443", "10.0.0.0/8"),
        ("https://10.1.2.3:6443", "10.1.2.3"),
        ("https://10.1.2.3:6443", "10.1.2.3:6443"),
        ("https://[fd00::7]:6443", "fd00::/8"),
        ("https://[fd00::7]:6443", "[fd00::7]:6443"),
        ("https://[fd00::7]:6443", "fd00:0::7"),
    ],
)
def test_these_are_reached_directly(server: str, no_proxy: str) -> None:
    assert proxied(server, NO_PROXY=no_proxy) is None
    assert proxied(server, no_proxy=no_proxy) is None


@pytest.mark.parametrize(
    ("server", "no_proxy"),
    [
        ("https://api.test", ""),
        ("https://api.test", "api.test:6443"),
        ("https://api.test", "test2,pi.test"),
        ("https://b.test", ".b.test"),
        ("https://b.test", "*.b.test"),
        ("https://10.1.2.3:6443", "10.1.2.3:443"),
        ("https://10.1.2.3:6443", "11.0.0.0/8, 10.0.0.0/99, /"),
        ("https://10.1.2.3:6443", ".3, 2.3"),
        ("https://api.test", ", ,:443"),
    ],
)
def test_these_are_reached_through_it(server: str, no_proxy: str) -> None:
    assert proxied(server, NO_PROXY=no_proxy) == PROXY


@pytest.mark.parametrize(
    "proxy", ["socks5://p:1", "ftp://p", "http://", "http://p:x", "http://[::"]
)
def test_a_proxy_that_cannot_be_used_is_named_and_not_shown(proxy: str) -> None:
    with pytest.raises(ConfigurationUnusable, match=r"^HTTPS_PROXY: must be") as raised:
        proxied("https://api.test", HTTPS_PROXY=proxy.replace("://", "://me:secret@"))
    assert "secret" not in str(raised.value)
