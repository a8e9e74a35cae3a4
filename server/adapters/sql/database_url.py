"""Parse the URL of a PostgreSQL database like libpq. docs/registry.md lists every parameter."""

from __future__ import annotations

import configparser
import os
import pwd
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote_to_bytes, urlencode

from server.adapters.sql.database_errors import Refused

_PORTS = range(1, 65536)
_HOST = re.compile(r"[\w.:%-]+|/.*", re.DOTALL)
_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_TLS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_SESSIONS = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")


class UrlInvalid(Refused):
    """The URL is invalid, or a file that it names. The message names the parameter and shows no
    value. A retry makes sense only because files can be mended while a server runs."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of libpq, with its environment variable. Values outside `only` are refused, with
    `why` as the reason."""

    handling: Literal["honoured", "ignored", "refused"]
    variable: str = ""
    only: tuple[str, ...] = ()
    why: str = ""


def _honoured(variable: str = "", *only: str) -> Parameter:
    return Parameter("honoured", variable, only, f"must be one of {', '.join(only)}")


def _ignored(variable: str = "") -> Parameter:
    return Parameter("ignored", variable)


def _refused(why: str, variable: str = "", only: tuple[str, ...] = ()) -> Parameter:
    return Parameter("refused", variable, only, f"is not supported: {why}")


_NO_BINDING = "remove it, and let sslmode=verify-full with sslrootcert prove who the database is"
_NO_KERBEROS = "there is no Kerberos here; remove it"
_NO_METHODS = "how to log in is for the database to choose; remove it"
_NO_OAUTH = "there is no OAuth here; use a password or a client certificate"

PARAMETERS: Mapping[str, Parameter] = {
    "host": _honoured("PGHOST"),
    "hostaddr": _honoured("PGHOSTADDR"),
    "port": _honoured("PGPORT"),
    "dbname": _honoured("PGDATABASE"),
    "user": _honoured("PGUSER"),
    "password": _honoured("PGPASSWORD"),
    "passfile": _honoured("PGPASSFILE"),
    "require_auth": _refused(_NO_METHODS, "PGREQUIREAUTH"),
    "channel_binding": _refused(_NO_BINDING, "PGCHANNELBINDING", ("disable", "prefer")),
    "connect_timeout": _honoured("PGCONNECT_TIMEOUT"),
    "client_encoding": _ignored("PGCLIENTENCODING"),
    "options": _honoured("PGOPTIONS"),
    "application_name": _honoured("PGAPPNAME"),
    "fallback_application_name": _honoured(),
    "keepalives": _honoured(),
    "keepalives_idle": _honoured(),
    "keepalives_interval": _honoured(),
    "keepalives_count": _honoured(),
    "tcp_user_timeout": _honoured(),
    "replication": _refused("a registry is no replica", only=("false", "off", "no", "0")),
    "gssencmode": _refused(_NO_KERBEROS, "PGGSSENCMODE", ("disable", "prefer")),
    "gssdelegation": _refused(_NO_KERBEROS, "PGGSSDELEGATION", ("0",)),
    "krbsrvname": _ignored("PGKRBSRVNAME"),
    "gsslib": _ignored("PGGSSLIB"),
    "sslmode": _honoured("PGSSLMODE", *_MODES),
    "sslnegotiation": _honoured("PGSSLNEGOTIATION", "postgres", "direct"),
    "sslcompression": _ignored("PGSSLCOMPRESSION"),
    "sslcert": _honoured("PGSSLCERT"),
    "sslkey": _honoured("PGSSLKEY"),
    "sslpassword": _honoured(),
    "sslcertmode": _refused("give sslcert, or do not", "PGSSLCERTMODE", ("allow",)),
    "sslrootcert": _honoured("PGSSLROOTCERT"),
    "sslcrl": _honoured("PGSSLCRL"),
    "sslcrldir": _refused("put the lists into one file, as sslcrl", "PGSSLCRLDIR"),
    "sslsni": _refused("the host's name is always sent", "PGSSLSNI", ("1",)),
    "sslkeylogfile": _refused("remove it", "PGSSLKEYLOGFILE"),
    "ssl_min_protocol_version": _honoured("PGSSLMINPROTOCOLVERSION", *_TLS),
    "ssl_max_protocol_version": _honoured("PGSSLMAXPROTOCOLVERSION", *_TLS),
    "min_protocol_version": _refused("only 3.0 is spoken", "PGMINPROTOCOLVERSION", ("3.0",)),
    "max_protocol_version": _ignored("PGMAXPROTOCOLVERSION"),
    "requirepeer": _refused("let the socket's folder belong to the database", "PGREQUIREPEER"),
    "service": _honoured("PGSERVICE"),
    "servicefile": _honoured("PGSERVICEFILE"),
    "target_session_attrs": _honoured("PGTARGETSESSIONATTRS", *_SESSIONS),
    "load_balance_hosts": _honoured("PGLOADBALANCEHOSTS", "disable", "random"),
    "scram_client_key": _refused("give the password"),
    "scram_server_key": _refused("give the password"),
    "oauth_issuer": _refused(_NO_OAUTH),
    "oauth_client_id": _refused(_NO_OAUTH),
    "oauth_client_secret": _refused(_NO_OAUTH),
    "oauth_scope": _refused(_NO_OAUTH),
}
_WHOLE_NUMBERS = (
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
# Parameters that the driver itself parses.
_OF_THE_DRIVER = (
    "passfile",
    "sslmode",
    "sslnegotiation",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslrootcert",
    "sslcrl",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """A parsed URL. `hosts` are tried in order, None is the driver's default; `session` is the
    target_session_attrs."""

    hosts: tuple[tuple[str | None, int], ...]
    session: str
    shuffled: bool
    # Has the password.
    _given: Mapping[str, str] = field(repr=False)

    def number(self, name: str) -> int | None:
        """Return the value of a numeric parameter; None if it is not set."""
        return int(self._given[name]) if name in self._given else None

    def arguments(self) -> dict[str, Any]:
        """Return the driver's arguments, without host, port and target_session_attrs."""
        given = self._given
        driven = {name: given[name] for name in _OF_THE_DRIVER if name in given}
        name = given.get("application_name") or given.get("fallback_application_name")
        settings = {"application_name": name or "modelservice"}
        if "options" in given:
            settings["options"] = given["options"]
        return {
            "dsn": f"postgresql://?{urlencode(driven)}" if driven else None,
            "user": given["user"],
            "password": given.get("password"),
            "database": given.get("dbname"),
            "server_settings": settings,
        }

    def check_files(self) -> None:
        """Raise UrlInvalid for the first unusable file."""
        if self._given.get("sslmode") == "disable":
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for name in ("sslrootcert", "sslcrl"):
            if path := self._given.get(name):
                _check_file(name, partial(context.load_verify_locations, path))
        if usual := self._usual_root():
            _check_file(
                "sslrootcert",
                partial(context.load_verify_locations, usual),
                f"{usual}, which sslmode={self._given['sslmode']} needs where no other is named,",
                "; put the certificate authority's certificate there, name its file as sslrootcert,"
                " or give sslrootcert=system with sslmode=verify-full to use those of this system",
            )
        if path := self._given.get("sslcert"):
            key, password = self._given.get("sslkey"), self._given.get("sslpassword", "")
            if key:
                _check_file("sslkey", lambda: Path(key).open("rb").close())
            _check_file("sslcert", lambda: Path(path).open("rb").close())
            _check_file(
                "sslcert, sslkey or sslpassword",
                lambda: context.load_cert_chain(path, key, password=lambda: password),
            )

    def _usual_root(self) -> str | None:
        """Return the certificates that the mode needs by default."""
        verified = self._given.get("sslmode", "").startswith("verify-")
        if not verified or self._given.get("sslrootcert"):
            return None
        return str(_home() / ".postgresql" / "root.crt")


def parse(url: str) -> DatabaseUrl:
    """Parse the URL, then the service file that it names, then the environment. Raises
    UrlInvalid."""
    given = _of_url(url)
    given = _of_service(given) | given
    for name, parameter in PARAMETERS.items():
        if name not in given and (value := os.environ.get(parameter.variable)):
            given[name] = value
    _check(given)
    given.setdefault("user", _own_name())
    _find_system_certificates(given)
    return DatabaseUrl(
        hosts=_hosts(given),
        session=given.get("target_session_attrs", "any"),
        shuffled=given.get("load_balance_hosts") == "random",
        _given=given,
    )


def _of_url(url: str) -> dict[str, str]:
    """Return the parameters of the URL, like libpq's conninfo_uri_parse."""
    rest = url.partition("://")[2]
    found: dict[str, str] = {}
    # With a slash before the @ there is no user.
    if userinfo := re.match(r"([^@/:]*)(?::([^@/]*))?@", rest):
        found["user"], found["password"] = userinfo[1], userinfo[2] or ""
        rest = rest[userinfo.end() :]
    hosts, ports = [], []
    while True:
        netloc = re.match(r"(?:\[([^\]]+)\](?=[:/?,]|$)|([^\[:/?,][^:/?,]*)?)(?::([^/?,]*))?", rest)
        if netloc is None or rest[netloc.end() : netloc.end() + 1] == "[":
            raise UrlInvalid("the host is not of the form name:port or [address]:port")
        hosts.append(netloc[1] or netloc[2] or "")
        ports.append(netloc[3] or "")
        rest = rest[netloc.end() :]
        if not rest.startswith(","):
            break
        rest = rest[1:]
    found["host"], found["port"] = ",".join(hosts), ",".join(ports)
    path, _, query = rest.partition("?")
    found["dbname"] = path[1:]
    decoded = {name: _decoded(name, value) for name, value in found.items() if value}
    return decoded | {name: value for name, value in _of_query(query) if value}


def _of_query(query: str) -> Iterator[tuple[str, str]]:
    # libpq takes one & after the last parameter.
    query = query.removesuffix("&") if query != "&" else query
    for pair in query.split("&") if query else ():
        keyword, *values = pair.split("=")
        name = _decoded("a parameter's name", keyword)
        if name not in PARAMETERS and name != "ssl":
            raise UrlInvalid(_unknown(name))
        if len(values) != 1:
            raise UrlInvalid(f"{name}: needs one = before its value; a further one is %3D")
        value = _decoded(name, values[0])
        if name == "ssl":
            if value != "true":
                raise UrlInvalid(_unknown(name))
            name, value = "sslmode", "require"
        yield name, value


def _unknown(name: str) -> str:
    if not re.fullmatch(r"\w{1,64}", name, re.ASCII):
        return "has a parameter that libpq does not know"
    return (
        f"{name}: libpq knows no such parameter; a setting of the database is given as"
        f" options=-c%20{name}%3Dvalue"
    )


def _decoded(name: str, text: str) -> str:
    if re.search(r"%(?![0-9a-fA-F]{2})|%00", text):
        raise UrlInvalid(f"{name}: a % must be followed by two hexadecimal digits, and be no %00")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise UrlInvalid(f"{name}: must be UTF-8") from None


def _of_service(given: Mapping[str, str]) -> dict[str, str]:
    service = given.get("service") or os.environ.get("PGSERVICE")
    if not service:
        return {}
    own = given.get("servicefile") or os.environ.get("PGSERVICEFILE")
    shared = os.environ.get("PGSYSCONFDIR")
    files = [Path(own) if own else _home() / ".pg_service.conf"]
    files += [Path(shared) / "pg_service.conf"] if shared else []
    for file in files:
        lines = configparser.RawConfigParser(
            delimiters=("=",), comment_prefixes=("#",), strict=False, default_section=""
        )
        try:
            lines.read(file)
        except (configparser.Error, UnicodeDecodeError):
            raise UrlInvalid(f"service: {file} is no service file") from None
        if lines.has_section(service):
            for name in lines[service]:
                if name not in PARAMETERS:
                    raise UrlInvalid(f"service: {file} has a parameter that libpq does not know")
            return dict(lines[service])
    raise UrlInvalid(f"service: {files[0]} defines no such service")


def _check(given: Mapping[str, str]) -> None:
    for name, value in given.items():
        parameter = PARAMETERS[name]
        if parameter.handling == "ignored" or value in parameter.only:
            continue
        if parameter.only or parameter.handling == "refused":
            raise UrlInvalid(f"{name}: {parameter.why}")
        if name in _WHOLE_NUMBERS and not re.fullmatch(r"\s*[+-]?\d{1,9}\s*", value, re.ASCII):
            raise UrlInvalid(f"{name}: must be a whole number")
    if given.get("sslnegotiation") == "direct" and given.get("sslmode") not in _MODES[3:]:
        raise UrlInvalid("sslnegotiation: direct needs sslmode=require, verify-ca or verify-full")


def _hosts(given: Mapping[str, str]) -> tuple[tuple[str | None, int], ...]:
    if "hostaddr" in given and given.get("host", given["hostaddr"]) != given["hostaddr"]:
        raise UrlInvalid("hostaddr: is not supported beside host: give the address as host")
    hosts = given.get("host", given.get("hostaddr", "")).split(",")
    ports = given.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts):
        raise UrlInvalid("port: must be one, or as many as there are hosts")
    for host in filter(None, hosts):
        if not _HOST.fullmatch(host):
            # A part of the password, where that has an @.
            raise UrlInvalid(
                "host: is no name, address or folder of a socket; in a password @ : / and % are"
                " written as %40 %3A %2F and %25"
            )
    return tuple((host or None, _port(port)) for host, port in zip(hosts, ports, strict=True))


def _port(text: str) -> int:
    if not text:
        return 5432
    if not (text.strip().isdecimal() and len(text) <= 9 and int(text) in _PORTS):
        raise UrlInvalid("port: must be a number from 1 to 65535")
    return int(text)


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise UrlInvalid("user: must be given, since this process's own user has no name") from None


def _find_system_certificates(given: dict[str, str]) -> None:
    """Return the file of sslrootcert=system."""
    if given.get("sslrootcert") != "system":
        return
    if given.setdefault("sslmode", "verify-full") != "verify-full":
        raise UrlInvalid("sslrootcert: system needs sslmode=verify-full")
    paths = ssl.get_default_verify_paths()
    bundles = [paths.cafile, paths.capath and f"{paths.capath}/ca-certificates.crt"]
    found = next((path for path in bundles if path and Path(path).is_file()), None)
    if found is None:
        raise UrlInvalid("sslrootcert: this system has no certificates; name a file")
    given["sslrootcert"] = found


def _check_file(
    name: str, read: Callable[[], None], file: str = "the file", remedy: str = ""
) -> None:
    """Raise UrlInvalid if a file cannot be read; `file` names it if the URL does not."""
    try:
        read()
    except ssl.SSLError:
        raise UrlInvalid(f"{name}: {file} is not as it must be{remedy}") from None
    except OSError as e:
        why = os.strerror(e.errno) if e.errno else "it cannot be read"
        raise UrlInvalid(f"{name}: {file} cannot be read: {why}{remedy}") from None


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        # No file of this name is anywhere.
        return Path("/nonexistent")
