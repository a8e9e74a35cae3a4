"""Track which ServiceAccounts have rights at the API server, from its role bindings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import Enum

from server.adapters.kserve.objects import Object, get_list, get_map

_ALL_ACCOUNTS = "system:serviceaccounts"
_ALL_USERS = "system:authenticated"
# ClusterRoles that Kubernetes binds to everybody, for discovery and self-reviews.
_PUBLIC_ROLES = (
    "system:basic-user",
    "system:discovery",
    "system:public-info-viewer",
    "system:service-account-issuer-discovery",
)


class Rights(Enum):
    """Say whether an account is bound to a role that not everybody is bound to."""

    NONE = "none"
    SOME = "some"
    UNKNOWN = "unknown"


class AccountRights:
    """Hold the role bindings of one cluster; rights by other means than RBAC are unknown."""

    def __init__(self) -> None:
        self._subjects: dict[str, frozenset[str]] = {}
        self._bound: Counter[str] = Counter()

    def of(self, namespace: str, account: str) -> Rights:
        """Return the rights of an account."""
        names = (
            f"system:serviceaccount:{namespace}:{account}",
            f"{_ALL_ACCOUNTS}:{namespace}",
            _ALL_ACCOUNTS,
            _ALL_USERS,
        )
        return Rights.SOME if any(self._bound[name] for name in names) else Rights.NONE

    def put(self, uid: str, binding: Object) -> frozenset[str]:
        """Add or replace a binding; return the subjects whose rights may have changed."""
        now = frozenset(_subjects(binding))
        return self._replace(uid, now)

    def drop(self, uid: str) -> frozenset[str]:
        """Remove a binding, and return the same as `put`."""
        return self._replace(uid, frozenset())

    def _replace(self, uid: str, now: frozenset[str]) -> frozenset[str]:
        before = self._subjects.pop(uid, frozenset())
        if now:
            self._subjects[uid] = now
        self._bound.subtract(before - now)
        self._bound.update(now - before)
        changed = before ^ now
        for name in changed:
            if not self._bound[name]:
                del self._bound[name]
        return changed


def namespace_of_subject(subject: str) -> str:
    """Return the namespace whose accounts a subject stands for; empty for all namespaces."""
    _, _, rest = subject.partition(":")
    kind, _, name = rest.partition(":")
    return name.partition(":")[0] if kind in ("serviceaccount", "serviceaccounts") else ""


def _subjects(binding: Object) -> Iterator[str]:
    """Yield the subjects of a binding that stand for accounts, as the authorizer names them."""
    role = get_map(binding, "roleRef")
    # A Role in a namespace may have any of these names.
    if role.get("kind") == "ClusterRole" and role.get("name") in _PUBLIC_ROLES:
        return
    for subject in get_list(binding, "subjects"):
        name = str(subject.get("name") or "")
        if subject.get("kind") == "ServiceAccount":
            yield f"system:serviceaccount:{subject.get('namespace') or ''}:{name}"
        elif name == _ALL_USERS or name.startswith("system:serviceaccount"):
            yield name
