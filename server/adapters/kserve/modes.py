"""How KServe runs a service: with Deployments (Standard), or with Knative Services (Knative)."""

from __future__ import annotations

from collections.abc import Mapping

from server.adapters.kserve.names import MODE_ANNOTATION
from server.adapters.kserve.objects import Object, annotations_of, get_map
from server.domain.service.spec_validation import DEPLOYMENT_MODES

STANDARD = "Standard"
KNATIVE = "Knative"
MODES = (STANDARD, KNATIVE)
MODEL_MESH = "ModelMesh"
"""Left by KServe's controller to one of its own, ModelMesh's."""

# KServe's name of each mode. KServe 0.15 ignores an annotation with a present name, and refuses
# every later write of such an object.
PRESENT_NAMES: Mapping[str, str] = {mode: mode for mode in MODES}
FORMER_NAMES: Mapping[str, str] = {STANDARD: "RawDeployment", KNATIVE: "Serverless"}


def present_name(mode: str) -> str:
    """The present name of a mode; of one that we do not know its own."""
    return DEPLOYMENT_MODES.get(mode, mode)


def mode_of(service: Object) -> str:
    """The mode that KServe has settled on, or was told, by its present name; empty while there is
    neither."""
    named = settled_mode_of(service) or annotations_of(service).get(MODE_ANNOTATION) or ""
    return present_name(str(named))


def settled_mode_of(service: Object) -> str:
    """The mode that KServe has settled on, by the name that it wrote; empty until then."""
    return str(get_map(service, "status").get("deploymentMode") or "")
