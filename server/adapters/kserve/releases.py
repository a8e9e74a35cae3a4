"""The differences between KServe's releases that matter to this server."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from server.adapters.kserve.modes import FORMER_NAMES, PRESENT_NAMES

OLDEST = "0.15"


@dataclass(frozen=True, slots=True)
class Release:
    """A release of KServe.

    `mode_names` are its names of the deployment modes. `stops_deployments`: the annotation
    serving.kserve.io/stop also works in Standard mode. `disables_updates`: the annotation
    serving.kserve.io/disable-auto-update works. `reports_runtime`: the status names the selected
    serving runtime.
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
    """Return the release whose schema has these fields in an InferenceService's status.

    None if it is older than OLDEST.
    """
    if "servingRuntimeName" in status_fields:
        return KSERVE_0_16
    return KSERVE_0_15 if "deploymentMode" in status_fields else None
