"""The settings, read from the environment."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from server import failpoints
from server.domain.kubernetes import quantities
from server.domain.revisions.revision import MOST_REVISIONS
from server.memory_limit import memory_limit
from server.setting_errors import (
    PREFIX,
    SettingsInvalid,
    refuse_unknown,
    setting_problems,
    variable_of,
)
from server.setting_types import (
    SQLITE,
    Address,
    Bytes,
    DatabaseUrl,
    Namespace,
    Namespaces,
    NamespacesOrAll,
    Ports,
    Seconds,
    is_loopback,
)

__all__ = ["Settings", "SettingsInvalid", "described", "load"]

# docs/operations.md has the arithmetic.
MEMORY_SHARE = 4
# Of the server's limits, for each caller.
CALLER_SHARE = 4


def _group(prefix: str) -> SettingsConfigDict:
    return SettingsConfigDict(
        env_prefix=prefix,
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )


# Kubernetes mounts it into every pod with a service account token.
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class KServe(BaseSettings):
    """The kind of cluster."""

    model_config = _group("KSERVE_")

    enabled: bool = Field(
        False, description="deploy on KServe; false: run model servers on this machine"
    )


class Kubernetes(BaseSettings):
    """The connection to the API server."""

    model_config = _group("KUBERNETES_")

    in_cluster: bool = Field(False, description="use the service account of the pod")
    kubeconfig: str = Field(
        "", description="path of the kubeconfig; unset: $KUBECONFIG, else ~/.kube/config"
    )
    default_namespace: Namespace = Field(
        "model-serving", description="namespace of requests that name none"
    )

    @model_validator(mode="after")
    def _one_way_in(self) -> Kubernetes:
        if self.in_cluster and self.kubeconfig:
            raise ValueError("KUBERNETES_IN_CLUSTER and KUBERNETES_KUBECONFIG exclude each other")
        return self

    def kubeconfig_paths(self) -> str:
        """Return the path of the kubeconfig, or several as in $KUBECONFIG.

        Raises SettingsInvalid if none of them exists.
        """
        paths = self.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
        found = [
            _expanded("KUBERNETES_KUBECONFIG", path) for path in paths.split(os.pathsep) if path
        ]
        if not any(path.exists() for path in found):
            raise SettingsInvalid(
                f"KUBERNETES_KUBECONFIG: there is no kubeconfig at {paths}; set it, or $KUBECONFIG,"
                " or KUBERNETES_IN_CLUSTER=true in a pod"
            )
        return os.pathsep.join(map(str, found))

    @staticmethod
    def environment() -> Mapping[str, str]:
        """Return the environment of this process; it has proxies, and plugins inherit it."""
        return dict(os.environ)


class Serving(BaseSettings):
    """The gRPC server: its address, its namespaces and its limits."""

    model_config = _group(PREFIX)

    listen: Address = Field("127.0.0.1:50051", description="host and port to listen on")
    allow_plaintext: bool = Field(
        False, description="allow a listen address beyond loopback, without encryption"
    )
    tls_cert: str = Field(
        "",
        description="path of a PEM file with the server's certificate and its intermediates;"
        " traffic is encrypted with it; read again when it changes",
    )
    tls_key: str = Field(
        "", description="path of a PEM file with the private key of the certificate"
    )
    health_listen: Address | None = Field(
        None,
        description="host and port of a second listener that serves grpc.health.v1 alone, in"
        " plaintext, for probes that cannot do TLS; unset: none",
    )
    mtls_listen: Address | None = Field(
        None,
        description="host and port of a further listener, for callers with client certificates in"
        " place of tokens; unset: none",
    )
    client_ca: str = Field(
        "",
        description="path of a PEM file with the CAs of client certificates; read again when it"
        " changes",
    )
    namespaces: Namespaces = Field(
        frozenset(), description="namespaces to serve, separated by commas; unset: all"
    )
    kserve_namespace: Namespace = Field(
        "kserve", description="namespace in which KServe is installed"
    )

    permit_reserved_namespaces: Namespaces = Field(
        frozenset(),
        description="namespaces of the platform (kube-*, KServe's, Knative's, this server's own)"
        " to allow Deploys in, separated by commas",
    )
    show_container_text: NamespacesOrAll = Field(
        frozenset(),
        description="where callers have no identity: namespaces in which every caller sees logs and"
        " termination messages of containers, even if a container can read Secrets or its"
        " ServiceAccount has rights; separated by commas, * for all",
    )
    max_calls: int = Field(
        1000,
        ge=1,
        description="maximum of concurrent calls, without health checks; further calls get"
        " RESOURCE_EXHAUSTED",
    )
    # Each takes some 25 KiB: 300 MiB of the 512 MiB of a server.
    max_streams: int = Field(
        12_000,
        ge=1,
        description="maximum of concurrent watches; further watches get RESOURCE_EXHAUSTED",
    )
    caller_rate: int = Field(
        500,
        ge=1,
        description="maximum of calls a second of each identified caller, as many of them at one"
        " moment after a pause; reads take turns after 16, writes after one; further calls get"
        " RESOURCE_EXHAUSTED",
    )
    caller_max_calls: int | None = Field(
        None,
        ge=1,
        description="maximum of concurrent calls of each identified caller; unset: a quarter of"
        " MODELSERVICE_MAX_CALLS",
    )
    caller_max_streams: int | None = Field(
        None,
        ge=1,
        description="maximum of concurrent watches of each identified caller; unset: a quarter of"
        " MODELSERVICE_MAX_STREAMS",
    )

    services_memory: Bytes | None = Field(
        None,
        description="maximum of this server's memory for services, in bytes; a Deploy beyond it"
        " gets RESOURCE_EXHAUSTED; unset: a quarter of the cgroup's memory limit, else of the"
        " machine's memory",
    )

    revisions: int = Field(
        MOST_REVISIONS,
        ge=2,
        le=50,
        description="revisions to keep of each service, 2 to 50; the last READY ones are kept"
        " beside them",
    )

    def limits_of_caller(self) -> tuple[int, int, int]:
        """Return the maximum of calls a second, and of concurrent calls and watches, of each
        identified caller."""
        return (
            self.caller_rate,
            self.caller_max_calls or max(1, self.max_calls // CALLER_SHARE),
            self.caller_max_streams or max(1, self.max_streams // CALLER_SHARE),
        )

    def services_memory_bytes(self) -> int:
        """Return the maximum of this server's memory for services."""
        if self.services_memory:
            return math.ceil(quantities.value(self.services_memory))
        return memory_limit() // MEMORY_SHARE

    def tls_paths(self) -> tuple[Path, Path] | None:
        """Return the files of the certificate and its key; None for plaintext."""
        if not self.tls_cert:
            return None
        return (
            _expanded("MODELSERVICE_TLS_CERT", self.tls_cert),
            _expanded("MODELSERVICE_TLS_KEY", self.tls_key),
        )

    def client_ca_path(self) -> Path | None:
        """Return the file with the CAs of client certificates; None without a listener for them."""
        return _expanded("MODELSERVICE_CLIENT_CA", self.client_ca) if self.client_ca else None

    @model_validator(mode="after")
    def _listeners_with_their_files(self) -> Serving:
        _require_both("TLS_CERT", self.tls_cert, "TLS_KEY", self.tls_key)
        _require_both("MTLS_LISTEN", self.mtls_listen, "CLIENT_CA", self.client_ca)
        if self.mtls_listen and not self.tls_cert:
            raise ValueError(
                "MODELSERVICE_TLS_CERT: must be set, since MODELSERVICE_MTLS_LISTEN is"
            )
        return self

    @model_validator(mode="after")
    def _listeners_apart(self) -> Serving:
        used: dict[str, str] = {}
        for name in ("listen", "health_listen", "mtls_listen"):
            address = getattr(self, name)
            # Port 0 is another one for each.
            if not address or address.endswith(":0"):
                continue
            variable = variable_of(type(self), name)
            if address in used:
                raise ValueError(
                    f"{variable}: must be another address than {used[address]}, got {address}"
                )
            used[address] = variable
        return self

    @model_validator(mode="after")
    def _plaintext_stays_here(self) -> Serving:
        if not (self.tls_cert or self.allow_plaintext or is_loopback(self.listen)):
            raise ValueError(
                "MODELSERVICE_LISTEN: must be a loopback address, since traffic is not encrypted,"
                f" got {self.listen}; set MODELSERVICE_TLS_CERT and MODELSERVICE_TLS_KEY to encrypt"
                " it, or MODELSERVICE_ALLOW_PLAINTEXT=true to allow it as it is"
            )
        return self


class Identity(BaseSettings):
    """Who callers are, and what they may do."""

    model_config = _group(PREFIX)

    auth: Literal["none", "tokens", "kubernetes"] | None = Field(
        None,
        description="how callers identify themselves: none: not at all, every caller may do"
        " everything; tokens: with tokens of MODELSERVICE_TOKENS_FILE, which has their roles;"
        " kubernetes: with tokens of the cluster, whose RBAC has their rights; unset: none on"
        " loopback, else kubernetes on KServe; without KServe the start beyond loopback fails until"
        " it is set",
    )
    audience: str = Field(
        "modelservice",
        min_length=1,
        max_length=253,
        description="audience of the cluster's tokens; that of the API server itself lets in other"
        " users too, whose tokens this server could then use elsewhere",
    )
    auth_outage: Seconds = Field(
        timedelta(minutes=10),
        description="seconds for which callers keep their rights while the API server does not"
        " answer",
    )
    reflection: Literal["open", "authenticated"] = Field(
        "open",
        description="who may use server reflection: open: everybody; authenticated: callers with"
        " an identity",
    )
    tokens_file: str = Field(
        "",
        description="path of a TOML file with hashed tokens, their users and roles; read again when"
        " it changes",
    )

    audit: str = Field(
        "",
        description="path of a file or pipe for audit records of writes, - for standard output;"
        " while it takes none, writes are refused; unset: none",
    )

    def audit_path(self) -> Path | None:
        """Return the file or pipe for audit records; None for standard output."""
        return None if self.audit == "-" else _expanded("MODELSERVICE_AUDIT", self.audit)

    def tokens_path(self) -> Path:
        """Return the file of tokens."""
        return _expanded("MODELSERVICE_TOKENS_FILE", self.tokens_file)

    @model_validator(mode="after")
    def _file_with_its_kind(self) -> Identity:
        if self.auth == "tokens" and not self.tokens_file:
            raise ValueError(
                "MODELSERVICE_TOKENS_FILE: must be set, since MODELSERVICE_AUTH is tokens"
            )
        if self.tokens_file and self.auth != "tokens":
            raise ValueError(
                "MODELSERVICE_AUTH: must be tokens, since MODELSERVICE_TOKENS_FILE is set, got"
                f" {self.auth or 'nothing'}"
            )
        return self


class Local(BaseSettings):
    """The local cluster."""

    model_config = _group(PREFIX)

    state_dir: str = Field(
        "",
        description="directory in which the local cluster stores its services; unset:"
        " $XDG_STATE_HOME/modelservice, else ~/.local/state/modelservice",
    )
    serving_python: str = Field(
        "",
        description="path of the Python that runs model servers; unset: .venv-serving/bin/python"
        " beside the server",
    )
    serving_runtimes: str = Field(
        "", description="path of a TOML file with more serving runtimes for the local cluster"
    )
    # Below the usual range of outgoing connections: one of them could have a service's port just
    # when the server starts again.
    serving_ports: Ports = Field(
        "20000-29999",
        description="ports of 127.0.0.1 for services and model servers; other programs should not"
        " use them, even while this server is stopped; an existing service keeps its port",
    )
    model_size_limit: Bytes = Field(
        "100Gi",
        description="maximum size of one model on the local cluster, in bytes, with the files"
        " unpacked from an archive",
    )
    progress_deadline: Annotated[Seconds, Field(gt=timedelta(0))] = Field(
        timedelta(minutes=10),
        description="seconds in which a local model server must load its model",
    )

    def state_path(self) -> Path:
        """Return the state directory."""
        if self.state_dir:
            return _expanded("MODELSERVICE_STATE_DIR", self.state_dir).absolute()
        home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        return _expanded("MODELSERVICE_STATE_DIR", home).absolute() / "modelservice"

    def serving_python_path(self) -> Path:
        """Return the Python of the serving environment, with symbolic links kept: the path of a
        virtual environment's Python determines the environment."""
        beside = Path(__file__).parents[1] / ".venv-serving/bin/python"
        named = self.serving_python
        return _expanded("MODELSERVICE_SERVING_PYTHON", named).absolute() if named else beside

    def serving_runtimes_path(self) -> Path | None:
        """Return the file with the operator's runtimes."""
        named = self.serving_runtimes
        return _expanded("MODELSERVICE_SERVING_RUNTIMES", named).absolute() if named else None

    def model_size_limit_bytes(self) -> int:
        """Return the maximum size of one model."""
        return math.ceil(quantities.value(self.model_size_limit))

    def serving_port_range(self) -> range:
        """Return the ports for services and model servers."""
        first, _, last = self.serving_ports.partition("-")
        return range(int(first), int(last) + 1)

    @staticmethod
    def environment() -> Mapping[str, str]:
        """Return the environment of this process; model servers inherit a part of it."""
        return dict(os.environ)


class Database(BaseSettings):
    """The registry's database."""

    model_config = _group(f"{PREFIX}DATABASE_")

    url: DatabaseUrl = Field(
        SecretStr(""),
        description="database of the registry: postgresql://user:password@host:5432/database or"
        " sqlite:////path; unset: registry.db in the state directory, no registry on KServe",
    )


class Stop(BaseSettings):
    """The stop of the server."""

    model_config = _group(f"{PREFIX}STOP_")

    grace: Seconds = Field(
        timedelta(seconds=30), description="seconds from the signal until open calls are cancelled"
    )
    delay: Seconds = Field(
        timedelta(seconds=2),
        description="seconds of the grace in which health is NOT_SERVING and calls are accepted",
    )

    @model_validator(mode="after")
    def _delay_within_grace(self) -> Stop:
        if self.delay > self.grace:
            raise ValueError(
                "MODELSERVICE_STOP_DELAY: must be at most MODELSERVICE_STOP_GRACE"
                f" ({self.grace.total_seconds():g}), got {self.delay.total_seconds():g}"
            )
        return self


class Log(BaseSettings):
    """The log."""

    model_config = _group(f"{PREFIX}LOG_")

    format: Literal["json", "console"] | None = Field(
        None, description="json or console; unset: console on a terminal, else json"
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug, info, warning or error"
    )


class Testing(BaseSettings):
    """The settings for tests of this project."""

    model_config = _group(f"{PREFIX}TEST_")

    crash_at: failpoints.Name | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, by group."""

    groups: ClassVar = (KServe, Kubernetes, Serving, Identity, Local, Database, Stop, Log)

    kserve: KServe
    kubernetes: Kubernetes
    serving: Serving
    identity: Identity
    local: Local
    database: Database
    stop: Stop
    log: Log
    testing: Testing

    @property
    def auth(self) -> Literal["none", "tokens", "kubernetes"]:
        """Return MODELSERVICE_AUTH, or its default.

        Beyond loopback callers have an identity unless `none` is named.
        """
        if self.identity.auth:
            return self.identity.auth
        return "none" if is_loopback(self.serving.listen) else "kubernetes"

    def require_consistent(self) -> None:
        """Raise SettingsInvalid for settings of different groups that exclude each other."""
        auth, named = self.auth, self.identity.auth
        if auth == "none" and self.serving.mtls_listen:
            raise SettingsInvalid(
                "MODELSERVICE_AUTH: must be tokens or kubernetes, since MODELSERVICE_MTLS_LISTEN is"
                " set, got none"
            )
        if auth == "none" and self.identity.reflection == "authenticated":
            raise SettingsInvalid(
                "MODELSERVICE_REFLECTION: must be open, since callers have no identity"
                " (MODELSERVICE_AUTH), got authenticated"
            )
        if auth == "kubernetes" and not self.kserve.enabled:
            problem = "must be none or tokens while KSERVE_ENABLED is not true, got kubernetes"
            if named is None:
                problem = (
                    "must be tokens, or none to let everybody in, since MODELSERVICE_LISTEN"
                    f" ({self.serving.listen}) is beyond loopback"
                )
            raise SettingsInvalid(f"MODELSERVICE_AUTH: {problem}")

    def platform_namespaces(self) -> frozenset[str]:
        """Return KServe's namespace, and in a pod this server's own."""
        own = _POD_NAMESPACE.read_text() if _POD_NAMESPACE.is_file() else ""
        return frozenset({self.serving.kserve_namespace, own.strip()} - {""})

    def registry_url(self) -> str:
        """Return the URL of the registry's database, which may have a password.

        Empty on KServe if none is set: the disk of a pod does not last.
        """
        url = self.database.url.get_secret_value()
        if url or self.kserve.enabled:
            return url
        return f"{SQLITE}{self.local.state_path() / 'registry.db'}"


def load() -> Settings:
    """Read the environment. Raises SettingsInvalid."""
    refuse_unknown([variable for variable, _ in described()])
    loaded = Settings(
        kserve=_loaded(KServe),
        kubernetes=_loaded(Kubernetes),
        serving=_loaded(Serving),
        identity=_loaded(Identity),
        local=_loaded(Local),
        database=_loaded(Database),
        stop=_loaded(Stop),
        log=_loaded(Log),
        testing=_loaded(Testing),
    )
    loaded.require_consistent()
    return loaded


def described() -> Iterator[tuple[str, str]]:
    """Yield each setting's variable, and its description with its default."""
    for group in Settings.groups:
        for name, field in group.model_fields.items():
            yield variable_of(group, name), f"{field.description} [{_shown(field.default)}]"


_Group = TypeVar("_Group", bound=BaseSettings)


def _loaded(group: type[_Group]) -> _Group:
    try:
        return group()
    except ValidationError as e:
        raise SettingsInvalid("; ".join(setting_problems(group, e))) from None


def _require_both(one: str, value: object, other: str, other_value: object) -> None:
    if bool(value) != bool(other_value):
        given, missing = (one, other) if value else (other, one)
        raise ValueError(f"{PREFIX}{missing}: must be set, since {PREFIX}{given} is")


def _shown(default: object) -> str:
    match default:
        case bool():
            return str(default).lower()
        case timedelta():
            return f"{default.total_seconds():g}"
    return str(default) if default else "unset"


def _expanded(variable: str, path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise SettingsInvalid(
            f"{variable}: must be an absolute path while HOME is not set, got {path}"
        ) from None
