"""What the cluster shows of one service: raw objects, as the API server sent them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from server.adapters.kserve.objects import Object
from server.adapters.kserve.releases import NEWEST, Release
from server.adapters.kserve.status.pods.output_policy import OutputPolicy


@dataclass(frozen=True, slots=True)
class LogExcerpt:
    """What was read of the log of one run of a container.

    `lines`: those worth showing. `last_line`, and when it was `written_at`: only where a run that
    goes on was looked at. `readable`: False where the log could not be had. `read_at`: by the API
    server's clock. `look`: the number of the look at this run. `load_failed`: a line worth showing
    says that the model could not be loaded, be it shown or not.
    """

    lines: tuple[str, ...] = ()
    last_line: str = ""
    written_at: datetime | None = None
    readable: bool = True
    read_at: datetime | None = None
    restart_count: int = 0
    look: int = 0
    load_failed: bool = False


@dataclass(frozen=True, slots=True)
class ObservedObjects:
    """An InferenceService with everything that KServe and Kubernetes made of it.

    `events`: warnings about the InferenceService or one of its pods. `logs`: by pod and container,
    what was read of their logs. `knative_followed`: Knative's objects are among what is looked at.
    `release`: KServe's. `output_policy`: those that text of containers passes.
    """

    service: Object
    deployments: tuple[Object, ...] = ()
    replica_sets: tuple[Object, ...] = ()
    autoscalers: tuple[Object, ...] = ()
    knative_services: tuple[Object, ...] = ()
    revisions: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    events: tuple[Object, ...] = ()
    logs: Mapping[tuple[str, str], LogExcerpt] = field(default_factory=dict)
    knative_followed: bool = False
    release: Release = NEWEST
    output_policy: OutputPolicy = field(default_factory=OutputPolicy)
