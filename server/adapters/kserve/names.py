"""What things are called on the cluster: the resource, KServe's own keys, and ours."""

from __future__ import annotations

from server.domain.commands import MANAGED_BY_LABEL

API_VERSION = "serving.kserve.io/v1beta1"
KIND = "InferenceService"
RESOURCE = "inferenceservices"
CONTAINER = "kserve-container"

FIELD_MANAGER = "modelservice"
OUR_PREFIX = "modelservice.dev/"
MANAGED_BY_KEY, MANAGED_BY_VALUE = MANAGED_BY_LABEL

# These ride in spec.predictor.annotations, which reach the pod template: what changes them rolls
# the pods, so they change only in writes that do so anyway.
ROLLOUT_ANNOTATION = "modelservice.dev/rollout"
REQUESTS_ANNOTATION = "modelservice.dev/requests"
RESTART_ANNOTATION = "modelservice.dev/restart"
DEFAULTS_ANNOTATION = "modelservice.dev/defaults"
PROBE_ANNOTATION = "modelservice.dev/probe"

MODE_ANNOTATION = "serving.kserve.io/deploymentMode"
UPDATES_DISABLED_ANNOTATION = "serving.kserve.io/disable-auto-update"
LAST_APPLIED_ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"

SCALING_FIELDS = ("minReplicas", "maxReplicas", "scaleTarget", "scaleMetric")
