"""How KServe runs a service: with Deployments (Standard), or with Knative Services (Knative)."""

from __future__ import annotations

from server.adapters.kserve.names import MODE_ANNOTATION
from server.adapters.kserve.objects import Object, annotations_of, part
from server.domain.spec_checks import DEPLOYMENT_MODES

STANDARD = "Standard"
KNATIVE = "Knative"
MODES = (STANDARD, KNATIVE)
MODEL_MESH = "ModelMesh"
"""Left by KServe's controller to one of its own, ModelMesh's."""


def mode_of(service: Object) -> str:
    """The mode that KServe has settled on, or was told, by its present name; empty while there is
    neither."""
    settled = part(service, "status").get("deploymentMode")
    mode = str(settled or annotations_of(service).get(MODE_ANNOTATION) or "")
    return DEPLOYMENT_MODES.get(mode, mode)
