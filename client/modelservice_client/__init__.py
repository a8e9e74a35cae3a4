"""A client of ModelService: deploy models on KServe and wait for their rollouts.

`Client` is for threads, `AsyncClient` for asyncio; they have the same methods.
"""

from modelservice_client.aio_client import AsyncClient, AsyncWatch
from modelservice_client.client import Client, Watch
from modelservice_client.core import rpcs
from modelservice_client.core.awaited import Rollout
from modelservice_client.core.calls import DeployFields
from modelservice_client.core.errors import (
    AlreadyExists,
    ClientClosed,
    Conflict,
    EtagMismatch,
    FieldConflict,
    FieldViolation,
    InvalidRequest,
    ModelServiceError,
    NoReadyRevision,
    NotFound,
    NotManaged,
    NotReachable,
    PermissionDenied,
    Refused,
    RequestIdReused,
    ResourceExhausted,
    RevisionNotFound,
    RolledBack,
    RolloutEnded,
    RolloutFailed,
    ServerError,
    ServiceDeleted,
    ServiceDeleting,
    ServiceNotFound,
    ServiceStopped,
    Superseded,
    Timeout,
    Unauthenticated,
    Unavailable,
)
from modelservice_client.core.retry import Retrying
from modelservice_client.core.rpcs import Rpc
from modelservice_client.credentials import Tls

__all__ = [
    "AlreadyExists",
    "AsyncClient",
    "AsyncWatch",
    "Client",
    "ClientClosed",
    "Conflict",
    "DeployFields",
    "EtagMismatch",
    "FieldConflict",
    "FieldViolation",
    "InvalidRequest",
    "ModelServiceError",
    "NoReadyRevision",
    "NotFound",
    "NotManaged",
    "NotReachable",
    "PermissionDenied",
    "Refused",
    "RequestIdReused",
    "ResourceExhausted",
    "Retrying",
    "RevisionNotFound",
    "RolledBack",
    "Rollout",
    "RolloutEnded",
    "RolloutFailed",
    "Rpc",
    "ServerError",
    "ServiceDeleted",
    "ServiceDeleting",
    "ServiceNotFound",
    "ServiceStopped",
    "Superseded",
    "Timeout",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Watch",
    "rpcs",
]
