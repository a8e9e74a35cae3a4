"""List the RPCs of this API with their messages, and how each can be repeated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message
from modelservice.v1 import model_service_pb2 as m
from modelservice.v1 import registry_service_pb2 as r
from modelservice.v1 import rollout_service_pb2 as o

Req = TypeVar("Req", bound=Message)
Res = TypeVar("Res", bound=Message)


@dataclass(frozen=True, slots=True)
class Rpc(Generic[Req, Res]):
    """One RPC. `repeatable`: sending a request again cannot do more than sending it once."""

    path: str
    request: type[Req]
    response: type[Res]
    repeatable: bool = True

    @property
    def method(self) -> str:
        """The method's name, without its service."""
        return self.path.rpartition("/")[2]

    @property
    def writes(self) -> bool:
        """Whether the method changes something, by the verb that it begins with."""
        return not self.method.startswith(("Get", "List", "Watch"))


_MODEL_SERVICE = "/modelservice.v1.ModelService/"
_ROLLOUT_SERVICE = "/modelservice.v1.RolloutService/"
_REGISTRY = "/modelservice.v1.RegistryService/"

# Repeatable by its request_id.
DEPLOY = Rpc(_MODEL_SERVICE + "Deploy", m.DeployRequest, m.DeployResponse)
GET = Rpc(_MODEL_SERVICE + "Get", m.GetRequest, m.GetResponse)
LIST = Rpc(_MODEL_SERVICE + "List", m.ListRequest, m.ListResponse)
# Repeatable with allow_missing, as are the registry's.
DELETE = Rpc(_MODEL_SERVICE + "Delete", m.DeleteRequest, m.DeleteResponse)
WATCH_STATUS = Rpc(_MODEL_SERVICE + "WatchStatus", m.WatchStatusRequest, m.WatchStatusResponse)

LIST_REVISIONS = Rpc(
    _ROLLOUT_SERVICE + "ListRevisions", o.ListRevisionsRequest, o.ListRevisionsResponse
)
# Repeatable by their request_ids.
ROLLBACK = Rpc(_ROLLOUT_SERVICE + "Rollback", o.RollbackRequest, m.DeployResponse)
STOP = Rpc(_ROLLOUT_SERVICE + "Stop", o.StopRequest, m.DeployResponse)
START = Rpc(_ROLLOUT_SERVICE + "Start", o.StartRequest, m.DeployResponse)

CREATE_REGISTERED_MODEL = Rpc(
    _REGISTRY + "CreateRegisteredModel",
    r.CreateRegisteredModelRequest,
    r.CreateRegisteredModelResponse,
    repeatable=False,
)
GET_REGISTERED_MODEL = Rpc(
    _REGISTRY + "GetRegisteredModel", r.GetRegisteredModelRequest, r.GetRegisteredModelResponse
)
LIST_REGISTERED_MODELS = Rpc(
    _REGISTRY + "ListRegisteredModels",
    r.ListRegisteredModelsRequest,
    r.ListRegisteredModelsResponse,
)
UPDATE_REGISTERED_MODEL = Rpc(
    _REGISTRY + "UpdateRegisteredModel",
    r.UpdateRegisteredModelRequest,
    r.UpdateRegisteredModelResponse,
    repeatable=False,
)
DELETE_REGISTERED_MODEL = Rpc(
    _REGISTRY + "DeleteRegisteredModel",
    r.DeleteRegisteredModelRequest,
    r.DeleteRegisteredModelResponse,
)
CREATE_MODEL_VERSION = Rpc(
    _REGISTRY + "CreateModelVersion",
    r.CreateModelVersionRequest,
    r.CreateModelVersionResponse,
    repeatable=False,
)
GET_MODEL_VERSION = Rpc(
    _REGISTRY + "GetModelVersion", r.GetModelVersionRequest, r.GetModelVersionResponse
)
LIST_MODEL_VERSIONS = Rpc(
    _REGISTRY + "ListModelVersions", r.ListModelVersionsRequest, r.ListModelVersionsResponse
)
UPDATE_MODEL_VERSION = Rpc(
    _REGISTRY + "UpdateModelVersion",
    r.UpdateModelVersionRequest,
    r.UpdateModelVersionResponse,
    repeatable=False,
)
DELETE_MODEL_VERSION = Rpc(
    _REGISTRY + "DeleteModelVersion", r.DeleteModelVersionRequest, r.DeleteModelVersionResponse
)
CREATE_SERVING_ENVIRONMENT = Rpc(
    _REGISTRY + "CreateServingEnvironment",
    r.CreateServingEnvironmentRequest,
    r.CreateServingEnvironmentResponse,
    repeatable=False,
)
GET_SERVING_ENVIRONMENT = Rpc(
    _REGISTRY + "GetServingEnvironment",
    r.GetServingEnvironmentRequest,
    r.GetServingEnvironmentResponse,
)
LIST_SERVING_ENVIRONMENTS = Rpc(
    _REGISTRY + "ListServingEnvironments",
    r.ListServingEnvironmentsRequest,
    r.ListServingEnvironmentsResponse,
)
UPDATE_SERVING_ENVIRONMENT = Rpc(
    _REGISTRY + "UpdateServingEnvironment",
    r.UpdateServingEnvironmentRequest,
    r.UpdateServingEnvironmentResponse,
    repeatable=False,
)
DELETE_SERVING_ENVIRONMENT = Rpc(
    _REGISTRY + "DeleteServingEnvironment",
    r.DeleteServingEnvironmentRequest,
    r.DeleteServingEnvironmentResponse,
)
GET_MODEL_DEPLOYMENT = Rpc(
    _REGISTRY + "GetModelDeployment", r.GetModelDeploymentRequest, r.GetModelDeploymentResponse
)
LIST_MODEL_DEPLOYMENTS = Rpc(
    _REGISTRY + "ListModelDeployments",
    r.ListModelDeploymentsRequest,
    r.ListModelDeploymentsResponse,
)
