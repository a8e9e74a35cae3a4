"""The environment of a model server."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

from server.adapters.local.processes.exec_wrapper import MARKER
from server.domain.rollout.container_output import OutputGate, gate_for

_PASSED_ON = ("PATH", "HOME", "USER", "LANG", "TMPDIR", "TZ", "LD_LIBRARY_PATH")
_PASSED_ON_PREFIXES = ("LC_", "SSL_CERT_", "HF_", "CUDA_", "NVIDIA_")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")
_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


def child_environment(
    given: Mapping[str, str], variables: Mapping[str, str], owner: str
) -> dict[str, str]:
    """Little of this process's own, the spec's `expanded` variables, and whose child it is."""
    return {**_passed_on(given), **variables, MARKER: owner}


def output_gate(environment: Mapping[str, str]) -> OutputGate:
    """Return the gate for what a model server of this environment writes."""
    passwords = (("PASSWORD", password) for password in _proxy_passwords(environment))
    return gate_for((*environment.items(), *passwords))


def _proxy_passwords(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        if name.lower() in _PROXIES:
            # With or without a scheme before it.
            who, _, _ = value.rpartition("@")
            _, _, password = who.rpartition("//")[2].partition(":")
            yield from (password, unquote(password))


def expanded(asked: Mapping[str, str]) -> dict[str, str]:
    """The variables in the order of their names, as Kubernetes would hand them to a container.

    In a value `$(NAME)` stands for a variable before it, and `$$` for `$`; what names none stays.
    """
    variables: dict[str, str] = {}
    for name in sorted(asked):
        variables[name] = expand(asked[name], variables)
    return variables


def expand(text: str, variables: Mapping[str, str]) -> str:
    """The text with the references to these variables filled in."""

    def filled(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return variables.get(found[1], found[0])

    return _REFERENCE.sub(filled, text)


def _passed_on(given: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in given.items()
        if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES) or name.lower() in _PROXIES
    }
