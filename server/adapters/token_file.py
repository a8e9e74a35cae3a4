"""Callers and their roles from a TOML file, which is read again when it changes.

docs/identity.md explains its fields. Tokens are in it as their SHA-256 alone.
"""

from __future__ import annotations

import re
import secrets
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from server.domain.caller import (
    ALL_NAMESPACES,
    AUTHENTICATED,
    RESERVED,
    Access,
    BearerToken,
    Caller,
    Resource,
)
from server.domain.errors import Unauthenticated
from server.domain.kubernetes.names import dns_label_problem
from server.domain.registry.resource_names import project_problem
from server.followed_file import Events, FollowedFile

SETTING = "MODELSERVICE_TOKENS_FILE"
MOST_BYTES = 256 * 2**10
_MOST_PROBLEMS = 5
_KUBERNETES = "MODELSERVICE_AUTH=kubernetes"
_EVENTS = Events("tokens loaded", "tokens replaced", "tokens cannot be replaced")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[!-~]{1,253}")


class Role(StrEnum):
    """A role in a namespace or a project. Each has the rights of those before it."""

    VIEWER = "viewer"
    DEPLOYER = "deployer"
    ADMIN = "admin"


_READS = {"get", "list", "watch"}
# As Kubernetes' own roles: its `view` reads pods' logs too.
_VERBS: Mapping[Resource, Mapping[Role, set[str]]] = {
    Resource.POD_LOGS: {role: {"get"} for role in Role},
    Resource.SERVICES: {
        Role.VIEWER: _READS,
        Role.DEPLOYER: _READS | {"create", "patch", "delete"},
        Role.ADMIN: _READS | {"create", "patch", "delete"},
    },
    Resource.PROJECTS: {
        Role.VIEWER: {"get"},
        Role.DEPLOYER: {"get", "update"},
        Role.ADMIN: {"get", "update", "create"},
    },
}


def _checked_name(name: str) -> str:
    if name.startswith(RESERVED):
        raise ValueError(f"must not begin with {RESERVED}, which Kubernetes keeps for its own")
    if not _NAME.fullmatch(name):
        raise ValueError("must have 1 to 253 printable characters of ASCII, and no spaces")
    return name


def _checked_digest(digest: str) -> str:
    if not _SHA256.fullmatch(digest):
        raise ValueError("must be the SHA-256 of a token, in 64 digits of lower-case hex")
    return digest


def _checked_namespace(name: str) -> str:
    if name != ALL_NAMESPACES and (problem := dns_label_problem(name)):
        raise ValueError(f"{problem}, or be * for all namespaces")
    return name


def _checked_project(name: str) -> str:
    if name != ALL_NAMESPACES and (problem := project_problem(name)):
        raise ValueError(f"{problem}, or be * for all projects")
    return name


_Name = Annotated[str, AfterValidator(_checked_name)]
_Namespace = Annotated[str, AfterValidator(_checked_namespace)]
_Project = Annotated[str, AfterValidator(_checked_project)]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: _Name
    namespaces: dict[_Namespace, Role] = {}
    projects: dict[_Project, Role] = {}


class _User(_Row):
    groups: tuple[_Name, ...] = ()
    # A user without a token has a client certificate.
    sha256: tuple[Annotated[str, AfterValidator(_checked_digest)], ...] = ()


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    user: tuple[_User, ...] = ()
    group: tuple[_Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a file says: the caller of each token, and the roles of users and groups."""

    callers: Mapping[str, Caller] = field(default_factory=dict)
    users: Mapping[str, _Row] = field(default_factory=dict)
    groups: Mapping[str, _Row] = field(default_factory=dict)

    def allows(self, caller: Caller, access: Access) -> bool:
        """Return whether a role of the caller has the right."""
        return any(_allows(row, access) for row in self._rows(caller))

    def namespaces_of(self, caller: Caller) -> Sequence[str]:
        """Return the namespaces that a caller's roles name, its own before those of its groups."""
        named = [name for row in self._rows(caller) for name in row.namespaces]
        return [name for name in dict.fromkeys(named) if name != ALL_NAMESPACES]

    def _rows(self, caller: Caller) -> Iterator[_Row]:
        rows = [self.users.get(caller.name), *map(self.groups.get, caller.groups)]
        return (row for row in rows if row)


def parse(content: bytes) -> Tokens:
    """Parse a file. Raises ValueError, with the place and what must be there."""
    try:
        table = _Table.model_validate(tomllib.loads(content.decode()))
    except ValidationError as e:
        shown = [_message(each) for each in e.errors(include_url=False)[:_MOST_PROBLEMS]]
        raise ValueError("; ".join(shown)) from None
    except UnicodeDecodeError:
        raise ValueError("it must be UTF-8") from None
    except RecursionError:
        raise ValueError("it must not nest so deeply") from None
    except tomllib.TOMLDecodeError as e:
        raise ValueError(f"it must be TOML: {e}") from None
    _refuse_doubles("user", [user.name for user in table.user])
    _refuse_doubles("group", [group.name for group in table.group])
    digests = [digest for user in table.user for digest in user.sha256]
    _refuse_doubles("token with the sha256", digests)
    return Tokens(
        callers={
            digest: Caller(user.name, groups=(*user.groups, AUTHENTICATED))
            for user in table.user
            for digest in user.sha256
        },
        users={user.name: user for user in table.user},
        groups={group.name: group for group in table.group},
    )


def new_token(user: str) -> tuple[str, str]:
    """Make a token for a user; return it and its entry in the file. Raises ValueError."""
    token = f"ms_{secrets.token_urlsafe(32)}"
    entry = f'[[user]]\nname = "{_checked_name(user)}"\nsha256 = ["{BearerToken(token).digest}"]\n'
    if set(user) & {'"', "\\"}:
        raise ValueError('must not have " or \\')
    return token, entry


class TokenFile:
    """The file in use; implements `server.ports.Identities`. Load its `file`, then follow it."""

    def __init__(self, path: Path) -> None:
        self.file = FollowedFile(SETTING, path, MOST_BYTES, _EVENTS, self._use)
        self._tokens = Tokens()

    async def authenticate(self, token: BearerToken, *, fresh: bool = False) -> Caller:
        """See `server.ports.Identities`."""
        caller = self._tokens.callers.get(token.digest)
        if caller is None:
            raise Unauthenticated(
                "the token must be one of those that this server knows: ask its operator for one"
                f" ({SETTING})"
            )
        return caller

    def knows(self, token: BearerToken) -> bool:
        """See `server.ports.Identities`."""
        return token.digest in self._tokens.callers

    async def allows(self, caller: Caller, access: Access, *, fresh: bool = False) -> bool:
        """See `server.ports.Identities`."""
        return self._tokens.allows(caller, access)

    def likely_namespaces(self, caller: Caller) -> Sequence[str]:
        """See `server.ports.Identities`."""
        return self._tokens.namespaces_of(caller)

    def remedy(self, caller: Caller, access: Access) -> str:
        """See `server.ports.Identities`."""
        verbs = _VERBS.get(access.resource)
        if verbs is None:
            return f"no role gives that right: callers act for others only by {_KUBERNETES}"
        role = next(role for role in Role if access.verb in verbs[role])
        return f"ask the operator of this server for the role {role} there ({SETTING})"

    def _use(self, content: bytes) -> Mapping[str, object]:
        self._tokens = parse(content)
        return {"users": len(self._tokens.users), "tokens": len(self._tokens.callers)}


def _allows(row: _Row, access: Access) -> bool:
    if access.resource not in _VERBS:
        return False
    if access.resource is Resource.PROJECTS:
        given, name = row.projects, access.name
    else:
        given, name = row.namespaces, access.namespace
    verbs = _VERBS[access.resource]
    roles = (given.get(name), given.get(ALL_NAMESPACES))
    return any(access.verb in verbs[role] for role in roles if role)


def _refuse_doubles(kind: str, names: Sequence[str]) -> None:
    doubled = [name for name, times in Counter(names).items() if times > 1]
    if doubled:
        raise ValueError(f"there must be one {kind} {doubled[0]}, and there are several")


def _message(error: Any) -> str:
    place = ".".join(map(str, error["loc"]))
    why = error["msg"].removeprefix("Value error, ").replace("Input should", "must", 1)
    return f"{place}: {why}"
