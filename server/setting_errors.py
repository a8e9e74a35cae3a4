"""Finds invalid and unknown settings, and words their errors."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from difflib import get_close_matches

from pydantic import SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings

from server.domain.kubernetes.names import escaped

PREFIX = "MODELSERVICE_"
# For tests of this project.
PREFIX_OF_TESTS = "MODELSERVICE_TEST_"
# Of modelctl, which may be used in the same shell.
_OF_MODELCTL = ("MODELSERVICE_SERVER", "MODELSERVICE_TOKEN_FILE")
# Kubernetes sets these variables in pods for each Service, such as `modelservice-canary`. It sets
# them all together, so that one without the host is a misspelt setting.
_HOST = "_SERVICE_HOST"
_OF_SERVICE = re.compile(rf"(\w+?)({_HOST}|_SERVICE_PORT(_\w+)?|_PORT(_\d+_\w+)?)")
# The difflib ratio from which a name counts as a misspelt setting.
_NEAR = 0.92
_LONGEST_NAME = 64


class SettingsInvalid(Exception):
    """A setting is invalid or missing; the message names it, for operators."""


def variable_of(group: type[BaseSettings], name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{group.model_config.get('env_prefix', '')}{name}".upper()


def setting_problems(group: type[BaseSettings], invalid: ValidationError) -> Iterator[str]:
    """Yield for each invalid setting what it must be, and the value given unless it is secret."""
    for error in invalid.errors(include_url=False, include_input=False):
        if not error["loc"]:
            yield error["msg"].removeprefix("Value error, ")
            continue
        name = str(error["loc"][0])
        secret = isinstance(group.model_fields[name].default, SecretStr)
        variable = variable_of(group, name)
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
        case "less_than_equal":
            return f"must be at most {_bound(context['le'])}"
        case "greater_than":
            return f"must be more than {_bound(context['gt'])}"
        case "string_too_long":
            return f"must have at most {context['max_length']} characters"
        case "literal_error":
            return f"must be {context['expected'].replace(chr(39), '')}"
    return error["msg"].removeprefix("Value error, ").replace("Input should", "must", 1)


def _bound(limit: object) -> str:
    """Format a limit. Pydantic gives the repr of a timedelta."""
    return "0" if limit in (timedelta(0), repr(timedelta(0))) else str(limit)


def _given(variable: str) -> str:
    """Return the text of a variable; the case of its name does not matter."""
    return next((text for name, text in os.environ.items() if name.upper() == variable), "")


def refuse_unknown(known: Sequence[str]) -> None:
    """Refuse a variable that looks like a setting and is none.

    Otherwise a misspelt KSERVE_ENABLED would silently deploy on this machine instead of on KServe.
    """
    for variable in sorted(os.environ):
        name = variable.upper()
        foreign = name in _OF_MODELCTL or name.startswith(PREFIX_OF_TESTS) or _is_of_service(name)
        if name in known or foreign:
            continue
        meant = _meant(name, known)
        if meant or variable.startswith(PREFIX):
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
