"""What to tell people of each failure: the remedy, in one sentence each."""

from __future__ import annotations

from server.domain.status import FailureReason

REMEDIES = {
    FailureReason.IMAGE_PULL: (
        "check the image's name and tag, and that the cluster's nodes can reach and may read its"
        " registry"
    ),
    FailureReason.STORAGE_DOWNLOAD: (
        "check the storage URI, and that the service account has credentials for it"
    ),
    FailureReason.MODEL_LOAD: (
        "check that the model's files are whole, fit the format and the runtime's version, and are"
        " called as the runtime expects: at the top of a folder MLServer looks for model.joblib,"
        " model.pickle or model.pkl (sklearn), model.bst, model.json or model.ubj (xgboost),"
        " model.bst (lightgbm), MLmodel (mlflow)"
    ),
    FailureReason.CRASH_LOOP: "see the container's log for why it exits",
    FailureReason.OUT_OF_MEMORY: "raise the memory limit, or use a smaller model",
    FailureReason.NOT_ANSWERING: (
        "see the container's log, and check the port and path on which it is probed"
    ),
    FailureReason.CONTAINER_CONFIG: (
        "make the Secret or ConfigMap that the container names, with that key, or correct its"
        " command or image: see the message"
    ),
    FailureReason.VOLUME: "check that the volume, claim, Secret or ConfigMap exists and is bound",
    FailureReason.UNSCHEDULABLE: (
        "ask for less, change the node selector or tolerations, or add a node that fits"
    ),
    FailureReason.QUOTA: "ask for less, free some of the quota, or have it raised",
    FailureReason.POD_REJECTED: "change the spec so that the cluster's policies accept its pods",
    FailureReason.EVICTED: (
        "raise the ephemeral-storage limit or the volume's size, use a smaller model, or free the"
        " node's disk and memory"
    ),
    FailureReason.PROGRESS_DEADLINE: "see the pods' logs; a slow model may still become ready",
    FailureReason.NODE_LOST: "nothing, if the node comes back or other nodes have room",
    FailureReason.INGRESS: "check the cluster's ingress controller and gateway",
    FailureReason.TRAFFIC_PINNED: (
        "deploy with force to send all requests to the newest rollout, or remove"
        " spec.predictor.canaryTrafficPercent"
    ),
    FailureReason.NO_RUNTIME: (
        "name a serving runtime that the cluster has, or a model format that one of them supports"
    ),
    FailureReason.STORAGE_SCHEME: (
        "use a scheme that KServe supports, or add a ClusterStorageContainer for this one"
    ),
    FailureReason.INVALID_SPEC: "correct the spec as the message says, then deploy again",
    FailureReason.RECONCILE_FAILED: (
        "see the message: install in the cluster what KServe misses there, or deploy without what"
        " asks for it"
    ),
}
# A case of POD_REJECTED of its own.
MAKE_SERVICE_ACCOUNT = "make the service account, or name one that exists in the namespace"
# Of STORAGE_DOWNLOAD, where the model is an image.
CHECK_MODEL_IMAGE = (
    "put the model's files into the image's folder /models; the image must have a shell too"
)
# Of OUT_OF_MEMORY, where the container is not the caller's.
RAISE_LIMIT_OF_ADDED = (
    "ask the cluster administrator to raise the memory limit that the configuration of KServe or"
    " Knative gives this container"
)
