"""Names on the cluster: the resource, and the keys of KServe and of this server."""

from __future__ import annotations

from server.domain.service.commands import MANAGED_BY_LABEL, OUR_PREFIX

API_VERSION = "serving.kserve.io/v1beta1"
KIND = "InferenceService"
RESOURCE = "inferenceservices"
CONTAINER = "kserve-container"

FIELD_MANAGER = "modelservice"
MANAGED_BY_KEY, MANAGED_BY_VALUE = MANAGED_BY_LABEL

# These are in spec.predictor.annotations, which reach the pod template. A change of them replaces
# the pods, so they change only in writes that do so anyway.
ROLLOUT_ANNOTATION = f"{OUR_PREFIX}rollout"
REQUESTS_ANNOTATION = f"{OUR_PREFIX}requests"
RESTART_ANNOTATION = f"{OUR_PREFIX}restart"
DEFAULTS_ANNOTATION = f"{OUR_PREFIX}defaults"
PROBE_ANNOTATION = f"{OUR_PREFIX}probe"
REGISTERED_ANNOTATION = f"{OUR_PREFIX}registered-model"
READY_TIMEOUT_ANNOTATION = f"{OUR_PREFIX}ready-timeout"
DEPLOYMENT_ANNOTATION = f"{OUR_PREFIX}deployment-id"
DEPLOYED_BY_ANNOTATION = f"{OUR_PREFIX}deployed-by"
ROLLBACK_ANNOTATION = f"{OUR_PREFIX}rollback-of"

# On ControllerRevisions: the uid of the service and the generation of the rollout, then what else
# is known of it.
REVISION_OF_LABEL = f"{OUR_PREFIX}revision-of"
GENERATION_LABEL = f"{OUR_PREFIX}generation"
CONTENT_HASH_ANNOTATION = f"{OUR_PREFIX}content-hash"
UNSEEN_AFTER_ANNOTATION = f"{OUR_PREFIX}unseen-after"
LATER_FIELDS_ANNOTATION = f"{OUR_PREFIX}later-fields"
SEEN_UNTIL_ANNOTATION = f"{OUR_PREFIX}seen-until"
OUTCOME_ANNOTATION = f"{OUR_PREFIX}outcome"
READY_TIME_ANNOTATION = f"{OUR_PREFIX}ready-time"
FAILURE_ANNOTATION = f"{OUR_PREFIX}failure"

KNATIVE_DEADLINE_ANNOTATION = "serving.knative.dev/progress-deadline"

MODE_ANNOTATION = "serving.kserve.io/deploymentMode"
UPDATES_DISABLED_ANNOTATION = "serving.kserve.io/disable-auto-update"
LAST_APPLIED_ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"

# Fields of the predictor that do not reach the pod template.
SCALING_FIELDS = (
    "minReplicas",
    "maxReplicas",
    "scaleTarget",
    "scaleMetric",
    "deploymentStrategy",
)
