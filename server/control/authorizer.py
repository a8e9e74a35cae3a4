"""Authorization: the namespaces that this server serves, and those that are reserved."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from server.control.call import Call
from server.control.watch_cache import ALL
from server.domain.errors import NamespaceNotServed, ReservedNamespace
from server.domain.service.inference_service import ServiceKey

_KUBERNETES = "kube-"
_KNATIVE = frozenset({"knative-serving", "knative-eventing", "knative-operator"})


class Verb(StrEnum):
    """What a call asks to do with services."""

    GET = "get"
    LIST = "list"
    WATCH = "watch"
    DEPLOY = "deploy"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class ReservedNamespaces:
    """The platform's namespaces, whose pods hold rights and Secrets of the whole cluster.

    They are Kubernetes' and Knative's by their names, and the `own` ones: KServe's and this
    server's. Deploys to the `permitted` ones are allowed all the same.
    """

    own: frozenset[str] = frozenset()
    permitted: frozenset[str] = frozenset()

    def __contains__(self, namespace: str) -> bool:
        platform = namespace.startswith(_KUBERNETES) or namespace in _KNATIVE | self.own
        return platform and namespace not in self.permitted


@dataclass(frozen=True, slots=True)
class Authorizer:
    """Decides which services a call may act on. Every caller has the same rights so far.

    An empty `served` stands for every namespace; `reserved` is None where there is no platform
    that must be protected.
    """

    default_namespace: str
    served: frozenset[str] = frozenset()
    reserved: ReservedNamespaces | None = None

    def authorize(self, call: Call, verb: Verb, target: ServiceKey) -> ServiceKey:
        """Return the target with the default namespace filled in, if the call may act there.

        A List or watch of the namespace `-` covers every served namespace. Raises
        NamespaceNotServed, and for a Deploy ReservedNamespace.
        """
        if verb in (Verb.LIST, Verb.WATCH) and target == (ALL, ""):
            return target
        key = ServiceKey(target.namespace or self.default_namespace, target.name)
        if self.served and key.namespace not in self.served:
            raise NamespaceNotServed(key.namespace)
        if verb is Verb.DEPLOY and self.reserved and key.namespace in self.reserved:
            raise ReservedNamespace(key.namespace)
        return key
