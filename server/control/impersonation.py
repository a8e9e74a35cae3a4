"""Lets a caller act for another user, if it has the right to impersonate that user."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from server.control.call import Authenticate
from server.domain.caller import AUTHENTICATED, SERVICE_ACCOUNTS, Access, Caller, Resource
from server.domain.errors import PermissionDenied
from server.ports import Identities

IMPERSONATE = "impersonate"
# The first has every right without a review. The others have no identity.
_NEVER = frozenset({"system:masters", "system:anonymous", "system:unauthenticated"})


@dataclass(frozen=True, slots=True)
class Impersonation:
    """The user for whom a call acts, with the groups that it names."""

    user: str
    groups: tuple[str, ...] = ()

    def accesses(self) -> Iterator[Access]:
        """Yield the rights that it takes, as in Kubernetes: that on the user first."""
        if account := _service_account(self.user):
            namespace, name = account
            yield Access(IMPERSONATE, Resource.SERVICE_ACCOUNTS, namespace, name)
        else:
            yield Access(IMPERSONATE, Resource.USERS, name=self.user)
        for group in self.groups:
            yield Access(IMPERSONATE, Resource.GROUPS, name=group)

    def all_groups(self) -> Sequence[str]:
        """Return the groups with those that Kubernetes adds."""
        groups = list(self.groups)
        if not groups and (account := _service_account(self.user)):
            groups = [SERVICE_ACCOUNTS, f"{SERVICE_ACCOUNTS}:{account[0]}"]
        return tuple(dict.fromkeys((*groups, AUTHENTICATED)))


async def impersonate(
    identities: Identities,
    authenticate: Authenticate,
    impersonation: Impersonation,
    *,
    fresh: bool = False,
) -> Caller:
    """Return the impersonated caller, after a check of the authenticated caller's rights.

    Raises Unauthenticated, and PermissionDenied if the authenticated caller lacks a right to
    impersonate. `system:masters` is never impersonated.
    """
    actor = await authenticate(fresh=fresh)
    on_user, *on_groups = impersonation.accesses()
    for access in (on_user, *on_groups):
        if access.name in _NEVER:
            raise PermissionDenied(actor, access, "nobody may act as that here")
    await _require(identities, actor, on_user, fresh=fresh)
    checks = (_require(identities, actor, access, fresh=fresh) for access in on_groups)
    await asyncio.gather(*checks)
    return Caller(
        impersonation.user,
        groups=tuple(impersonation.all_groups()),
        expires=actor.expires,
        impersonated_by=actor.name,
    )


async def _require(identities: Identities, actor: Caller, access: Access, *, fresh: bool) -> None:
    if not await identities.allows(actor, access, fresh=fresh):
        raise PermissionDenied(actor, access, identities.remedy(actor, access))


def _service_account(user: str) -> tuple[str, str] | None:
    """Return the namespace and the name of a ServiceAccount's user; None for another user."""
    parts = user.split(":")
    if parts[:2] == ["system", "serviceaccount"] and len(parts) == 4 and all(parts):
        return parts[2], parts[3]
    return None
