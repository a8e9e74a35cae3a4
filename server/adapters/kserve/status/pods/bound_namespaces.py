"""Find the namespaces whose role bindings name a caller."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from server.adapters.kserve.objects import Object, get_list, get_map


class BoundNamespaces:
    """Hold the subjects of a cluster's RoleBindings by namespace.

    They show where a caller may have rights by RBAC, and not which.
    """

    def __init__(self) -> None:
        self._bindings: dict[str, tuple[str, frozenset[str]]] = {}
        self._namespaces: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def put(self, uid: str, binding: Object) -> None:
        """Add or replace a binding. A ClusterRoleBinding, which has no namespace, is left out."""
        self.drop(uid)
        namespace = str(get_map(binding, "metadata").get("namespace") or "")
        if not namespace:
            return
        names = frozenset(map(_user_or_group, get_list(binding, "subjects")))
        self._bindings[uid] = namespace, names
        for name in names:
            self._namespaces[name][namespace] += 1

    def drop(self, uid: str) -> None:
        """Remove a binding."""
        namespace, names = self._bindings.pop(uid, ("", frozenset[str]()))
        for name in names:
            bound = self._namespaces[name]
            bound[namespace] -= 1
            if not bound[namespace]:
                del bound[namespace]
            if not bound:
                del self._namespaces[name]

    def of(self, names: Iterable[str]) -> set[str]:
        """Return the namespaces in which one of these users and groups is bound to a role."""
        return {namespace for name in names for namespace in self._namespaces.get(name, ())}


def _user_or_group(subject: Object) -> str:
    name = str(subject.get("name") or "")
    if subject.get("kind") == "ServiceAccount":
        return f"system:serviceaccount:{subject.get('namespace') or ''}:{name}"
    return name
