"""Know which ServiceAccounts may do anything at the API server, by the bindings of its roles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import Enum

from server.adapters.kserve.objects import Object, get_list, get_map

_EVERY_ACCOUNT = "system:serviceaccounts"
_EVERYBODY = "system:authenticated"
# ClusterRoles that Kubernetes gives everybody: to ask what there is, and what one may do oneself.
_FOR_EVERYBODY = (
    "system:basic-user",
    "system:discovery",
    "system:public-info-viewer",
    "system:service-account-issuer-discovery",
)


class Rights(Enum):
    """What is known of an account: whether it is bound to a role beyond what everybody is."""

    NONE = "none"
    SOME = "some"
    UNKNOWN = "unknown"


class AccountRights:
    """What the bindings of one cluster say; rights by other means than RBAC are not seen."""

    def __init__(self) -> None:
        self._subjects: dict[str, frozenset[str]] = {}
        self._bound: Counter[str] = Counter()

    def of(self, namespace: str, account: str) -> Rights:
        """What the account may do."""
        names = (
            f"system:serviceaccount:{namespace}:{account}",
            f"{_EVERY_ACCOUNT}:{namespace}",
            _EVERY_ACCOUNT,
            _EVERYBODY,
        )
        return Rights.SOME if any(self._bound[name] for name in names) else Rights.NONE

    def put(self, uid: str, binding: Object) -> frozenset[str]:
        """Take a binding as it is now; return the subjects for whom that may change something."""
        now = frozenset(_subjects(binding))
        return self._replace(uid, now)

    def drop(self, uid: str) -> frozenset[str]:
        """Take that a binding is gone, as `put`."""
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
    """The namespace whose accounts a subject stands for; empty: those of all."""
    _, _, rest = subject.partition(":")
    kind, _, name = rest.partition(":")
    return name.partition(":")[0] if kind in ("serviceaccount", "serviceaccounts") else ""


def _subjects(binding: Object) -> Iterator[str]:
    """The subjects of a binding that stand for accounts, as the authorizer names them."""
    role = get_map(binding, "roleRef")
    # A namespace's own Role may have any of these names.
    if role.get("kind") == "ClusterRole" and role.get("name") in _FOR_EVERYBODY:
        return
    for subject in get_list(binding, "subjects"):
        name = str(subject.get("name") or "")
        if subject.get("kind") == "ServiceAccount":
            yield f"system:serviceaccount:{subject.get('namespace') or ''}:{name}"
        elif name == _EVERYBODY or name.startswith("system:serviceaccount"):
            yield name
