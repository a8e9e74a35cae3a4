"""Read and merge kubeconfig files as kubectl does.

The loader of the Kubernetes Python client differs from kubectl: it prefers the last file to the
first, ignores impersonation, HTTPS_PROXY and NO_PROXY, sends a token over plain http, continues as
anonymous when a plugin fails, runs `./plugin` in its own working directory, keeps CA data in /tmp,
and fails on a token file that ends with a line break.
The rules here are client-go's: tools/clientcmd (loader.go, validation.go, client_config.go).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from server.adapters.kserve.connection.exec_plugin import ExecPlugin
from server.adapters.kserve.connection.yaml_document import (
    ConfigurationUnusable,
    Fields,
    FileMissing,
    parse,
    read_file,
)

LARGEST_KUBECONFIG = 2**23
LARGEST_FILE = 2**20  # of a certificate, key or token
# A header's value must not have these characters; Go refuses them too.
_NOT_IN_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_EXEC_EXTENSION = "client.authentication.k8s.io/exec"


@dataclass(frozen=True, slots=True)
class Cluster:
    """One entry of `clusters`; paths are absolute. `field_path` names it in messages."""

    field_path: str
    server: str
    tls_server_name: str = ""
    insecure: bool = False
    ca_file: Path | None = None
    ca_data: bytes = b""
    proxy_url: str = ""
    disable_compression: bool = False
    exec_config: Any = None

    def ca(self) -> bytes:
        """Read the certificates that verify the server; empty: those of the system."""
        if self.insecure and (self.ca_file or self.ca_data):
            raise ConfigurationUnusable(
                f"{self.field_path}.insecure-skip-tls-verify: must not be set beside"
                " certificate-authority"
            )
        if self.ca_file and self.ca_data:
            raise ConfigurationUnusable(
                f"{self.field_path}.certificate-authority: must not be set beside its -data"
            )
        if not self.ca_file:
            return self.ca_data
        return _read_field_file(self.ca_file, f"{self.field_path}.certificate-authority")


@dataclass(frozen=True, slots=True)
class Impersonation:
    """The user to act as: `as`, `as-uid`, `as-groups` and `as-user-extra`."""

    user: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class User:
    """One entry of `users`; paths are absolute. `field_path` names it in messages.

    `origin` and `name` are the kubeconfig file and the name in it, if it was read from one.
    """

    field_path: str
    name: str = ""
    origin: Path | None = None
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    username: str = ""
    password: str = field(default="", repr=False)
    certificate_file: Path | None = None
    certificate_data: bytes = b""
    key_file: Path | None = None
    key_data: bytes = field(default=b"", repr=False)
    impersonation: Impersonation = Impersonation()
    auth_provider: str = ""
    exec: ExecPlugin | None = None

    @property
    def has_certificate(self) -> bool:
        """Whether there is a client certificate."""
        return bool(self.certificate_file or self.certificate_data)

    @property
    def has_token(self) -> bool:
        """Whether there is a bearer token, in the kubeconfig or in a file."""
        return bool(self.token or self.token_file)

    @property
    def has_credentials(self) -> bool:
        """Whether there are credentials of any kind."""
        return bool(self.has_token or self.username or self.has_certificate or self.exec)

    @property
    def uses_plugin(self) -> bool:
        """Whether a plugin provides the credentials: all other kinds have priority."""
        return bool(self.exec) and not (self.has_token or self.username or self.has_certificate)

    def check(self) -> None:
        """Raise ConfigurationUnusable for settings that kubectl refuses, and for auth-provider."""
        if self.auth_provider:
            raise self.invalid("auth-provider", "is not supported; use an exec plugin")
        if self.token and (self.username or self.password):
            raise self.invalid("token", "must not be set beside username or password")
        if _NOT_IN_HEADER.search(self.token):
            raise self.invalid("token", "must not have a line break or control character")
        if self.has_certificate:
            self._check_certificate()
        impersonated = self.impersonation
        if (
            impersonated.uid or impersonated.groups or impersonated.extra
        ) and not impersonated.user:
            raise self.invalid("as", "must be set beside as-uid, as-groups or as-user-extra")
        values = [value for _, values in impersonated.extra for value in values]
        if any(
            _NOT_IN_HEADER.search(value)
            for value in (impersonated.user, impersonated.uid, *impersonated.groups, *values)
        ):
            raise self.invalid("as", "must not have a line break or control character")
        if self.exec:
            self.exec.check()

    def certificate(self) -> tuple[bytes, bytes]:
        """Read the client certificate and its key."""
        if self.certificate_file:
            certificate = _read_field_file(
                self.certificate_file, f"{self.field_path}.client-certificate"
            )
        else:
            certificate = self.certificate_data
        if self.key_file:
            return certificate, _read_field_file(self.key_file, f"{self.field_path}.client-key")
        return certificate, self.key_data

    def bearer_token(self) -> str:
        """Read the bearer token: of the file, or else `token` if the file is unusable."""
        if self.token_file is None:
            return self.token
        try:
            token = (
                _read_field_file(self.token_file, f"{self.field_path}.tokenFile").strip().decode()
            )
        except UnicodeDecodeError:
            token = ""
        except ConfigurationUnusable:
            if self.token:
                return self.token
            raise
        if token and not _NOT_IN_HEADER.search(token):
            return token
        if self.token:
            return self.token
        raise self.invalid("tokenFile", f"{self.token_file} must have one token")

    def invalid(self, field: str, problem: str) -> ConfigurationUnusable:
        """Return the error for a field, which says what it must be."""
        return ConfigurationUnusable(f"{self.field_path}.{field}: {problem}")

    def _check_certificate(self) -> None:
        if self.certificate_file and self.certificate_data:
            raise self.invalid("client-certificate", "must not be set beside its -data")
        if self.key_file and self.key_data:
            raise self.invalid("client-key", "must not be set beside its -data")
        if not (self.key_file or self.key_data):
            raise self.invalid("client-key", "must be set beside a client-certificate")


@dataclass(frozen=True, slots=True)
class Context:
    """One entry of `contexts`."""

    field_path: str
    cluster: str
    user: str


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """One file, or several merged."""

    field_path: str
    current_context: str
    contexts: dict[str, Context]
    clusters: dict[str, Cluster]
    users: dict[str, User]


@dataclass(frozen=True, slots=True)
class Selection:
    """The current context; `server` keeps its path, without a slash at the end."""

    server: SplitResult
    cluster: Cluster
    user: User


def load(paths: Sequence[Path]) -> Kubeconfig:
    """Read and merge files: the first one that sets a value wins. Missing files are skipped.

    Raises ConfigurationUnusable if a file is not a kubeconfig.
    """
    files: list[Kubeconfig] = []
    for path in dict.fromkeys(paths):
        with suppress(FileMissing):
            files.insert(0, read(path))  # in reverse, so that the first file writes last
    field_path = f"kubeconfig {':'.join(map(str, paths))}: "
    if not files:
        raise ConfigurationUnusable(f"{field_path}there is no such file")
    current = [file.current_context for file in files if file.current_context]
    return Kubeconfig(
        field_path=field_path,
        current_context=current[-1] if current else "",
        contexts={name: it for file in files for name, it in file.contexts.items()},
        clusters={name: it for file in files for name, it in file.clusters.items()},
        users={name: it for file in files for name, it in file.users.items()},
    )


def select(kubeconfig: Kubeconfig) -> Selection:
    """Resolve the current context. Raises ConfigurationUnusable."""
    name = kubeconfig.current_context
    if not name:
        raise ConfigurationUnusable(f"{kubeconfig.field_path}current-context: must be set")
    context = kubeconfig.contexts.get(name)
    if context is None:
        raise ConfigurationUnusable(
            f"{kubeconfig.field_path}current-context: there is no context {_quoted(name)}"
        )
    cluster = kubeconfig.clusters.get(context.cluster)
    if cluster is None:
        raise ConfigurationUnusable(
            f"{context.field_path}.cluster: there is no cluster {_quoted(context.cluster)}"
        )
    server = parse_server(cluster)
    user = kubeconfig.users.get(context.user)
    if user is None:
        if server.scheme == "https":
            raise ConfigurationUnusable(
                f"{context.field_path}.user: there is no user {_quoted(context.user)}"
            )
        user = User(f"{context.field_path}.user")
    user.check()
    if server.scheme == "https" and not user.has_credentials:
        # kubectl would ask for a name and a password on the terminal.
        raise ConfigurationUnusable(f"{user.field_path}: must have credentials")
    return Selection(server, cluster, user)


def read(path: Path) -> Kubeconfig:
    """Read one file. Raises FileMissing, ConfigurationUnusable."""
    field_path = f"kubeconfig {path}: "
    try:
        document = parse(read_file(path, LARGEST_KUBECONFIG))
    except FileMissing:
        raise
    except ConfigurationUnusable as e:
        raise ConfigurationUnusable(f"{field_path}{e}") from e
    if document is not None and not isinstance(document, dict):
        raise ConfigurationUnusable(f"{field_path}must be a mapping")
    fields = Fields(document, field_path)
    for name, wanted in (("apiVersion", "v1"), ("kind", "Config")):
        if fields.string(name) not in ("", wanted):
            raise fields.invalid(name, f"must be {wanted}")
    preferences = fields.fields("preferences")
    preferences.boolean("colors")
    _extensions(preferences)
    _extensions(fields)
    path = path.absolute()
    folder = path.parent
    return Kubeconfig(
        field_path=field_path,
        current_context=fields.string("current-context"),
        contexts=_entries_by_name(fields, "contexts", "context", _context),
        clusters=_entries_by_name(fields, "clusters", "cluster", lambda f, _: _cluster(f, folder)),
        users=_entries_by_name(
            fields, "users", "user", lambda f, name: _user(f, name, path, folder)
        ),
    )


_Entry = TypeVar("_Entry")


def _entries_by_name(
    fields: Fields, collection: str, kind: str, read_entry: Callable[[Fields, str], _Entry]
) -> dict[str, _Entry]:
    entries: dict[str, _Entry] = {}
    for entry in fields.list_of_fields(collection):
        name = entry.string("name")
        if name in entries:
            raise entry.invalid("name", "must not stand twice in one file")
        entries[name] = read_entry(entry.fields(kind), name)
    return entries


def _extensions(fields: Fields) -> dict[str, Any]:
    """Return the extensions, which are programs' own settings, by name."""
    return {e.string("name"): e.raw("extension") for e in fields.list_of_fields("extensions")}


def _context(fields: Fields, _: str) -> Context:
    # Read only to check their types: kubectl refuses a file with others.
    fields.string("namespace")
    _extensions(fields)
    return Context(fields.field_path, cluster=fields.string("cluster"), user=fields.string("user"))


def _cluster(fields: Fields, folder: Path) -> Cluster:
    return Cluster(
        field_path=fields.field_path,
        server=fields.string("server"),
        tls_server_name=fields.string("tls-server-name"),
        insecure=fields.boolean("insecure-skip-tls-verify"),
        ca_file=_path(fields.string("certificate-authority"), folder),
        ca_data=fields.data("certificate-authority-data"),
        proxy_url=fields.string("proxy-url"),
        disable_compression=fields.boolean("disable-compression"),
        exec_config=_extensions(fields).get(_EXEC_EXTENSION),
    )


def _user(fields: Fields, name: str, origin: Path, folder: Path) -> User:
    provider = fields.fields("auth-provider")
    _extensions(fields)
    return User(
        field_path=fields.field_path,
        name=name,
        origin=origin,
        token=fields.string("token"),
        token_file=_path(fields.string("tokenFile"), folder),
        username=fields.string("username"),
        password=fields.string("password"),
        certificate_file=_path(fields.string("client-certificate"), folder),
        certificate_data=fields.data("client-certificate-data"),
        key_file=_path(fields.string("client-key"), folder),
        key_data=fields.data("client-key-data"),
        impersonation=Impersonation(
            user=fields.string("as"),
            uid=fields.string("as-uid"),
            groups=fields.strings("as-groups"),
            extra=fields.string_lists("as-user-extra"),
        ),
        auth_provider="" if fields.raw("auth-provider") is None else provider.string("name") or "?",
        exec=None if fields.raw("exec") is None else _exec(fields.fields("exec"), folder),
    )


def _exec(fields: Fields, folder: Path) -> ExecPlugin:
    command = fields.string("command")
    return ExecPlugin(
        field_path=fields.field_path,
        # A name without a slash is on the PATH.
        command=str(_path(command, folder)) if "/" in command else command,
        args=fields.strings("args"),
        env=tuple((e.string("name"), e.string("value")) for e in fields.list_of_fields("env")),
        api_version=fields.string("apiVersion"),
        install_hint=fields.string("installHint"),
        provide_cluster_info=fields.boolean("provideClusterInfo"),
        interactive_mode=fields.string("interactiveMode"),
    )


def _path(text: str, folder: Path) -> Path | None:
    return folder / text if text else None


def _read_field_file(path: Path, field: str) -> bytes:
    try:
        return read_file(path, LARGEST_FILE)
    except ConfigurationUnusable as e:
        raise ConfigurationUnusable(f"{field}: {e}") from e


def parse_server(cluster: Cluster) -> SplitResult:
    """Parse a cluster's server, its path without a slash at the end.

    Raises ConfigurationUnusable.
    """
    problem = ConfigurationUnusable(
        f"{cluster.field_path}.server: must be a URL such as https://host:6443, with no user in it"
    )
    if not cluster.server:
        raise ConfigurationUnusable(f"{cluster.field_path}.server: must be set")
    if re.search(r"[\s\\]", cluster.server):
        raise problem
    try:
        split = urlsplit(cluster.server)
        usable = bool(split.hostname) and split.port != 0 and "@" not in split.netloc
    except ValueError as e:
        raise problem from e
    if split.scheme not in ("http", "https") or not usable:
        raise problem
    path = posixpath.normpath(f"/{split.path.lstrip('/')}").rstrip("/")
    return split._replace(path=path, query="", fragment="")


def _quoted(name: str) -> str:
    return repr(name[:64])
