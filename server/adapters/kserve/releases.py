"""KServe's releases, as far as they differ in what this server writes and reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from server.adapters.kserve.modes import FORMER_NAMES, PRESENT_NAMES

OLDEST = "0.15"


@dataclass(frozen=True, slots=True)
class Release:
    """What a release of KServe knows and does.

    `mode_names`: its name of each deployment mode. `stops_deployments`: the annotation
    serving.kserve.io/stop stops services of Standard mode too, not only of Knative mode.
    `disables_updates`: it obeys serving.kserve.io/disable-auto-update. `reports_runtime`: the
    status names the serving runtime that it selected.
    """

    name: str
    mode_names: Mapping[str, str]
    stops_deployments: bool = True
    disables_updates: bool = True
    reports_runtime: bool = True


KSERVE_0_15 = Release(
    "0.15",
    FORMER_NAMES,
    stops_deployments=False,
    disables_updates=False,
    reports_runtime=False,
)
KSERVE_0_16 = Release("0.16 or later", PRESENT_NAMES)
NEWEST = KSERVE_0_16


def release_of(status_fields: Collection[str]) -> Release | None:
    """Read the release from the fields that an InferenceService's status has in its schema.

    None stands for releases older than OLDEST.
    """
    if "servingRuntimeName" in status_fields:
        return KSERVE_0_16
    return KSERVE_0_15 if "deploymentMode" in status_fields else None
