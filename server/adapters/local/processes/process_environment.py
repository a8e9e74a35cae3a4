"""The environment of a model server."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

from server.adapters.local.processes.exec_wrapper import CHILD_OWNER
from server.domain.rollout.container_output import OutputGate, gate_for

_INHERITED = ("PATH", "HOME", "USER", "LANG", "TMPDIR", "TZ", "LD_LIBRARY_PATH")
_INHERITED_PREFIXES = ("LC_", "SSL_CERT_", "HF_", "CUDA_", "NVIDIA_")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")
_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


def child_environment(
    given: Mapping[str, str], variables: Mapping[str, str], owner: str
) -> dict[str, str]:
    """Return a part of this process's environment, the expanded variables, and the owner."""
    return {**_inherited(given), **variables, CHILD_OWNER: owner}


def output_gate(environment: Mapping[str, str]) -> OutputGate:
    """Return the gate for the output of a model server with this environment."""
    passwords = (("PASSWORD", password) for password in _proxy_passwords(environment))
    return gate_for((*environment.items(), *passwords))


def _proxy_passwords(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        if name.lower() in _PROXIES:
            # A proxy may lack the scheme.
            userinfo, _, _ = value.rpartition("@")
            _, _, password = userinfo.rpartition("//")[2].partition(":")
            yield from (password, unquote(password))


def expand_env(env: Mapping[str, str]) -> dict[str, str]:
    """Expand variables in the order of their names, as Kubernetes does for a container.

    In a value `$(NAME)` is replaced by an earlier variable, and `$$` by `$`. Other references stay.
    """
    variables: dict[str, str] = {}
    for name in sorted(env):
        variables[name] = expand(env[name], variables)
    return variables


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace the references to these variables in a text."""

    def replaced(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return variables.get(found[1], found[0])

    return _REFERENCE.sub(replaced, text)


def _inherited(given: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in given.items()
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES) or name.lower() in _PROXIES
    }
