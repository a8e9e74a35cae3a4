"""Hold the raw objects of one service, as the API server sent them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from server.adapters.kserve.objects import Object
from server.adapters.kserve.releases import NEWEST, Release
from server.adapters.kserve.status.parse_cache import ParseCache
from server.adapters.kserve.status.pods.output_policy import OutputPolicy


@dataclass(frozen=True, slots=True)
class LogExcerpt:
    """Hold an excerpt of the log of one run of a container.

    `lines`: the lines worth showing. `load_failed`: the log says that the model could not be
    loaded, whether that line may be shown or not. `readable`: False if the log could not be read.
    `read_at`: by the API server's clock. `log_read`: the number of the read of this run.
    `last_line` and the time `written_at` are set only for a run that has not ended.
    """

    lines: tuple[str, ...] = ()
    last_line: str = ""
    written_at: datetime | None = None
    readable: bool = True
    read_at: datetime | None = None
    restart_count: int = 0
    log_read: int = 0
    load_failed: bool = False


@dataclass(frozen=True, slots=True)
class ObservedObjects:
    """Hold an InferenceService with the objects that KServe and Kubernetes created for it.

    `events`: warnings about the InferenceService or one of its pods. `logs`: excerpts by pod and
    container. `knative_followed`: the informers follow Knative's objects. `release`: of KServe.
    `output_policy`: decides which container text may be shown.
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
    cache: ParseCache = field(default_factory=ParseCache, repr=False, compare=False)
