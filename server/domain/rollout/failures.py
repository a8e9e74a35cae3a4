"""Every failure reason in one table, with its rank and remedy.

KServe's diagnosis, the local cluster and the state table create their failures here, so that every
failure has a rank and a remedy.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from server.domain.rollout.status import Component, Failure, FailureReason


class FailureKind(NamedTuple):
    """The properties of a reason.

    `remedy`: used unless a failure has a more exact one. `retrying`: the cluster retries by itself.
    """

    remedy: str
    retrying: bool = True


# Ordered by rank: of several failures the first in this order is reported, since it explains the
# others. Reasons after PROGRESS_DEADLINE concern the service as a whole and never compete.
FAILURES: Mapping[FailureReason, FailureKind] = {
    FailureReason.OUT_OF_MEMORY: FailureKind("raise the memory limit, or use a smaller model"),
    FailureReason.MODEL_LOAD: FailureKind(
        "check that the model's files are whole, fit the format and the runtime's version, and are"
        " called as the runtime expects: at the top of a folder MLServer looks for model.joblib,"
        " model.pickle or model.pkl (sklearn), model.bst, model.json or model.ubj (xgboost),"
        " model.bst (lightgbm), MLmodel (mlflow)"
    ),
    FailureReason.CRASH_LOOP: FailureKind("see the container's log for why it exits"),
    FailureReason.STORAGE_DOWNLOAD: FailureKind(
        "check the storage URI, and that the service account has credentials for it"
    ),
    FailureReason.IMAGE_PULL: FailureKind(
        "check the image's name and tag, and that the cluster's nodes can reach and may read its"
        " registry"
    ),
    FailureReason.CONTAINER_CONFIG: FailureKind(
        "create the Secret or ConfigMap that the container names, with that key, or correct its"
        " command or image: see the message"
    ),
    FailureReason.EVICTED: FailureKind(
        "raise the ephemeral-storage limit or the volume's size, use a smaller model, or free the"
        " node's disk and memory"
    ),
    FailureReason.VOLUME: FailureKind(
        "check that the volume, claim, Secret or ConfigMap exists and is bound"
    ),
    FailureReason.QUOTA: FailureKind("request less, free some of the quota, or have it raised"),
    FailureReason.POD_REJECTED: FailureKind(
        "change the spec so that the cluster's policies accept its pods"
    ),
    FailureReason.NODE_LOST: FailureKind(
        "none is needed if the node comes back or other nodes have room"
    ),
    FailureReason.UNSCHEDULABLE: FailureKind(
        "request less, change the node selector or tolerations, or add a matching node"
    ),
    FailureReason.NOT_ANSWERING: FailureKind(
        "see the container's log, and check the port and path on which it is probed"
    ),
    FailureReason.PROGRESS_DEADLINE: FailureKind(
        "see the pods' logs; a slow model may still become ready, and a longer spec.ready_timeout"
        " gives it more time"
    ),
    FailureReason.NO_RUNTIME: FailureKind(
        "name a serving runtime that the cluster has, or a model format that one of them supports"
    ),
    FailureReason.STORAGE_SCHEME: FailureKind(
        "use a scheme that KServe supports, or add a ClusterStorageContainer for this one"
    ),
    FailureReason.INVALID_SPEC: FailureKind(
        "correct the spec as the message says, then deploy again"
    ),
    FailureReason.RECONCILE_FAILED: FailureKind(
        "see the message: install the API or object that KServe misses in the cluster, or deploy"
        " without the setting that needs it"
    ),
    FailureReason.INGRESS: FailureKind("check the cluster's ingress controller and gateway"),
    FailureReason.TRAFFIC_PINNED: FailureKind(
        "deploy with force to send all requests to the newest rollout, or remove"
        " spec.predictor.canaryTrafficPercent",
        retrying=False,
    ),
    FailureReason.UPDATES_DISABLED: FailureKind(
        "remove the annotation, then deploy again", retrying=False
    ),
    FailureReason.SCALED_TO_ZERO: FailureKind(
        "raise scaling.min_replicas, or scale it up again", retrying=False
    ),
    FailureReason.NO_CONTROLLER: FailureKind("check the pods of the KServe controller"),
}
_RANKS = {reason: rank for rank, reason in enumerate(FAILURES)}


def rank_of(reason: FailureReason) -> int:
    """Rank a reason by how much it explains; 0 explains most."""
    return _RANKS[reason]


def failure_of(
    reason: FailureReason,
    message: str,
    *,
    remedy: str = "",
    retrying: bool | None = None,
    component: Component | None = None,
    pod: str = "",
    container: str = "",
    exit_code: int | None = None,
    restart_count: int = 0,
    first_seen_time: datetime | None = None,
    container_text: str = "",
) -> Failure:
    """Make a failure with its reason's remedy, unless a more exact one is given.

    `retrying` is the reason's too, unless this failure is known to differ.
    """
    kind = FAILURES[reason]
    return Failure(
        reason,
        message,
        remedy or kind.remedy,
        kind.retrying if retrying is None else retrying,
        component=component,
        pod=pod,
        container=container,
        exit_code=exit_code,
        restart_count=restart_count,
        first_seen_time=first_seen_time,
        container_text=container_text,
    )
