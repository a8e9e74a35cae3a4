"""What the cluster shows of one service: raw objects, as the API server sent them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from server.adapters.kserve.objects import Object


@dataclass(frozen=True, slots=True)
class Observed:
    """An InferenceService with everything that KServe and Kubernetes made of it.

    `events`: warnings about the InferenceService or one of its pods. `logs`: by pod and container,
    the excerpts that were read. `knative_followed`: Knative's objects are among what is looked at.
    """

    service: Object
    deployments: tuple[Object, ...] = ()
    replica_sets: tuple[Object, ...] = ()
    autoscalers: tuple[Object, ...] = ()
    knative_services: tuple[Object, ...] = ()
    revisions: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    events: tuple[Object, ...] = ()
    logs: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)
    knative_followed: bool = False
