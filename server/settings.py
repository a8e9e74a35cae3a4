"""The settings, read from the environment here and nowhere else."""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from server import failpoints
from server.domain.caller import ALL_NAMESPACES
from server.domain.kubernetes import quantities
from server.domain.kubernetes.names import dns_label_problem, escaped
from server.memory_limit import memory_limit

_OURS = "MODELSERVICE_"
SQLITE = "sqlite:///"  # and an absolute path
# docs/operations.md has the arithmetic.
MEMORY_SHARE = 4
# Kubernetes sets these variables in pods for each Service, such as `modelservice-canary`. It sets
# them all together, so that one without the host is a misspelt setting.
_HOST = "_SERVICE_HOST"
_OF_SERVICE = re.compile(rf"(\w+?)({_HOST}|_SERVICE_PORT(_\w+)?|_PORT(_\d+_\w+)?)")
# For tests of this project.
_OF_TESTS = "MODELSERVICE_TEST_"
# The difflib ratio from which a name counts as a misspelt setting.
_NEAR = 0.92
_LONGEST_NAME = 64


class SettingsInvalid(Exception):
    """A setting is invalid or missing; the message names it, for operators."""


def _group(prefix: str) -> SettingsConfigDict:
    return SettingsConfigDict(
        env_prefix=prefix,
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )


def _checked_address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) <= 65535):
        raise ValueError("must be an address and a port, such as 127.0.0.1:50051 or [::1]:50051")
    return text


def _split(text: object) -> object:
    return (
        [part.strip() for part in text.split(",") if part.strip()]
        if isinstance(text, str)
        else text
    )


def _seconds(text: object) -> object:
    if not isinstance(text, str):
        return text
    try:
        return timedelta(seconds=float(text))
    except (ValueError, OverflowError):
        raise ValueError("must be a number of seconds") from None


def _expanded(variable: str, path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise SettingsInvalid(
            f"{variable}: must be an absolute path while HOME is not set, got {path}"
        ) from None


def _checked_ports(text: str) -> str:
    given = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text, re.ASCII)
    if not (given and 1024 <= int(given[1]) <= int(given[2]) <= 65535):
        raise ValueError("must be a first and a last port from 1024 to 65535, such as 20000-29999")
    return text


def _checked_bytes(text: str) -> str:
    try:
        if quantities.value(text) > 0:
            return text
    except ValueError:
        pass
    raise ValueError("must be a number of bytes above 0, such as 100Gi")


def _checked_namespace(name: str) -> str:
    if problem := dns_label_problem(name):
        raise ValueError(problem)
    return name


def _checked_namespace_or_all(name: str) -> str:
    return name if name == ALL_NAMESPACES else _checked_namespace(name)


def _checked_url(url: SecretStr) -> SecretStr:
    if url and not url.get_secret_value().startswith(
        ("postgresql://", "postgres://", f"{SQLITE}/")
    ):
        raise ValueError("must begin with postgresql:// or sqlite:////")
    return url


Address = Annotated[str, AfterValidator(_checked_address)]
Ports = Annotated[str, AfterValidator(_checked_ports)]
Bytes = Annotated[str, AfterValidator(_checked_bytes)]
Namespace = Annotated[str, AfterValidator(_checked_namespace)]
Namespaces = Annotated[frozenset[Namespace], NoDecode, BeforeValidator(_split)]
NamespacesOrAll = Annotated[
    frozenset[Annotated[str, AfterValidator(_checked_namespace_or_all)]],
    NoDecode,
    BeforeValidator(_split),
]
Seconds = Annotated[timedelta, BeforeValidator(_seconds), Field(ge=timedelta(0))]


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

    model_config = _group(_OURS)

    listen: Address = Field("127.0.0.1:50051", description="host and port to listen on")
    allow_plaintext: bool = Field(
        False, description="allow a listen address beyond loopback, without encryption"
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
        description="namespaces in which every caller sees logs and termination messages of"
        " containers, even if a container can read Secrets or its ServiceAccount has rights;"
        " separated by commas, * for all",
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

    services_memory: Bytes | None = Field(
        None,
        description="maximum of this server's memory for services, in bytes; a Deploy beyond it"
        " gets RESOURCE_EXHAUSTED; unset: a quarter of the cgroup's memory limit, else of the"
        " machine's memory",
    )

    def services_memory_bytes(self) -> int:
        """Return the maximum of this server's memory for services."""
        if self.services_memory:
            return math.ceil(quantities.value(self.services_memory))
        return memory_limit() // MEMORY_SHARE

    @model_validator(mode="after")
    def _plaintext_stays_here(self) -> Serving:
        if not self.allow_plaintext and not _is_loopback(self.listen):
            raise ValueError(
                "MODELSERVICE_LISTEN: must be a loopback address, since traffic is not encrypted,"
                f" got {self.listen}; MODELSERVICE_ALLOW_PLAINTEXT=true allows others"
            )
        return self


class Local(BaseSettings):
    """The local cluster."""

    model_config = _group(_OURS)

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

    model_config = _group(f"{_OURS}DATABASE_")

    url: Annotated[SecretStr, AfterValidator(_checked_url)] = Field(
        SecretStr(""),
        description="database of the registry: postgresql://user:password@host:5432/database or"
        " sqlite:////path; unset: registry.db in the state directory, no registry on KServe",
    )


class Stop(BaseSettings):
    """The stop of the server."""

    model_config = _group(f"{_OURS}STOP_")

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

    model_config = _group(f"{_OURS}LOG_")

    format: Literal["json", "console"] | None = Field(
        None, description="json or console; unset: console on a terminal, else json"
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug, info, warning or error"
    )


class Testing(BaseSettings):
    """The settings for tests of this project."""

    model_config = _group(f"{_OURS}TEST_")

    crash_at: failpoints.Name | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, by group."""

    groups: ClassVar = (KServe, Kubernetes, Serving, Local, Database, Stop, Log)

    kserve: KServe
    kubernetes: Kubernetes
    serving: Serving
    local: Local
    database: Database
    stop: Stop
    log: Log
    testing: Testing

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
    _refuse_unknown()
    return Settings(
        kserve=_loaded(KServe),
        kubernetes=_loaded(Kubernetes),
        serving=_loaded(Serving),
        local=_loaded(Local),
        database=_loaded(Database),
        stop=_loaded(Stop),
        log=_loaded(Log),
        testing=_loaded(Testing),
    )


def described() -> Iterator[tuple[str, str]]:
    """Yield each setting's variable, and its description with its default."""
    for group in Settings.groups:
        for name, field in group.model_fields.items():
            yield _variable(group, name), f"{field.description} [{_shown(field.default)}]"


_Group = TypeVar("_Group", bound=BaseSettings)


def _loaded(group: type[_Group]) -> _Group:
    try:
        return group()
    except ValidationError as e:
        raise SettingsInvalid("; ".join(_problems(group, e))) from None


def _problems(group: type[BaseSettings], invalid: ValidationError) -> Iterator[str]:
    """Yield for each invalid setting what it must be, and the value given unless it is secret."""
    for error in invalid.errors(include_url=False, include_input=False):
        if not error["loc"]:
            yield error["msg"].removeprefix("Value error, ")
            continue
        name = str(error["loc"][0])
        secret = isinstance(group.model_fields[name].default, SecretStr)
        variable = _variable(group, name)
        wanted = _wanted(error)
        got = "" if secret or ", got " in wanted else f", got {escaped(_given(variable))}"
        yield f"{variable}: {wanted}{got}"


def _wanted(error: ErrorDetails) -> str:
    """Return what a setting must be, in our words instead of pydantic's."""
    context = error.get("ctx", {})
    match error["type"]:
        case "int_parsing" | "int_parsing_size":
            return "must be a whole number"
        case "bool_parsing":
            return "must be true or false"
        case "greater_than_equal":
            return f"must be at least {_bound(context['ge'])}"
        case "greater_than":
            return f"must be more than {_bound(context['gt'])}"
        case "literal_error":
            return f"must be {context['expected'].replace(chr(39), '')}"
    return error["msg"].removeprefix("Value error, ").replace("Input should", "must", 1)


def _bound(limit: object) -> str:
    """Format a limit. Pydantic gives the repr of a timedelta."""
    return "0" if limit in (timedelta(0), repr(timedelta(0))) else str(limit)


def _given(variable: str) -> str:
    """Return the text of a variable; the case of its name does not matter."""
    return next((text for name, text in os.environ.items() if name.upper() == variable), "")


def _refuse_unknown() -> None:
    """Refuse a variable that looks like a setting and is none.

    Otherwise a misspelt KSERVE_ENABLED would silently deploy on this machine instead of on KServe.
    """
    known = [variable for variable, _ in described()]
    for variable in sorted(os.environ):
        name = variable.upper()
        if name in known or name.startswith(_OF_TESTS) or _is_of_service(name):
            continue
        meant = _meant(name, known)
        if meant or variable.startswith(_OURS):
            meant = meant and f"; did you mean {meant}?"
            raise SettingsInvalid(f"{variable}: there is no such setting{meant}; --help lists them")


def _is_of_service(name: str) -> bool:
    """Report whether Kubernetes sets a variable in pods for a Service of their namespace."""
    found = _OF_SERVICE.fullmatch(name)
    return found is not None and f"{found[1]}{_HOST}" in os.environ


def _meant(name: str, known: Sequence[str]) -> str:
    """Return the setting that is misspelt, as in KSERVE_ENABLE or ENABLE_KSERVE; else empty."""
    if len(name) > _LONGEST_NAME:
        return ""
    spelt = {way: variable for variable in known for way in (variable, _in_order(variable))}
    near = [n for way in (name, _in_order(name)) for n in get_close_matches(way, spelt, 1, _NEAR)]
    return spelt[near[0]] if near else ""


def _in_order(name: str) -> str:
    return "_".join(sorted(name.split("_")))


def _variable(group: type[BaseSettings], name: str) -> str:
    return f"{group.model_config.get('env_prefix', '')}{name}".upper()


def _shown(default: object) -> str:
    match default:
        case bool():
            return str(default).lower()
        case timedelta():
            return f"{default.total_seconds():g}"
    return str(default) if default else "unset"


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
