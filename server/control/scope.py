"""Which namespaces this server answers for."""

from __future__ import annotations

from dataclasses import dataclass

from server.control.viewing import ALL
from server.domain.errors import NamespaceNotServed
from server.domain.inference_service import ServiceKey


@dataclass(frozen=True, slots=True)
class Scope:
    """`default` stands in for an empty namespace; `served` empty: every namespace."""

    default: str
    served: frozenset[str] = frozenset()

    def key(self, namespace: str, name: str) -> ServiceKey:
        """The service meant. Raises NamespaceNotServed."""
        key = ServiceKey(namespace or self.default, name)
        if self.served and key.namespace not in self.served:
            raise NamespaceNotServed(key.namespace)
        return key

    def target(self, namespace: str, name: str = "") -> ServiceKey:
        """What a List or a watch covers, `-` being every served namespace."""
        return ServiceKey(ALL, "") if namespace == ALL and not name else self.key(namespace, name)
