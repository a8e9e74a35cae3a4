"""The caller of an RPC: its identity, its token and the rights that it may have."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

ALL_NAMESPACES = "*"
# Names of users and groups with this prefix are Kubernetes' own.
RESERVED = "system:"
# The group of every caller with an identity.
AUTHENTICATED = "system:authenticated"
# The group of every ServiceAccount; with a namespace after a colon, that of the namespace's.
SERVICE_ACCOUNTS = "system:serviceaccounts"
MOST_NAMED_GROUPS = 5


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller. An anonymous one has an empty `name`.

    `uid`, `groups` and `extra` are those of Kubernetes' UserInfo. `expires`: the end of its token,
    where that is known.

    `impersonated_by`: the user who acts for this one by impersonation; empty where nobody does.
    Rights are those of `name` alone.

    `reads_output_in`: the namespaces in which the caller may read the output of containers that
    can read more than the caller, `*` for all of them.
    """

    name: str = ""
    reads_output_in: frozenset[str] = frozenset()
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()
    expires: datetime | None = field(default=None, compare=False)
    impersonated_by: str = field(default="", compare=False)

    def may_read_output(self, namespace: str, holding: str) -> bool:
        """Return whether the caller may read what a container wrote.

        `holding`: what the container can read, and write out, that the caller may not read, in
        words; empty where there is nothing such.
        """
        shown = namespace in self.reads_output_in or ALL_NAMESPACES in self.reads_output_in
        return not holding or shown


ANONYMOUS = Caller()


class BearerToken:
    """A bearer token. Its repr is its digest, so that it appears in no log, error or trace.

    `digest` is its SHA-256 in hex, the key of every cache.
    """

    __slots__ = ("_secret", "digest")

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self.digest = hashlib.sha256(secret.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"BearerToken(sha256:{self.digest[:8]})"

    def __reduce__(self) -> str:
        raise TypeError("a token is not copied out of the process")

    def reveal(self) -> str:
        """Return the token itself, for the API server alone."""
        return self._secret


class Resource(StrEnum):
    """The kinds of resources that rights are about, by the names that Kubernetes' RBAC has."""

    SERVICES = "inferenceservices.serving.kserve.io"
    PROJECTS = "projects.registry.modelservice.dev"
    # The text that containers write.
    POD_LOGS = "pods/log"
    # For whom a caller acts.
    USERS = "users"
    GROUPS = "groups"
    SERVICE_ACCOUNTS = "serviceaccounts"

    @property
    def plural(self) -> str:
        """Return the resource's name in rules of RBAC, without its subresource."""
        return self.value.partition(".")[0].partition("/")[0]

    @property
    def subresource(self) -> str:
        """Return the subresource's name; empty for the resource itself."""
        return self.value.partition("/")[2]

    @property
    def group(self) -> str:
        """Return the resource's API group."""
        return self.value.partition(".")[2]


class Access(NamedTuple):
    """A verb on a resource, as Kubernetes' RBAC has it.

    `namespace`: of what has one; empty: all namespaces. `name`: of a project, or of a user, a group
    or a ServiceAccount to impersonate.
    """

    verb: str
    resource: Resource
    namespace: str = ""
    name: str = ""

    @property
    def project(self) -> str:
        """Return the project's name; empty for another resource."""
        return self.name if self.resource is Resource.PROJECTS else ""

    def __str__(self) -> str:
        where = f"the namespace {self.namespace!a}" if self.namespace else "any namespace"
        if self.name:
            named = f"{self.verb} {self.resource} {self.name!a}"
            return f"{named} in {where}" if self.namespace else named
        return f"{self.verb} {self.resource} in {where}"

    def kubectl_check(self, caller: Caller) -> str:
        """Return the command with which a cluster's administrator checks the right."""
        if self.resource is Resource.PROJECTS:
            # kubectl auth can-i asks about the group of a resource only if the API server has it.
            # In YAML, since a status has room for 512 bytes.
            review = (
                "{apiVersion: authorization.k8s.io/v1, kind: SelfSubjectAccessReview, spec:"
                f" {{resourceAttributes: {{verb: {self.verb}, group: {self.resource.group},"
                f" resource: {self.resource.plural}, name: {json.dumps(self.name)}}}}}}}"
            )
            words = ["kubectl", "create", "--validate=false", *_as(caller), "-f-"]
            asked = f"printf %s {shlex.quote(review)}"
            return f"{asked} | {shlex.join(words)} -ojsonpath={{.status.allowed}}"
        return shlex.join(self._can_i(caller))

    def _can_i(self, caller: Caller) -> Iterator[str]:
        resource, _, subresource = self.resource.partition("/")
        named = f"{resource}/{self.name}" if self.name else resource
        yield from ("kubectl", "auth", "can-i", self.verb, named)
        if subresource:
            yield f"--subresource={subresource}"
        yield f"--namespace={self.namespace}" if self.namespace else "--all-namespaces"
        yield from _as(caller)


def _as(caller: Caller) -> Iterator[str]:
    """Yield kubectl's options to act as a caller."""
    yield f"--as={caller.name}"
    # The API server adds the groups of ServiceAccounts, and system:authenticated.
    named = [group for group in caller.groups if not group.startswith("system:")]
    for group in named[:MOST_NAMED_GROUPS]:
        yield f"--as-group={group}"
