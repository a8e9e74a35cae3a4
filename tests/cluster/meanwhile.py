"""What happens to services while a server cannot see it, and whether it is told in the end."""

from __future__ import annotations

import time
from typing import Any

from google.protobuf.duration_pb2 import Duration
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Lab, wait_until

from .asking import TIMEOUT, State, container, deploy, wait_ready
from .recording import Recording

OBJECT = "/apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices/{}"
CHANGED, RECREATED, DELETED, MADE = "changed", "recreated", "deleted", "made"

# Ten times what is aimed at.
HEALS_WITHIN = 50.0
# The same, and sooner than a request ends that was sent and is not answered.
REFUSED_WITHIN = 20.0

Type = pb.WatchStatusResponse.Type


class Meanwhile:
    """Services in one namespace, and a stream that `stub` tells of them.

    `control` asks a server that sees what happens.
    """

    def __init__(
        self, lab: Lab, namespace: str, *, stub: ModelServiceStub, control: ModelServiceStub
    ) -> None:
        self._lab = lab
        self._namespace = namespace
        self._stub = stub
        self._control = control
        names = (CHANGED, RECREATED, DELETED)
        deployed = {name: deploy(stub, namespace, name, container()) for name in names}
        for name, answer in deployed.items():
            wait_ready(stub, namespace, name, answer.rollout_id)
        self.uids = {name: answer.service.uid for name, answer in deployed.items()}
        self.stream = Recording(stub, namespace, "", heartbeat_interval=Duration(seconds=1))
        self.stream.wait(lambda s: s.name == CHANGED, "the snapshot")

    def happens(self) -> None:
        """Others change one, delete one, make one, and make one anew under its name; returns when
        all are READY for whoever can see them."""
        self._change()
        self._lab.request("DELETE", self.path(RECREATED))
        self._lab.request("DELETE", self.path(DELETED))
        self._make(MADE)
        wait_until(lambda: RECREATED not in self._stored(), "the first of its name is gone")
        self._make(RECREATED)
        wait_until(lambda: DELETED not in self._stored(), "the deleted one is gone")
        wait_until(self._is_settled, "what was changed and made is READY")

    def seconds_until_told(self) -> float:
        """Wait until the stream and Get tell what is; how long that took."""
        began = time.monotonic()
        wait_until(self._is_told, "the stream tells what is", HEALS_WITHIN)
        wait_until(lambda: self.age() < 3, "the view is current", HEALS_WITHIN)
        return time.monotonic() - began

    def age(self) -> float:
        """The view's age in seconds, by Get."""
        request = pb.GetRequest(namespace=self._namespace, name=CHANGED)
        return self._stub.Get(request, timeout=TIMEOUT).view_age.ToTimedelta().total_seconds()

    def ages_told(self, since: float) -> list[float]:
        """The view's age in seconds, by each heartbeat that has come since then, a time of
        time.monotonic()."""
        told = zip(list(self.stream.messages), self.stream.arrivals, strict=False)
        heartbeats = [m for m, at in told if at > since and m.type == Type.TYPE_HEARTBEAT]
        return [m.view_age.ToTimedelta().total_seconds() for m in heartbeats]

    def path(self, name: str) -> str:
        """The object's URL path."""
        return OBJECT.format(self._namespace, name)

    def assert_recreation_was_told(self) -> None:
        """The service that went was told as DELETED, before the one that took its name."""
        messages = [m for m in self.stream.messages if m.service.name == RECREATED]
        first = [m.service.uid == self.uids[RECREATED] for m in messages]
        assert messages[first.count(True) - 1].type == Type.TYPE_DELETED
        assert first == sorted(first, reverse=True)

    def _change(self) -> None:
        image = {"op": "replace", "path": "/spec/predictor/containers/0/image", "value": "any:2"}
        self._lab.request("PATCH", self.path(CHANGED), [image], "application/json-patch+json")

    def _make(self, name: str) -> None:
        predictor = {"containers": [{"name": "kserve-container", "image": "any:1"}]}
        self._lab.apply(
            {
                "apiVersion": "serving.kserve.io/v1beta1",
                "kind": "InferenceService",
                "metadata": {"name": name, "namespace": self._namespace},
                "spec": {"predictor": predictor},
            }
        )

    def _stored(self) -> dict[str, dict[str, Any]]:
        items = self._lab.get(self.path("").rstrip("/"))["items"]
        return {item["metadata"]["name"]: item["metadata"] for item in items}

    def _is_settled(self) -> bool:
        listed = self._control.List(pb.ListRequest(namespace=self._namespace), timeout=TIMEOUT)
        return self._is_all_ready({service.name: service for service in listed.services})

    def _is_told(self) -> bool:
        return self._is_all_ready(self._last_told())

    def _is_all_ready(self, told: dict[str, InferenceService]) -> bool:
        stored = self._stored()
        return told.keys() == stored.keys() and all(
            _is_ready(told[name]) and _is_of(told[name], stored[name]) for name in stored
        )

    def _last_told(self) -> dict[str, InferenceService]:
        told: dict[str, InferenceService] = {}
        for message in list(self.stream.messages):
            if message.type == Type.TYPE_DELETED:
                del told[message.service.name]
            elif message.HasField("service"):
                told[message.service.name] = message.service
        return told


def _is_ready(service: InferenceService) -> bool:
    return service.status.state == State.STATE_READY


def _is_of(service: InferenceService, metadata: dict[str, Any]) -> bool:
    return (service.uid, service.generation) == (metadata["uid"], metadata["generation"])
