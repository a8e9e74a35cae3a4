"""The settings, and the only place that reads the environment."""

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
# Kubernetes puts these into pods beside a Service, such as one named `modelservice` or
# `modelservice-canary`: all of them, so that one without the host is a slip.
_HOST = "_SERVICE_HOST"
_OF_SERVICE = re.compile(rf"(\w+?)({_HOST}|_SERVICE_PORT(_\w+)?|_PORT(_\d+_\w+)?)")
# For tests of this project.
_OF_TESTS = "MODELSERVICE_TEST_"
# How alike a name must be to one of ours to be taken for a slip, by difflib's ratio.
_NEAR = 0.92
_LONGEST_NAME = 64


class SettingsInvalid(Exception):
    """A setting is wrong or missing; the message names it, for operators."""


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
            f"{variable}: must be an absolute path, or HOME be set: the home of {path} is not known"
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


# Kubernetes puts it into every pod that has a token.
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class KServe(BaseSettings):
    """Which cluster."""

    model_config = _group("KSERVE_")

    enabled: bool = Field(
        False, description="deploy on KServe; false: on model servers of this machine"
    )


class Kubernetes(BaseSettings):
    """How the API server is reached."""

    model_config = _group("KUBERNETES_")

    in_cluster: bool = Field(False, description="use the pod's own service account")
    kubeconfig: str = Field(
        "", description="path of a kubeconfig; else $KUBECONFIG, else ~/.kube/config"
    )
    default_namespace: Namespace = Field(
        "model-serving", description="stands in for an empty namespace in a request"
    )

    @model_validator(mode="after")
    def _one_way_in(self) -> Kubernetes:
        if self.in_cluster and self.kubeconfig:
            raise ValueError("KUBERNETES_IN_CLUSTER and KUBERNETES_KUBECONFIG exclude each other")
        return self

    def kubeconfig_paths(self) -> str:
        """The kubeconfig to use: a path, or several as $KUBECONFIG may have. Raises SettingsInvalid
        where none of them exists."""
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
        """This process's own: it names proxies and a pod's API server, and plugins inherit it."""
        return dict(os.environ)


class Serving(BaseSettings):
    """Whom the server answers."""

    model_config = _group(_OURS)

    listen: Address = Field("127.0.0.1:50051", description="address and port to listen on")
    allow_plaintext: bool = Field(
        False, description="listen beyond loopback although traffic is not encrypted"
    )
    namespaces: Namespaces = Field(
        frozenset(), description="namespaces to serve, with commas between; empty: all"
    )
    kserve_namespace: Namespace = Field(
        "kserve", description="the namespace that KServe is installed in"
    )

    permit_reserved_namespaces: Namespaces = Field(
        frozenset(),
        description="namespaces of the platform (kube-*, KServe's, Knative's, this server's own)"
        " that may be deployed to all the same, with commas between",
    )
    show_container_text: NamespacesOrAll = Field(
        frozenset(),
        description="namespaces whose containers' logs and last words every caller is shown, also"
        " where the container can read Secrets, or acts as a ServiceAccount that has rights; with"
        " commas between, * for all",
    )
    max_calls: int = Field(
        1000,
        ge=1,
        description="calls answered at once; further ones are RESOURCE_EXHAUSTED, health is not",
    )
    # Each takes some 25 KiB: 300 of the 512 MiB that the server is to stay within.
    max_streams: int = Field(
        12_000, ge=1, description="watches open at once; further ones are RESOURCE_EXHAUSTED"
    )

    services_memory: Bytes | None = Field(
        None,
        description="the bytes that services may have of this server's memory; a Deploy that would"
        " exceed it is RESOURCE_EXHAUSTED; unset: a quarter of the memory limit of its cgroup, else"
        " of the machine's memory",
    )

    def services_memory_bytes(self) -> int:
        """The most that services may have of this server's memory."""
        if self.services_memory:
            return math.ceil(quantities.value(self.services_memory))
        return memory_limit() // MEMORY_SHARE

    @model_validator(mode="after")
    def _plaintext_stays_here(self) -> Serving:
        if not self.allow_plaintext and not _is_loopback(self.listen):
            raise ValueError(
                f"MODELSERVICE_LISTEN: {self.listen} is beyond loopback and traffic would not be"
                " encrypted; MODELSERVICE_ALLOW_PLAINTEXT=true permits that"
            )
        return self


class Local(BaseSettings):
    """What the local cluster works with."""

    model_config = _group(_OURS)

    state_dir: str = Field(
        "",
        description="where the local cluster keeps its services; else $XDG_STATE_HOME/modelservice,"
        " else ~/.local/state/modelservice",
    )
    serving_python: str = Field(
        "",
        description="the Python that model servers run in; else .venv-serving/bin/python beside"
        " the server",
    )
    serving_runtimes: str = Field(
        "", description="a TOML file with further serving runtimes for the local cluster"
    )
    # Below those that systems usually give to outgoing connections: such a one could hold a
    # service's address just when the server starts again.
    serving_ports: Ports = Field(
        "20000-29999",
        description="ports of 127.0.0.1 for services and model servers, which nothing else should"
        " take while this server is away; a service that is there keeps its own",
    )
    model_size_limit: Bytes = Field(
        "100Gi",
        description="the most that one model's files may have on the local cluster, unpacked ones"
        " included",
    )
    progress_deadline: Annotated[Seconds, Field(gt=timedelta(0))] = Field(
        timedelta(minutes=10), description="seconds that a local model server has to load its model"
    )

    def state_path(self) -> Path:
        """The state directory."""
        if self.state_dir:
            return _expanded("MODELSERVICE_STATE_DIR", self.state_dir).absolute()
        home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        return _expanded("MODELSERVICE_STATE_DIR", home).absolute() / "modelservice"

    def serving_python_path(self) -> Path:
        """The serving environment's interpreter, by the path that makes it that environment's."""
        beside = Path(__file__).parents[1] / ".venv-serving/bin/python"
        named = self.serving_python
        return _expanded("MODELSERVICE_SERVING_PYTHON", named).absolute() if named else beside

    def serving_runtimes_path(self) -> Path | None:
        """The operator's own runtimes."""
        named = self.serving_runtimes
        return _expanded("MODELSERVICE_SERVING_RUNTIMES", named).absolute() if named else None

    def model_size_limit_bytes(self) -> int:
        """The most that one model may have."""
        return math.ceil(quantities.value(self.model_size_limit))

    def serving_port_range(self) -> range:
        """The ports that services and model servers get."""
        first, _, last = self.serving_ports.partition("-")
        return range(int(first), int(last) + 1)

    @staticmethod
    def environment() -> Mapping[str, str]:
        """This process's own, which model servers inherit a little of."""
        return dict(os.environ)


class Database(BaseSettings):
    """Where the registry is kept."""

    model_config = _group(f"{_OURS}DATABASE_")

    url: Annotated[SecretStr, AfterValidator(_checked_url)] = Field(
        SecretStr(""),
        description="where the registry is: postgresql://user:password@host:5432/database, or"
        " sqlite:////path; else registry.db in the state directory, and on KServe there is none",
    )


class Stop(BaseSettings):
    """How the server ends."""

    model_config = _group(f"{_OURS}STOP_")

    grace: Seconds = Field(
        timedelta(seconds=30), description="seconds from the signal until the last call is cut"
    )
    delay: Seconds = Field(
        timedelta(seconds=2),
        description="seconds of these in which health says NOT_SERVING and calls are still taken",
    )

    @model_validator(mode="after")
    def _delay_within_grace(self) -> Stop:
        if self.delay > self.grace:
            raise ValueError("MODELSERVICE_STOP_DELAY is longer than MODELSERVICE_STOP_GRACE")
        return self


class Log(BaseSettings):
    """What is logged, and how it looks."""

    model_config = _group(f"{_OURS}LOG_")

    format: Literal["json", "console"] | None = Field(
        None, description="json or console; unset: console on a terminal, else json"
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug, info, warning or error"
    )


class Testing(BaseSettings):
    """For tests of this project."""

    model_config = _group(f"{_OURS}TEST_")

    crash_at: failpoints.Name | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set, by group."""

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
        """KServe's namespace, and this server's own where it runs in a pod."""
        own = _POD_NAMESPACE.read_text() if _POD_NAMESPACE.is_file() else ""
        return frozenset({self.serving.kserve_namespace, own.strip()} - {""})

    def registry_url(self) -> str:
        """Where the registry is; empty: there is none, since a pod's own disk is no place for it.
        It may hold a password."""
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
    """Every setting's variable, and what it is for with its default."""
    for group in Settings.groups:
        for name, field in group.model_fields.items():
            yield _variable(group, name), f"{field.description} [{_shown(field.default)}]"


_Group = TypeVar("_Group", bound=BaseSettings)


def _loaded(group: type[_Group]) -> _Group:
    try:
        return group()
    except ValidationError as e:
        raise SettingsInvalid("; ".join(_told(group, e))) from None


def _told(group: type[BaseSettings], invalid: ValidationError) -> Iterator[str]:
    """Say what each wrong setting must be and what was given, which a secret never shows."""
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
    """What a setting must be, in our words rather than pydantic's."""
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
    """A limit; pydantic gives one of time as the words that Python would have for it."""
    return "0" if limit in (timedelta(0), repr(timedelta(0))) else str(limit)


def _given(variable: str) -> str:
    """The text that was given; in which case of letters the variable stands does not matter."""
    return next((text for name, text in os.environ.items() if name.upper() == variable), "")


def _refuse_unknown() -> None:
    """Refuse a variable that is meant for this server and is none of its settings.

    Ignored, it would leave the server as it is without it, such as on its own machine rather than
    on KServe, and nothing would say so.
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
    """Whether Kubernetes puts a variable into pods for a Service of their namespace."""
    found = _OF_SERVICE.fullmatch(name)
    return found is not None and f"{found[1]}{_HOST}" in os.environ


def _meant(name: str, known: Sequence[str]) -> str:
    """The setting that a name is a slip of, such as KSERVE_ENABLE or ENABLE_KSERVE; else empty."""
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
