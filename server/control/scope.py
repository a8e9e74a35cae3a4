"""Which namespaces this server answers for."""

from __future__ import annotations

from dataclasses import dataclass

from server.control.watch_cache import ALL
from server.domain.errors import NamespaceNotServed, ReservedNamespace
from server.domain.service.inference_service import ServiceKey

_KUBERNETES = "kube-"
_KNATIVE = frozenset({"knative-serving", "knative-eventing", "knative-operator"})


@dataclass(frozen=True, slots=True)
class Reserved:
    """Namespaces of the platform: what runs there holds rights and Secrets of the whole cluster.

    Kubernetes' and Knative's by their names, and the `own` ones: KServe's and this server's. Of all
    these `permitted` may be deployed to all the same.
    """

    own: frozenset[str] = frozenset()
    permitted: frozenset[str] = frozenset()

    def __contains__(self, namespace: str) -> bool:
        platform = namespace.startswith(_KUBERNETES) or namespace in _KNATIVE | self.own
        return platform and namespace not in self.permitted


@dataclass(frozen=True, slots=True)
class Scope:
    """`default` stands in for an empty namespace; `served` empty: every namespace. `reserved` None:
    there is no platform whose namespaces must be spared."""

    default: str
    served: frozenset[str] = frozenset()
    reserved: Reserved | None = None

    def key(self, namespace: str, name: str) -> ServiceKey:
        """The service meant. Raises NamespaceNotServed."""
        key = ServiceKey(namespace or self.default, name)
        if self.served and key.namespace not in self.served:
            raise NamespaceNotServed(key.namespace)
        return key

    def target(self, namespace: str, name: str = "") -> ServiceKey:
        """What a List or a watch covers, `-` being every served namespace."""
        return ServiceKey(ALL, "") if namespace == ALL and not name else self.key(namespace, name)

    def require_deployable(self, namespace: str) -> None:
        """Raise ReservedNamespace where nothing may be deployed by way of this server."""
        if self.reserved and namespace in self.reserved:
            raise ReservedNamespace(namespace)
