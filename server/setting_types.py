"""The types of settings, with their validation."""

from __future__ import annotations

import ipaddress
import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from server.domain.caller import ALL_NAMESPACES
from server.domain.kubernetes import quantities
from server.domain.kubernetes.names import dns_label_problem

SQLITE = "sqlite:///"  # and an absolute path


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
DatabaseUrl = Annotated[SecretStr, AfterValidator(_checked_url)]


def is_loopback(address: str) -> bool:
    """Report whether an address is of this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
