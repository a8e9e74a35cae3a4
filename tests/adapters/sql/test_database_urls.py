"""The URL of a database as libpq reads it: libpq itself, which comes with PostgreSQL, is asked what
each URL means."""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.adapters.sql import database_url
from server.adapters.sql.database_url import PARAMETERS, UrlInvalid, parse
from tests.alone import ROOT
from tests.registry_store import leave_out_without_postgresql

SECRET = "hunter2"
URLS = [
    "postgresql://",
    "postgres://u@h/d",
    "postgresql://u:p%40ss%2Fw@h:5433/d?sslmode=require",
    "postgresql://u:p?a#b@h/d",
    "postgresql://u:12/ss@h/d",
    "postgresql://:p@h",
    "postgresql://u:@h",
    "postgresql://a:1,b,[::1]:3/d",
    "postgresql://[::1]x/d",
    "postgresql://[::1",
    "postgresql://[]/d",
    "postgresql://,/d",
    "postgresql://h?dbname=d",
    "postgresql://h/?user=a+b",
    "postgresql:///d?host=/tmp,/run&port=1,2",
    "postgresql://h/d?ssl=true",
    "postgresql://h/d?ssl=false",
    "postgresql://h/d?options=-csearch_path%3Da",
    "postgresql://h/d?options=-csearch_path=a",
    "postgresql://h/d?sslmode",
    "postgresql://h/d?sslmode=disable&sslmode=require",
    "postgresql://h/d?&sslmode=disable",
    "postgresql://h/d?search_path=a",
    "postgresql://h/d?application_name=a%2",
    "postgresql://h/d?application_name=a%00",
    "postgresql://h/d#x?sslmode=disable",
]


class Option(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_char_p) for name in ("keyword", "variable", "default", "value", "label")),
        ("shown", ctypes.c_char_p),
        ("size", ctypes.c_int),
    ]


@pytest.fixture(scope="module")
def libpq() -> Any:
    leave_out_without_postgresql()
    library = ctypes.CDLL(ctypes.util.find_library("pq") or "libpq.so.5")
    for name in ("PQconndefaults", "PQconninfoParse"):
        getattr(library, name).restype = ctypes.POINTER(Option)
    return library


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for parameter in PARAMETERS.values():
        monkeypatch.delenv(parameter.variable or "NONE", raising=False)


def options(found: Any) -> Iterator[Option]:
    number = 0
    while found[number].keyword:
        yield found[number]
        number += 1


def as_libpq(libpq: Any, url: str) -> dict[str, str] | None:
    """What libpq reads there; None where it refuses it."""
    error = ctypes.c_char_p()
    found = libpq.PQconninfoParse(url.encode(), ctypes.byref(error))
    if not found:
        return None
    return {o.keyword.decode(): o.value.decode() for o in options(found) if o.value}


def as_we(url: str) -> dict[str, str] | None:
    try:
        return database_url._of_url(url)
    except UrlInvalid:
        return None


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_read_as_libpq_reads_it(libpq: Any, url: str) -> None:
    assert as_we(url) == as_libpq(libpq, url)


PIECES = """@ : / ? , [ ] & = % # + . %40 %3D %C3%A9 u pw host ::1 5432 é
    sslmode=require options=-ca%3Db user=x port=1"""


@given(st.lists(st.sampled_from([*PIECES.split(), " "]), max_size=12).map("".join))
@example("u:p@[::1]:5/d?user=x&&port=1")
@example("?sslmode=require&")
@example("?&")
@example("?sslmode=require&&")
def test_any_url_is_read_as_libpq_reads_it(libpq: Any, rest: str) -> None:
    theirs = as_libpq(libpq, f"postgresql://{rest}")
    assert as_we(f"postgresql://{rest}") == theirs


def test_every_parameter_of_libpq_is_known_with_its_variable(libpq: Any) -> None:
    theirs = {
        option.keyword.decode(): (option.variable or b"").decode()
        for option in options(libpq.PQconndefaults())
    }
    # PostgreSQL's own tests have one more.
    theirs.pop("authtype", None)
    assert theirs.items() <= {name: each.variable for name, each in PARAMETERS.items()}.items()


@pytest.mark.parametrize("name", [n for n, p in PARAMETERS.items() if p.handling == "refused"])
def test_what_cannot_be_done_is_refused_by_name_and_what_it_is_by_default_is_not(name: str) -> None:
    with pytest.raises(UrlInvalid, match=f"^{name}: is not supported: "):
        parse(f"postgresql://u:{SECRET}@h/d?{name}=require")
    for value in PARAMETERS[name].only:
        parse(f"postgresql://u@h/d?{name}={value}")


@pytest.mark.parametrize(
    ("given_as", "named"),
    [
        ("connect_timeout=soon", "connect_timeout"),
        ("keepalives_idle=1.5", "keepalives_idle"),
        ("sslmode=always", "sslmode"),
        ("target_session_attrs=mine", "target_session_attrs"),
        ("port=99999", "port"),
        ("port=1,2", "port"),
        ("hostaddr=10.0.0.1", "hostaddr"),
        ("sslnegotiation=direct", "sslnegotiation"),
        ("sslrootcert=system&sslmode=require", "sslrootcert"),
        ("pgbouncer=true", "pgbouncer"),
        ("search_path=a", "search_path: .*options=-c%20search_path%3D"),
        ("service=none", "service"),
        ("application_name=%FF", "application_name"),
    ],
)
def test_a_wrong_value_is_told_by_its_parameter(given_as: str, named: str) -> None:
    with pytest.raises(UrlInvalid, match=f"^{named}") as raised:
        parse(f"postgresql://u:{SECRET}@h/d?{given_as}")
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("password", [f"a@{SECRET}", f"a/{SECRET}", f"1/{SECRET}%"])
def test_a_password_that_is_not_written_as_a_url_needs_it_is_not_shown(password: str) -> None:
    with pytest.raises(UrlInvalid) as raised:
        parse(f"postgresql://u:{password}@h/d")
    assert SECRET not in str(raised.value)


def test_a_service_file_and_the_environment_stand_in_for_what_the_url_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "services"
    file.write_text("# ours\n[mine]\nhost=b\nport=6\nuser=of-the-file\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    monkeypatch.setenv("PGUSER", "of-the-environment")
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "7")
    url = parse("postgresql://a/?service=mine")
    assert url.hosts == (("a", 6),)
    assert (url.arguments()["user"], url.number("connect_timeout")) == ("of-the-file", 7)
    monkeypatch.setenv("PGCHANNELBINDING", "require")
    with pytest.raises(UrlInvalid, match=r"^channel_binding"):
        parse("postgresql://a/")


def test_a_user_without_a_name_is_told_that_the_url_needs_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 4_000_000_000)
    with pytest.raises(UrlInvalid, match=r"^user: must be given"):
        parse("postgresql://h/d")


def test_the_docs_say_of_every_parameter_what_becomes_of_it() -> None:
    text = (ROOT / "docs" / "registry.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (honoured|ignored|refused)\b", text, re.MULTILINE)
    assert rows == [(name, parameter.handling) for name, parameter in PARAMETERS.items()]


def test_a_password_with_anything_in_it_reaches_the_driver_as_it_is() -> None:
    password = "a+b&c=d e%é@/?#"
    for url in (
        f"postgresql://u:{quote(password, safe='')}@h/d",
        f"postgresql://u@h/d?password={quote(password, safe='')}",
    ):
        assert parse(url).arguments()["password"] == password
        assert password not in repr(parse(url))
