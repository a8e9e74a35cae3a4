"""KServe's deployment modes: Standard runs a service with Deployments, Knative with Knative
Services."""

from __future__ import annotations

from collections.abc import Mapping

from server.adapters.kserve.names import MODE_ANNOTATION
from server.adapters.kserve.objects import Object
from server.domain.service.spec_validation import DEPLOYMENT_MODES

STANDARD = "Standard"
KNATIVE = "Knative"
MODES = (STANDARD, KNATIVE)
MODEL_MESH = "ModelMesh"
"""KServe's controller leaves these services to ModelMesh's own controller."""

# KServe's name of each mode. KServe 0.15 ignores an annotation with a present name, and refuses
# every later write of such an object.
PRESENT_NAMES: Mapping[str, str] = {mode: mode for mode in MODES}
FORMER_NAMES: Mapping[str, str] = {STANDARD: "RawDeployment", KNATIVE: "Serverless"}


def present_name(mode: str) -> str:
    """Return a mode's present name; a mode that this server does not know keeps its own."""
    return DEPLOYMENT_MODES.get(mode, mode)


def mode_of(settled: str, annotations: Object) -> str:
    """Return the present name of the `settled` mode, or else of that in the annotation.

    Empty while neither names a mode.
    """
    return present_name(settled or str(annotations.get(MODE_ANNOTATION) or ""))


def settled_mode_of(service: Object) -> str:
    """Return the mode in the status, which is fixed, by the name that KServe wrote; else empty."""
    return str((service.get("status") or {}).get("deploymentMode") or "")
