"""Kubeconfigs of all kinds, and where kubectl and the server go with each, and as whom.

`python -m tests.cluster.kubeconfigs` prints the table.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from lab import builds
from server.adapters.kserve.client import ApiServer, Unanswered, Unreachable
from server.adapters.kserve.connection.yaml_document import ConfigurationUnusable
from server.settings import Kubernetes, SettingsInvalid
from tests.api_recorders import Asked, Authority, Recorder, proxying, recording

Document = Mapping[str, Any]

ROOT = Path(__file__).parents[2]
WRONG_SETTING = 2
ASKED_WITHIN = 60.0

V1 = "client.authentication.k8s.io/v1"
PRINT_TOKEN = f"""#!/bin/sh
echo '{{"kind": "ExecCredential", "apiVersion": "{V1}", "status": {{"token": "'"$1$WHO"'"}}}}'
"""
PRINT_INFO = f"""#!/bin/sh
info=$(printf '%s' "$KUBERNETES_EXEC_INFO" | base64 -w 0)
echo '{{"kind": "ExecCredential", "apiVersion": "{V1}", "status": {{"token": "'"$info"'"}}}}'
"""
PRINT_YAML = f"""#!/bin/sh
printf 'kind: ExecCredential\\napiVersion: {V1}\\nstatus:\\n  token: from-yaml\\n'
"""


@dataclass(frozen=True)
class Case:
    """A kubeconfig, or several by their paths in the case's own folder.

    `kubeconfig` is $KUBECONFIG, where {} stands for the folder. `refused` is the field that the
    server names when it refuses to start; otherwise it goes where kubectl goes, and fails where
    kubectl fails.
    """

    name: str
    files: Mapping[str, Document | str | bytes]
    kubeconfig: str = "{}/config"
    env: Mapping[str, str] | None = None
    refused: str = ""


@dataclass(frozen=True)
class Row:
    """What became of a case; `differs` says how the server differs from kubectl, if it does."""

    name: str
    kubectl: str
    server: str
    differs: str


@dataclass(frozen=True)
class World:
    """The recorders that kubeconfigs lead to, and what is needed to get there."""

    folder: Path
    recorders: Sequence[Recorder]
    urls: Mapping[str, str]
    ca: Authority
    other_ca: Authority
    clients: Authority
    proxy: int
    plain_proxy: int
    leaf: bytes

    def cluster(self, name: str = "a", **fields: Any) -> dict[str, Any]:
        """An entry of clusters that verifies the server; None takes a field away."""
        ca = self.other_ca if name == "b" else self.ca
        entry = {"server": self.urls[name], "certificate-authority-data": encoded(ca.pem)}
        entry |= {key.replace("_", "-"): value for key, value in fields.items()}
        return {key: value for key, value in entry.items() if value is not None}


def config(
    cluster: Document, user: Document | None, name: str = "here", **fields: Any
) -> dict[str, Any]:
    """A whole kubeconfig whose context, cluster and user have a name."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [] if user is None else [{"name": name, "user": user}],
    } | fields


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def plugin(command: str, **fields: Any) -> dict[str, Any]:
    return {"exec": {"apiVersion": V1, "interactiveMode": "Never", "command": command} | fields}


def cases(world: World) -> list[Case]:
    """All of them."""
    return [
        *_of_files(world),
        *_of_servers(world),
        *_of_credentials(world),
        *_of_plugins(world),
        *_of_impersonation(world),
        *_of_verification(world),
        *_of_proxies(world),
    ]


def _of_files(w: World) -> list[Case]:
    a, b = w.cluster("a"), w.cluster("b")
    both = "{}/one:{}/two"
    at_a, at_b = config(a, {"token": "t-a"}), config(b, {"token": "t-b"}, "b")
    without = {**at_a, "current-context": ""}
    split = config(a, None)
    return [
        Case("one file", {"config": at_a}),
        Case("two files with a current-context each", {"one": at_a, "two": at_b}, both),
        Case("the same, the other way round", {"one": at_b, "two": at_a}, both),
        Case(
            "two files with the same names", {"one": at_a, "two": config(b, {"token": "t-b"})}, both
        ),
        Case(
            "the first file has no current-context",
            {"one": without, "two": at_b},
            both,
        ),
        Case(
            "the first file's current-context is in the second",
            {"one": {**at_a, "current-context": "b"}, "two": {**at_b, "current-context": "here"}},
            both,
        ),
        Case(
            "one file with the cluster, one with the user",
            {"one": split, "two": {"users": at_a["users"]}},
            both,
        ),
        Case(
            "a cluster in two files, of which the first has no CA",
            {
                "one": {"clusters": [{"name": "here", "cluster": {"server": a["server"]}}]},
                "two": at_a,
            },
            both,
        ),
        Case("an empty file before", {"one": "", "two": at_a}, both),
        Case("a file of comments before", {"one": "# nothing\n", "two": at_a}, both),
        Case("a file with null before", {"one": "null\n", "two": at_a}, both),
        Case("empty parts and a missing file", {"one": at_a}, ":{}/absent::{}/one:"),
        Case("the same file twice", {"one": at_a}, "{}/one:{}/one"),
        Case(
            "null lists before",
            {"one": "clusters: null\nusers:\ncontexts: ~\nextensions: null\n", "two": at_a},
            both,
        ),
        Case(
            "null entries and fields",
            {
                "config": config(
                    {**a, "proxy-url": None}, {"token": "t", "as-groups": None, "exec": None}
                )
            },
        ),
        Case("~/.kube/config", {".kube/config": at_a}, ""),
        Case(
            "relative paths",
            {
                "deep/config": config(
                    w.cluster(certificate_authority_data=None, certificate_authority="../ca.pem"),
                    {"tokenFile": "secrets/token"},
                ),
                "ca.pem": w.ca.pem,
                "deep/secrets/token": "t-file",
            },
            "deep/config",
        ),
        Case("JSON with tabs", {"config": json.dumps(at_a, indent="\t")}),
        Case(
            "two documents in a file",
            {"config": f"{json.dumps(at_a)}\n---\n{json.dumps(at_b)}\n"},
        ),
        Case(
            "a later file is broken",
            {"one": at_a, "two": "users: ["},
            both,
            refused="must be YAML: line ",
        ),
        Case(
            "another user's token is a number",
            {"config": {**at_a, "users": [*at_a["users"], {"name": "o", "user": {"token": 1}}]}},
            refused="users[o].user.token",
        ),
        Case(
            "a user twice in a file",
            {"config": {**at_a, "users": at_a["users"] * 2}},
            refused="users[here].name",
        ),
        Case("another kind", {"config": {**at_a, "kind": "Secret"}}, refused="kind"),
        *_of_types(at_a),
        Case("no current-context", {"config": without}, refused="current-context"),
        Case(
            "a context that is not there",
            {"config": {**at_a, "current-context": "gone"}},
            refused="current-context",
        ),
        Case(
            "a cluster that is not there",
            {"config": {**at_a, "clusters": None}},
            refused="contexts[here].context.cluster",
        ),
        Case(
            "a user that is not there",
            {"config": config(a, None)},
            refused="contexts[here].context.user",
        ),
        Case("no file at all", {}, "{}/absent", refused="KUBERNETES_KUBECONFIG"),
    ]


def _of_types(good: Document) -> list[Case]:
    """Fields that decide nothing here, with values of a type that kubectl does not take."""
    [context], [cluster], [user] = good["contexts"], good["clusters"], good["users"]

    def with_context(**fields: Any) -> Mapping[str, Any]:
        other = {"name": "o", "context": context["context"] | fields}
        return {"config": {**good, "contexts": [context, other]}}

    def with_cluster(**fields: Any) -> Mapping[str, Any]:
        other = {"name": "o", "cluster": cluster["cluster"] | fields}
        return {"config": {**good, "clusters": [cluster, other]}}

    def with_user(**fields: Any) -> Mapping[str, Any]:
        other = {"name": "o", "user": user["user"] | fields}
        return {"config": {**good, "users": [user, other]}}

    def top(**fields: Any) -> Mapping[str, Any]:
        return {"config": {**good, **fields}}

    named = [{"name": "x", "extension": {"y": 1}}]
    return [
        Case("a namespace", with_context(namespace="n", extensions=named)),
        Case("a namespace of null", with_context(namespace=None, extensions=None)),
        Case(
            "a namespace that is a number",
            with_context(namespace=5),
            refused="contexts[o].context.namespace: must be a string, got a number",
        ),
        Case(
            "a context's extensions that are a mapping",
            with_context(extensions={}),
            refused="contexts[o].context.extensions",
        ),
        Case(
            "a cluster's extensions that are a string",
            with_cluster(extensions="x"),
            refused="clusters[o].cluster.extensions",
        ),
        Case(
            "a user's extension whose name is a number",
            with_user(extensions=[{"name": 1, "extension": {}}]),
            refused="users[o].user.extensions",
        ),
        Case("preferences", top(preferences={"colors": True, "extensions": named, "new": 1})),
        Case("preferences and extensions of null", top(preferences=None, extensions=None)),
        Case("preferences that are a string", top(preferences="x"), refused="preferences"),
        Case("colors that are a string", top(preferences={"colors": "x"}), refused="colors"),
        Case(
            "extensions of preferences that are a string",
            top(preferences={"extensions": "x"}),
            refused="preferences.extensions",
        ),
        Case("extensions that are a string", top(extensions="x"), refused="extensions"),
        Case("a field of the future", top(future=[1])),
    ]


def _of_servers(w: World) -> list[Case]:
    def at(server: str, cluster: str = "a", **user: Any) -> Document:
        entry = {**w.cluster(cluster), "server": server}
        return {"config": config(entry, {"token": "t"} | user)}

    a, plain = w.urls["a"], w.urls["plain"]
    return [
        Case("a slash at the server's end", at(f"{a}/")),
        Case("slashes at the server's end", at(f"{a}///")),
        Case("a path", at(f"{a}/k8s/clusters/c-1")),
        Case("a path with slashes too many", at(f"{a}//k8s//c-1/")),
        Case("a query", at(f"{a}/k8s?x=y")),
        Case("a scheme in capitals", at(a.replace("https", "HTTPS"))),
        Case("IPv6 in brackets", at(w.urls["v6"])),
        Case("IPv6 in brackets, a slash at its end", at(f"{w.urls['v6']}/")),
        Case("localhost", at(a.replace("127.0.0.1", "localhost"))),
        Case("plain http: no token", at(plain, "plain")),
        Case("plain http: impersonation", at(plain, "plain", **{"as": "joe"})),
        Case("plain http and no user", {"config": config({"server": plain}, None)}),
        Case(
            "no scheme",
            at(plain.removeprefix("http://"), "plain"),
            refused="clusters[here].cluster.server",
        ),
        Case(
            "a user in the URL",
            at(a.replace("://", "://x:y@")),
            refused="clusters[here].cluster.server",
        ),
        Case("no server", at(""), refused="clusters[here].cluster.server"),
    ]


def _of_credentials(w: World) -> list[Case]:
    cluster = w.cluster()
    certificate, key = w.clients.issue("client-1")
    other_key = w.clients.issue("client-2")[1]
    data = {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}

    def of(user: Document, **files: str | bytes) -> Mapping[str, Any]:
        return {"config": config(cluster, user), **files}

    paths = {"client-certificate": "crt", "client-key": "key"}
    return [
        Case("a token", of({"token": "t"})),
        Case("a token file that ends with a line break", of({"tokenFile": "f"}, f="t-file\n")),
        Case("a token beside a token file", of({"token": "t", "tokenFile": "f"}, f="t-file")),
        Case("a token beside a token file that is missing", of({"token": "t", "tokenFile": "f"})),
        Case(
            "a token file that is missing",
            of({"tokenFile": "f"}),
            refused="users[here].user.tokenFile",
        ),
        Case(
            "a token file of blanks",
            of({"tokenFile": "f"}, f=" \n"),
            refused="users[here].user.tokenFile",
        ),
        Case("a token with a line break", of({"token": "t\nu"}), refused="users[here].user.token"),
        Case("a name and a password", of({"username": "ada", "password": "päss:word"})),
        Case("a password alone", of({"password": "p"}), refused="users[here].user"),
        Case(
            "a token beside a name",
            of({"token": "t", "username": "u"}),
            refused="users[here].user.token",
        ),
        Case("a client certificate as data", of(data)),
        Case("a client certificate in files", of(paths, crt=certificate, key=key)),
        Case(
            "a client certificate as data, its key in a file",
            of({**data, "client-key-data": None, "client-key": "key"}, key=key),
        ),
        Case("a client certificate beside a token", of({**data, "token": "t"})),
        Case(
            "a client certificate without its key",
            of({**data, "client-key-data": None}),
            refused="users[here].user.client-key",
        ),
        Case(
            "a client certificate twice",
            of({**data, "client-certificate": "crt"}, crt=certificate),
            refused="users[here].user.client-certificate",
        ),
        Case(
            "a key that is another's",
            of({**data, "client-key-data": encoded(other_key)}),
            refused="users[here].user.client-certificate",
        ),
        Case(
            "a client certificate that is not base64",
            of({**data, "client-certificate-data": "%%%"}),
            refused="users[here].user.client-certificate-data",
        ),
        Case("a key alone, beside a token", of({"token": "t", "client-key-data": encoded(key)})),
        Case("no credentials", of({}), refused="users[here].user"),
        Case(
            "auth-provider",
            of({"auth-provider": {"name": "azure", "config": {"x": "y"}}}),
            refused="users[here].user.auth-provider",
        ),
    ]


def _of_plugins(w: World) -> list[Case]:
    cluster = w.cluster()
    certificate, key = w.clients.issue("from-plugin")
    status = {"clientCertificateData": certificate.decode(), "clientKeyData": key.decode()}
    credential = json.dumps({"kind": "ExecCredential", "apiVersion": V1, "status": status})
    print_certificate = f"#!/bin/sh\ncat <<'END'\n{credential}\nEND\n"
    told = {**cluster, "proxy-url": "", "extensions": [
        {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "us", "n": 3}},
        {"name": "other", "extension": {"x": "y"}},
    ]}  # fmt: skip
    at = "users[here].user.exec"

    def of(user: Document, script: str, cluster: Document = cluster) -> Mapping[str, Any]:
        return {"config": config(cluster, user), "bin/plugin": script}

    beta = "client.authentication.k8s.io/v1beta1"
    return [
        Case("a plugin by a relative path", of(plugin("./bin/plugin", args=["t-"]), PRINT_TOKEN)),
        Case(
            "a plugin with variables",
            of(
                plugin("bin/plugin", env=[{"name": "WHO", "value": "ada"}], args=None),
                PRINT_TOKEN,
            ),
        ),
        Case(
            "a plugin on the PATH",
            of(plugin("plugin", args=["on-path"]), PRINT_TOKEN),
            env={"PATH": "{}/bin:/usr/bin:/bin"},
        ),
        Case(
            "a plugin that is told of the cluster",
            of(plugin("./bin/plugin", provideClusterInfo=True), PRINT_INFO, told),
        ),
        Case(
            "a plugin that is told of a cluster with a path and a name",
            of(
                plugin("./bin/plugin", provideClusterInfo=True),
                PRINT_INFO,
                w.cluster("named", tls_server_name="api.test", disable_compression=True),
            ),
        ),
        Case("a plugin that is told nothing", of(plugin("./bin/plugin"), PRINT_INFO)),
        Case(
            "a plugin of v1beta1",
            of(
                plugin("./bin/plugin", apiVersion=beta, interactiveMode=None, args=["t"]),
                PRINT_TOKEN.replace(V1, beta),
            ),
        ),
        Case("a plugin that prints YAML", of(plugin("./bin/plugin"), PRINT_YAML)),
        Case("a plugin that prints a certificate", of(plugin("./bin/plugin"), print_certificate)),
        Case("a plugin beside a token", of({**plugin("./bin/absent"), "token": "t"}, "")),
        Case(
            "a plugin that is missing",
            of(plugin("absent-plugin", installHint="install it"), ""),
            refused=f"{at}: the plugin absent-plugin is not found: install it",
        ),
        Case(
            "a plugin that fails",
            of(plugin("./bin/plugin"), "#!/bin/sh\necho no session >&2; exit 3\n"),
            refused=f"{at}: the plugin bin/plugin ended with 3: no session",
        ),
        Case(
            "a plugin that prints junk",
            of(plugin("./bin/plugin"), "#!/bin/sh\necho hm\n"),
            refused=at,
        ),
        *_of_plugins_answers(of),
        Case(
            "a plugin that prints another version",
            of(plugin("./bin/plugin"), PRINT_TOKEN.replace(V1, beta)),
            refused="ExecCredential.apiVersion",
        ),
        Case(
            "a plugin that prints no token",
            of(plugin("./bin/plugin"), PRINT_TOKEN),
            refused="ExecCredential.status",
        ),
        Case(
            "a plugin of v1alpha1",
            of(plugin("./bin/plugin", apiVersion=f"{V1}alpha1"), PRINT_TOKEN),
            refused=f"{at}.apiVersion",
        ),
        Case(
            "a plugin of v1 without interactiveMode",
            of(plugin("./bin/plugin", interactiveMode=None), PRINT_TOKEN),
            refused=f"{at}.interactiveMode",
        ),
        Case(
            "a plugin that needs a terminal",
            of(plugin("./bin/plugin", interactiveMode="Always"), PRINT_TOKEN),
            refused=f"{at}.interactiveMode",
        ),
        Case("a plugin without a command", of(plugin(""), PRINT_TOKEN), refused=f"{at}.command"),
    ]


def _of_plugins_answers(of: Callable[[Document, str], Mapping[str, Any]]) -> list[Case]:
    """What a plugin may print around its credentials, and how it may write their end."""

    def printing(after: str = "", before: str = "", **status: Any) -> Mapping[str, Any]:
        credential = {"kind": "ExecCredential", "apiVersion": V1, "status": {"token": "t"} | status}
        said = f"{before}{json.dumps(credential)}{after}"
        return of(plugin("./bin/plugin"), f"#!/bin/sh\ncat <<'END'\n{said}\nEND\n")

    ends = "ExecCredential.status.expirationTimestamp"
    text = "printed no credentials"
    return [
        Case("a plugin with blank lines around", printing(before="\n ", after="\n \n")),
        Case("a plugin that adds a text", printing("\nbye"), refused=text),
        Case("a plugin that adds a text in the same line", printing(" bye"), refused=text),
        Case("a plugin that prints two objects", printing("\n{}"), refused=text),
        Case("a plugin that adds a comment", printing("\n# bye"), refused=text),
        Case("a plugin that adds a document", printing("\n---\nbye"), refused=text),
        Case(
            "a plugin that prints YAML in braces",
            of(
                plugin("./bin/plugin"),
                f"#!/bin/sh\necho '{{kind: ExecCredential, apiVersion: {V1},"
                " status: {token: t}}'\n",
            ),
            refused=text,
        ),
        Case(
            "a plugin that prints YAML and a text",
            of(plugin("./bin/plugin"), f"{PRINT_YAML}echo bye\n"),
            refused=text,
        ),
        Case("a plugin that begins with a text", printing(before="hello\n"), refused=text),
        Case("an end", printing(expirationTimestamp="2090-01-31T12:00:00Z")),
        Case("an end with an offset", printing(expirationTimestamp="2090-01-31T12:00:00+01:30")),
        Case(
            "an end with a fraction", printing(expirationTimestamp="2090-01-31T12:00:00.123456789Z")
        ),
        Case("an end of null", printing(expirationTimestamp=None)),
        Case("an end of nothing", printing(expirationTimestamp=""), refused=ends),
        Case(
            "a blank for the T", printing(expirationTimestamp="2090-01-31 12:00:00Z"), refused=ends
        ),
        Case(
            "an end without seconds",
            printing(expirationTimestamp="2090-01-31T12:00Z"),
            refused=ends,
        ),
        Case(
            "an end without an offset",
            printing(expirationTimestamp="2090-01-31T12:00:00"),
            refused=ends,
        ),
        Case(
            "an end without hyphens", printing(expirationTimestamp="20900131T120000Z"), refused=ends
        ),
        Case("an end in weeks", printing(expirationTimestamp="2090-W05-1T12:00:00Z"), refused=ends),
        Case(
            "an offset without a colon",
            printing(expirationTimestamp="2090-01-31T12:00:00+0100"),
            refused=ends,
        ),
        Case(
            "an end in lower case",
            printing(expirationTimestamp="2090-01-31t12:00:00z"),
            refused=ends,
        ),
        Case("an end that is a number", printing(expirationTimestamp=3_800_000_000), refused=ends),
    ]


def _of_impersonation(w: World) -> list[Case]:
    def of(**fields: Any) -> Mapping[str, Any]:
        named = {name.strip("_").replace("_", "-"): value for name, value in fields.items()}
        return {"config": config(w.cluster(), {"token": "t"} | named)}

    extra = {"scopes": ["a", "b"], "Example.com/Some key%": ["c"]}
    return [
        Case("as", of(as_="joe")),
        Case("as a user with groups", of(as_="joe", as_groups=["dev", "ops"])),
        Case("as a user with all", of(as_="jö", as_uid="7", as_groups=["g"], as_user_extra=extra)),
        Case("groups without a user", of(as_groups=["g"]), refused="users[here].user.as"),
        Case(
            "groups that are no list",
            of(as_="joe", as_groups="g"),
            refused="users[here].user.as-groups",
        ),
    ]


def _of_verification(w: World) -> list[Case]:
    def of(cluster: Document, **files: bytes) -> Mapping[str, Any]:
        return {"config": config(cluster, {"token": "t"}), **files}

    no_ca = {"certificate_authority_data": None}
    bundle = b"# \xc3\xa4 bundle\n" + w.other_ca.pem + b"\nand\n" + w.ca.pem
    at = "clusters[here].cluster"
    return [
        Case("another CA", of(w.cluster(certificate_authority_data=encoded(w.other_ca.pem)))),
        Case("the system's CAs", of(w.cluster(**no_ca))),
        Case(
            "a bundle with words between", of(w.cluster(certificate_authority_data=encoded(bundle)))
        ),
        Case(
            "the server's own certificate as CA",
            of(w.cluster(certificate_authority_data=encoded(w.leaf))),
        ),
        Case("insecure-skip-tls-verify", of(w.cluster(insecure_skip_tls_verify=True, **no_ca))),
        Case(
            "insecure-skip-tls-verify beside a CA",
            of(w.cluster(insecure_skip_tls_verify=True)),
            refused=f"{at}.insecure-skip-tls-verify",
        ),
        Case("a certificate for another name", of(w.cluster("named"))),
        Case("tls-server-name", of(w.cluster("named", tls_server_name="api.test"))),
        Case("a tls-server-name that it has not", of(w.cluster("named", tls_server_name="b.test"))),
        Case("an address as tls-server-name", of(w.cluster(tls_server_name="127.0.0.1"))),
        Case(
            "tls-server-name without verification",
            of(
                w.cluster("named", tls_server_name="b.test", insecure_skip_tls_verify=True, **no_ca)
            ),
        ),
        Case("a certificate with a common name alone", of(w.cluster("common"))),
        Case(
            "a CA file that is missing",
            of(w.cluster(certificate_authority="ca.pem", **no_ca)),
            refused=f"{at}.certificate-authority",
        ),
        Case(
            "a CA twice",
            of(w.cluster(certificate_authority="f"), f=w.ca.pem),
            refused=f"{at}.certificate-authority",
        ),
        Case(
            "a CA that is none",
            of(w.cluster(certificate_authority_data=encoded(b"hello"))),
            refused=f"{at}.certificate-authority",
        ),
    ]


def _of_proxies(w: World) -> list[Case]:
    proxy, named = f"http://127.0.0.1:{w.proxy}", w.cluster("named", server="https://api.test:6443")
    plain = {"server": "http://api.test"}

    def of(cluster: Document, **fields: Any) -> Mapping[str, Any]:
        return {"config": config({**cluster, **fields}, {"token": "t"})}

    def away(cluster: Document = named, **env: str) -> Mapping[str, Any]:
        return {"files": of(cluster), "env": env}

    at = "clusters[here].cluster.proxy-url"
    socks, with_password = "socks5://127.0.0.1:1", f"http://me:p%40ss@127.0.0.1:{w.proxy}"
    plain_proxy = f"http://127.0.0.1:{w.plain_proxy}"
    no_proxy = "b.test,10.0.0.0/8,api.test:443"
    return [
        Case("proxy-url", of(named, **{"proxy-url": proxy})),
        Case("proxy-url with a password", of(named, **{"proxy-url": with_password})),
        Case("proxy-url and NO_PROXY", of(named, **{"proxy-url": proxy}), env={"NO_PROXY": "*"}),
        Case("proxy-url for a plain server", of(plain, **{"proxy-url": plain_proxy})),
        Case(
            "proxy-url: socks5",
            of(named, **{"proxy-url": socks}),
            refused=f"{at}: must begin with http://, got socks5://",
        ),
        Case("proxy-url without a scheme", of(named, **{"proxy-url": "proxy.test"}), refused=at),
        Case("HTTPS_PROXY", **away(HTTPS_PROXY=proxy)),
        Case("https_proxy without a scheme", **away(https_proxy=f"127.0.0.1:{w.proxy}")),
        Case("HTTPS_PROXY for a server on loopback", **away(w.cluster(), HTTPS_PROXY=proxy)),
        Case("HTTP_PROXY for a server on https", **away(w.cluster(), HTTP_PROXY=proxy)),
        Case("HTTPS_PROXY and NO_PROXY for another", **away(HTTPS_PROXY=proxy, NO_PROXY=no_proxy)),
        Case("HTTPS_PROXY and NO_PROXY", **away(HTTPS_PROXY=proxy, NO_PROXY="x, .TEST")),
        Case("HTTP_PROXY for a plain server", **away(plain, HTTP_PROXY=plain_proxy)),
        Case("HTTPS_PROXY: socks5", **away(HTTPS_PROXY=socks), refused="HTTPS_PROXY: "),
    ]


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """The recorders, for the length of a block."""
    ca, other, clients = Authority("ca"), Authority("other"), Authority("clients")
    addresses = ["127.0.0.1", "::1", "localhost"]
    leaf = ca.issue("a", addresses)
    async with AsyncExitStack() as stack:

        async def open_recorder(name: str, tls: tuple[bytes, bytes] | None, host: str) -> Recorder:
            opened = recording(name, certificate=tls, clients=clients, folder=folder, host=host)
            return await stack.enter_async_context(opened)

        a = await open_recorder("a", leaf, "127.0.0.1")
        b = await open_recorder("b", other.issue("b", addresses), "127.0.0.1")
        v6 = await open_recorder("v6", leaf, "::1")
        named = await open_recorder("named", ca.issue("named", ["api.test"]), "127.0.0.1")
        common = await open_recorder("common", ca.issue("127.0.0.1"), "127.0.0.1")
        plain = await open_recorder("plain", None, "127.0.0.1")
        urls = {r.name: f"https://127.0.0.1:{r.port}" for r in (a, b, named, common)}
        urls |= {"v6": f"https://[::1]:{v6.port}", "plain": f"http://127.0.0.1:{plain.port}"}
        yield World(
            folder=folder,
            recorders=(a, b, v6, named, common, plain),
            urls=urls,
            ca=ca,
            other_ca=other,
            clients=clients,
            proxy=await stack.enter_async_context(proxying("proxy", named)),
            plain_proxy=await stack.enter_async_context(proxying("proxy", plain)),
            leaf=leaf[0],
        )


Ask = Callable[[World, Path, dict[str, str]], Awaitable[str]]


async def compared(world: World, case: Case, kubectl: Path, ask: Ask) -> Row:
    """Run one case through kubectl and, by `ask`, through the server."""
    folder = Path(tempfile.mkdtemp(dir=world.folder))
    environment = _laid_out(case, folder)
    theirs = await _recorded(world, _asked_by_kubectl(kubectl, folder, environment))
    ours = await _recorded(world, ask(world, folder, environment))
    return Row(case.name, str(theirs), str(ours), _difference(case, theirs, ours))


def _laid_out(case: Case, folder: Path) -> dict[str, str]:
    """Write the case's files; the environment that both are to see."""
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(0o755 if name.startswith("bin/") else 0o600)
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder)} | dict(case.env or {})
    if case.kubeconfig:
        environment["KUBECONFIG"] = case.kubeconfig
    return {name: value.replace("{}", str(folder)) for name, value in environment.items()}


Outcome = Asked | str


async def _recorded(world: World, asking: Any) -> Outcome:
    """Who was asked and as whom, else what was said instead."""
    for recorder in world.recorders:
        recorder.asked.clear()
        recorder.via = ""
    said: str = await asking
    asked = {asked for recorder in world.recorders for asked in recorder.asked}
    if said and not asked:
        return said
    assert len(asked) == 1, (said, asked)
    return asked.pop()


async def _asked_by_kubectl(kubectl: Path, folder: Path, environment: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        kubectl,
        *("version", "--request-timeout=20s"),
        cwd=folder,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return f"fails: {said.decode().strip().splitlines()[-1]}" if process.returncode else ""


async def asked_by_connection(_: World, folder: Path, environment: dict[str, str]) -> str:
    """Ask as server/app.py does, by its settings and with what it opens; what goes wrong."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        with mock.patch.dict(os.environ, environment, clear=True):
            settings = Kubernetes()
            paths, seen = settings.kubeconfig_paths(), settings.environment()
        api = await ApiServer.connect(paths, environment=seen)
    except (ConfigurationUnusable, SettingsInvalid) as e:
        return f"refuses: {e}".replace(f"{folder}/", "")
    finally:
        os.chdir(before)
    try:
        with mock.patch("server.adapters.kserve.client.CONNECT_TIMEOUT", 20):
            answer = await api.send("GET", "/version", timeout=20)
    except (Unreachable, Unanswered) as e:
        return f"fails: {e}"
    finally:
        await api.close()
    return "" if answer.ok else f"fails: {answer.status}"


async def asked_by_process(world: World, folder: Path, environment: dict[str, str]) -> str:
    """Start `python -m server` until it has asked something; what it says if it refuses."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server"),
        cwd=folder,
        env=environment
        | {
            "KSERVE_ENABLED": "true",
            "MODELSERVICE_LISTEN": "127.0.0.1:0",
            "MODELSERVICE_STOP_DELAY": "0",
            "MODELSERVICE_STOP_GRACE": "1",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'generated'}",
        },
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr
    said = ""
    while line := (await process.stderr.readline()).decode():
        said = said if '"event":"' in line else said + line
        if '"event":"listening"' in line:
            await _asked(world)
            process.terminate()
    if await process.wait() == WRONG_SETTING:
        assert said.count("\n") == 1, said
        return f"refuses: {said}".replace(f"{folder}/", "")
    assert not said, said
    return ""


async def _asked(world: World) -> None:
    async with asyncio.timeout(ASKED_WITHIN):
        while not any(recorder.asked for recorder in world.recorders):
            await asyncio.sleep(0.02)


def _difference(case: Case, kubectl: Outcome, server: Outcome) -> str:
    refuses = isinstance(server, str) and server.startswith("refuses")
    if case.refused:
        as_told = refuses and case.refused in str(server)
        return "" if as_told else f"the server must refuse and name {case.refused}"
    if refuses:
        return "the server must not refuse"
    if isinstance(kubectl, Asked) and isinstance(server, Asked):
        same = _comparable(kubectl) == _comparable(server)
        return "" if same else "they ask different servers, or as different users"
    if isinstance(kubectl, str) and isinstance(server, str):
        return ""
    return "one of them asks and the other does not"


def _comparable(asked: Asked) -> Asked:
    """With a token that holds what a plugin was told as JSON: whose order counts for nothing."""
    identity = dict(asked.identity)
    try:
        told = base64.b64decode(identity["authorization"].removeprefix("Bearer "), validate=True)
        identity["authorization"] = json.dumps(json.loads(told), sort_keys=True)
    except (KeyError, ValueError):
        return asked
    return replace(asked, identity=tuple(identity.items()))


def table(rows: Sequence[Row]) -> str:
    """The rows as lines of text."""
    widths = [max(len(row.name) for row in rows), max(len(row.kubectl[:90]) for row in rows)]
    lines = [
        f"{row.name:{widths[0]}}  {row.kubectl[:90]:{widths[1]}}  {row.server}"
        + (f"  <-- {row.differs}" if row.differs else "")
        for row in rows
    ]
    head = f"{'case':{widths[0]}}  {'kubectl':{widths[1]}}  server"
    return "\n".join([head, *lines])


async def compare_all(folder: Path, kubectl: Path) -> list[Row]:
    """Run every case through the connection that the server opens."""
    async with world(folder) as opened:
        return [
            await compared(opened, case, kubectl, asked_by_connection) for case in cases(opened)
        ]


async def compare_process(name: str, folder: Path, kubectl: Path) -> Row:
    """Run one case through a whole server, with recorders of its own."""
    folder.mkdir()
    async with world(folder) as opened:
        [case] = [case for case in cases(opened) if case.name == name]
        return await compared(opened, case, kubectl, asked_by_process)


def kubectl_program() -> Path:
    """The lab's kubectl; built where it is not yet. Raises BuildFailed."""
    return builds.programs(builds.CONTROL_PLANE, print)["kubectl"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(table(asyncio.run(compare_all(Path(folder), kubectl_program()))))


if __name__ == "__main__":
    main()
