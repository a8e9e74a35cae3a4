"""What of a cluster is followed, and where to ask for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus

from server.adapters.kserve.client import Answer
from server.adapters.kserve.informers.watch_stream import admit_answer
from server.adapters.kserve.objects import get_list

SERVICE_LABEL = "serving.kserve.io/inferenceservice"


class Kind(Enum):
    """The kinds that tell how a service is: API group and version, and the name in paths."""

    SERVICES = ("apis/serving.kserve.io/v1beta1", "inferenceservices")
    DEPLOYMENTS = ("apis/apps/v1", "deployments")
    REPLICA_SETS = ("apis/apps/v1", "replicasets")
    AUTOSCALERS = ("apis/autoscaling/v2", "horizontalpodautoscalers")
    PODS = ("api/v1", "pods")
    EVENTS = ("api/v1", "events")
    KNATIVE_SERVICES = ("apis/serving.knative.dev/v1", "services")
    REVISIONS = ("apis/serving.knative.dev/v1", "revisions")
    ROLE_BINDINGS = ("apis/rbac.authorization.k8s.io/v1", "rolebindings")
    CLUSTER_ROLE_BINDINGS = ("apis/rbac.authorization.k8s.io/v1", "clusterrolebindings")


# What a cluster may have, or get, or lose.
KNATIVE = (Kind.KNATIVE_SERVICES, Kind.REVISIONS)
# What tells which ServiceAccounts have any rights, in whichever namespace; not all may read them.
BINDINGS = (Kind.ROLE_BINDINGS, Kind.CLUSTER_ROLE_BINDINGS)
# KServe labels what it makes; the labels of templates reach what is made from those.
LABELLED = (Kind.DEPLOYMENTS, Kind.REPLICA_SETS, Kind.AUTOSCALERS, Kind.PODS, *KNATIVE)
# Of all events only these are wanted: HPAs without metrics alone make one a service every 15 s.
_WARNINGS_ABOUT = ("InferenceService", "Pod")


@dataclass(frozen=True, slots=True)
class Resource:
    """One collection to list and watch: a kind, in a namespace or (empty) in all, selected."""

    kind: Kind
    namespace: str = ""
    selector: tuple[tuple[str, str], ...] = ()

    @property
    def optional(self) -> bool:
        """Whether there are clusters without such a collection, or where it may not be read."""
        return self.kind in (*KNATIVE, *BINDINGS)

    @property
    def group_path(self) -> str:
        """Where the API server tells which collections the group has."""
        return f"/{self.kind.value[0]}"

    @property
    def path(self) -> str:
        """The collection's path."""
        group, plural = self.kind.value
        scope = f"namespaces/{self.namespace}/" if self.namespace else ""
        return f"/{group}/{scope}{plural}"

    def __str__(self) -> str:
        where = f" in {self.namespace}" if self.namespace else ""
        which = "".join(f" with {value}" for _, value in self.selector)
        return f"{self.kind.value[1]}{where}{which}"


def followed(namespaces: Sequence[str]) -> list[Resource]:
    """Every collection to follow in these namespaces, or in all where none is named."""
    of_services = [r for namespace in namespaces or ("",) for r in _followed_in(namespace)]
    return [*of_services, *map(Resource, BINDINGS)]


def _followed_in(namespace: str) -> Iterator[Resource]:
    yield Resource(Kind.SERVICES, namespace)
    for kind in LABELLED:
        yield Resource(kind, namespace, (("labelSelector", SERVICE_LABEL),))
    for involved in _WARNINGS_ABOUT:
        selector = f"involvedObject.kind={involved},type=Warning"
        yield Resource(Kind.EVENTS, namespace, (("fieldSelector", selector),))


def serves(answer: Answer, kind: Kind) -> bool:
    """Whether the API server's answer on a group names this kind. Raises Refused where it tells
    neither."""
    if answer.status == HTTPStatus.NOT_FOUND:
        return False
    admit_answer(answer.status, answer.headers)
    return any(r.get("name") == kind.value[1] for r in get_list(answer.body, "resources"))
