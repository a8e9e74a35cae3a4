"""The collections that the informers list and watch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus

from server.adapters.kserve.client import Answer
from server.adapters.kserve.held_object import SERVICE_LABEL
from server.adapters.kserve.informers.watch_stream import admit_answer
from server.adapters.kserve.objects import get_list


class Kind(Enum):
    """The kinds that are watched: API group and version, the name in paths, and the name in
    positions.

    A status is derived from all but two: a Deploy reads the runtimes, and ControllerRevisions keep
    the rollouts of services.
    """

    SERVICES = ("apis/serving.kserve.io/v1beta1", "inferenceservices", "isvc")
    DEPLOYMENTS = ("apis/apps/v1", "deployments", "deploy")
    REPLICA_SETS = ("apis/apps/v1", "replicasets", "rs")
    AUTOSCALERS = ("apis/autoscaling/v2", "horizontalpodautoscalers", "hpa")
    PODS = ("api/v1", "pods", "po")
    EVENTS = ("api/v1", "events", "ev")
    KNATIVE_SERVICES = ("apis/serving.knative.dev/v1", "services", "ksvc")
    REVISIONS = ("apis/serving.knative.dev/v1", "revisions", "rev")
    ROLE_BINDINGS = ("apis/rbac.authorization.k8s.io/v1", "rolebindings", "rb")
    CLUSTER_ROLE_BINDINGS = ("apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", "crb")
    SERVING_RUNTIMES = ("apis/serving.kserve.io/v1alpha1", "servingruntimes", "sr")
    CLUSTER_SERVING_RUNTIMES = ("apis/serving.kserve.io/v1alpha1", "clusterservingruntimes", "csr")
    CONTROLLER_REVISIONS = ("apis/apps/v1", "controllerrevisions", "ctrlrev")


METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
# A cluster may have them or not, and may get or lose them.
KNATIVE = (Kind.KNATIVE_SERVICES, Kind.REVISIONS)
# They show which ServiceAccounts have rights, in any namespace. Not every account may read them.
BINDINGS = (Kind.ROLE_BINDINGS, Kind.CLUSTER_ROLE_BINDINGS)
RUNTIMES = (Kind.SERVING_RUNTIMES, Kind.CLUSTER_SERVING_RUNTIMES)
# The kinds whose objects have SERVICE_LABEL.
LABELLED = (Kind.DEPLOYMENTS, Kind.REPLICA_SETS, Kind.AUTOSCALERS, Kind.PODS, *KNATIVE)
# Other events are not watched: an HPA without metrics writes one every 15 s.
_WARNINGS_ABOUT = {"InferenceService": "isvc", "Pod": "po"}


@dataclass(frozen=True, slots=True)
class Resource:
    """A collection to list and watch: one kind, in one namespace or (empty) in all.

    `part` distinguishes collections of one kind and namespace in positions.
    """

    kind: Kind
    namespace: str = ""
    selector: tuple[tuple[str, str], ...] = ()
    part: str = ""

    @property
    def optional(self) -> bool:
        """Return whether a cluster may lack the collection, or our account may not read it."""
        return self.kind in (*KNATIVE, *BINDINGS, *RUNTIMES, Kind.CONTROLLER_REVISIONS)

    @property
    def always_served(self) -> bool:
        """Return whether every cluster has the collection, or needs it."""
        return not self.optional or self.kind is Kind.CONTROLLER_REVISIONS

    @property
    def accept(self) -> str:
        """Return the media type to ask for: metadata alone of ControllerRevisions, whose data is as
        large as a service."""
        if self.kind is Kind.CONTROLLER_REVISIONS:
            return METADATA_LIST
        return "application/json"

    @property
    def accept_watch(self) -> str:
        """Return the media type to ask for in a watch."""
        return METADATA if self.accept == METADATA_LIST else self.accept

    @property
    def group_path(self) -> str:
        """Return the path where the API server lists the group's collections."""
        return f"/{self.kind.value[0]}"

    @property
    def short_name(self) -> str:
        """Return the name in positions: the same in every replica and for every namespace."""
        return self.kind.value[2] + self.part

    @property
    def path(self) -> str:
        """Return the collection's path."""
        group, plural, _ = self.kind.value
        scope = f"namespaces/{self.namespace}/" if self.namespace else ""
        return f"/{group}/{scope}{plural}"

    def __str__(self) -> str:
        where = f" in {self.namespace}" if self.namespace else ""
        which = "".join(f" with {value}" for _, value in self.selector)
        return f"{self.kind.value[1]}{where}{which}"


def followed(namespaces: Sequence[str]) -> list[Resource]:
    """Return the collections to watch for these namespaces; for all if none is given."""
    of_services = [r for namespace in namespaces or ("",) for r in _followed_in(namespace)]
    return [*of_services, *map(Resource, BINDINGS)]


def followed_runtimes(namespaces: Sequence[str]) -> list[Resource]:
    """Return the collections of serving runtimes that services of these namespaces can use."""
    own = [Resource(Kind.SERVING_RUNTIMES, namespace) for namespace in namespaces or ("",)]
    return [*own, Resource(Kind.CLUSTER_SERVING_RUNTIMES)]


def followed_revisions(namespaces: Sequence[str], label: str) -> list[Resource]:
    """Return the collections of ControllerRevisions with a label, of these namespaces."""
    selector = (("labelSelector", label),)
    return [
        Resource(Kind.CONTROLLER_REVISIONS, namespace, selector)
        for namespace in namespaces or ("",)
    ]


def _followed_in(namespace: str) -> Iterator[Resource]:
    yield Resource(Kind.SERVICES, namespace)
    for kind in LABELLED:
        yield Resource(kind, namespace, (("labelSelector", SERVICE_LABEL),))
    for involved, part in _WARNINGS_ABOUT.items():
        selector = f"involvedObject.kind={involved},type=Warning"
        yield Resource(Kind.EVENTS, namespace, (("fieldSelector", selector),), part)


def serves(answer: Answer, kind: Kind) -> bool:
    """Return whether the group's list of collections has this kind. Raises Refused for an answer
    that leaves it open."""
    if answer.status == HTTPStatus.NOT_FOUND:
        return False
    admit_answer(answer.status, answer.headers)
    return any(r.get("name") == kind.value[1] for r in get_list(answer.body, "resources"))
