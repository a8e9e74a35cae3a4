"""The whole life of a service: deployed, asked, rolled under traffic, deleted."""

from __future__ import annotations

import time
from dataclasses import dataclass

from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab import Cluster, wait_until
from tests.cluster.asking import delete, deploy
from tests.cluster.recording import Recording, Until

from .predicting import (
    POD_PORT,
    NotPredicted,
    Predictor,
    Traffic,
    pod_addresses,
    service_address,
    traffic,
)

LEFT_BEHIND = (
    "/apis/serving.kserve.io/v1beta1/namespaces/{}/inferenceservices",
    "/apis/apps/v1/namespaces/{}/deployments",
    "/apis/apps/v1/namespaces/{}/replicasets",
    "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers",
    "/api/v1/namespaces/{}/services",
    "/api/v1/namespaces/{}/pods",
)
# Ten times what a model server takes on a machine that does nothing else.
PATIENCE = 120.0
# The proxy hears of new endpoints up to a second after their pods are Ready, and later on a machine
# that has much to do.
ROUTED_WITHIN = 30.0
AFTERWARDS = 2.0


@dataclass
class Life:
    """A service in a namespace of its own, on a cluster with a real node."""

    cluster: Cluster
    stub: ModelServiceStub
    namespace: str
    name: str
    predictor: Predictor

    def lead(self) -> Traffic:
        """Lead it from the first version to GONE; what came of the requests during the roll."""
        self.roll_out(1)
        self.predicts(1)
        with traffic(self.predictor, self.address) as seen:
            self.roll_out(2)
            self.predicts(2)
            time.sleep(AFTERWARDS)
        print(f"{self.name}: rolled {dict(seen.counted())}, failing for {seen.failing_for():.1f} s")
        predictions = [told for _, told in seen.outcomes if not isinstance(told, NotPredicted)]
        assert all(told in self.predictor.predictions.values() for told in predictions)
        self.remove()
        return seen

    def roll_out(self, version: int) -> None:
        """Deploy this version, and return when its rollout is READY; hold its pod to predict."""
        began = time.monotonic()
        answer = deploy(self.stub, self.namespace, self.name, self.predictor.spec(version))
        self._watch(Until.UNTIL_READY, answer.rollout_id)
        # At once: READY means that the pods answer.
        pods = pod_addresses(self.cluster, self.namespace, self.name)
        assert [self.predictor.answer(pod, POD_PORT) for pod in pods] == [self._expected(version)]
        print(f"{self.name}: version {version} READY after {time.monotonic() - began:.1f} s")

    def predicts(self, version: int) -> None:
        """Hold its Service to lead to this version soon."""
        began = time.monotonic()
        wait_until(
            lambda: self.predictor.answer(self.address) == self._expected(version),
            f"version {version} predicts",
            ROUTED_WITHIN,
        )
        print(f"{self.name}: version {version} predicts {time.monotonic() - began:.1f} s later")

    def remove(self) -> None:
        """Delete it, and hold it to be gone with all that was made for it."""
        began = time.monotonic()
        delete(self.stub, self.namespace, self.name)
        self._watch(Until.UNTIL_GONE)
        print(f"{self.name}: GONE after {time.monotonic() - began:.1f} s")
        assert self.left_behind() == []

    @property
    def address(self) -> str:
        return service_address(self.cluster, self.namespace, self.name)

    def left_behind(self) -> list[str]:
        """What there is in the namespace, beside what was there before."""
        listed = {path: self.cluster.get(path.format(self.namespace)) for path in LEFT_BEHIND}
        return [
            f"{path.rpartition('/')[2]}/{item['metadata']['name']}"
            for path, found in listed.items()
            for item in found["items"]
        ]

    def _expected(self, version: int) -> object:
        return self.predictor.predictions[version]

    def _watch(self, until: pb.WatchStatusRequest.Until.ValueType, rollout_id: str = "") -> None:
        watch = Recording(self.stub, self.namespace, self.name, until=until, rollout_id=rollout_id)
        refused = watch.end(PATIENCE)
        assert refused is None, f"{refused}\n{watch.told()}"
