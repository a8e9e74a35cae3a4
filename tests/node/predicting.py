"""Predictions asked of what was deployed, over HTTP through the Service that KServe makes."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any

from modelservice.v1.inference_service_pb2 import ContainerPredictor, Resources

from lab import Cluster
from lab.images import MODEL_SERVER
from tests.cluster.asking import Spec, model

SMALL = Resources(requests={"cpu": "50m", "memory": "64Mi"}, limits={"cpu": "1", "memory": "1Gi"})
ASKED_EVERY = 0.02
TIMEOUT = 30.0
SERVICE_PORT, POD_PORT = 80, 8080


class NotPredicted(Exception):
    """There was no prediction; the message says why in a few words."""


@dataclass(frozen=True)
class Predictor:
    """Something to deploy in two versions, and what each of them predicts."""

    spec: Callable[[int], Spec]
    path: str
    body: dict[str, Any]
    read: Callable[[dict[str, Any]], Any]
    predictions: dict[int, Any]

    def answer(self, host: str, port: int = SERVICE_PORT) -> Any:
        """The prediction of who answers there, or the NotPredicted."""
        try:
            return self.read(_post(host, port, self.path, self.body))
        except NotPredicted as error:
            return error


def sklearn_on_claim(name: str) -> Predictor:
    """A scikit-learn model in the claim `models`, for a service of this name."""
    flower = {"name": "flower", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}
    return Predictor(
        spec=lambda version: model(
            uri=f"pvc://models/iris-v{version}", runtime="kserve-mlserver", resources=SMALL
        ),
        path=f"/v2/models/{name}/infer",
        body={"inputs": [flower]},
        read=lambda answer: answer["outputs"][0]["data"],
        predictions={1: [0], 2: [10]},
    )


def own_container(name: str) -> Predictor:
    """A model server in an image of one's own, whose port is open before its model is loaded."""

    def spec(version: int) -> Spec:
        arguments = [f"--model_name={name}", f"--version={version}", "--load-after=1"]
        server = ContainerPredictor(image=MODEL_SERVER, args=arguments)
        return Spec(container=server, env={"PROTOCOL": "v1"}, resources=SMALL)

    return Predictor(
        spec=spec,
        path=f"/v1/models/{name}:predict",
        body={"instances": [[1.0, 2.0]]},
        read=lambda answer: answer["predictions"],
        predictions={1: [3.0], 2: [6.0]},
    )


def service_address(cluster: Cluster, namespace: str, name: str) -> str:
    """The ClusterIP of the service's predictor."""
    path = f"/api/v1/namespaces/{namespace}/services/{name}-predictor"
    return str(cluster.get(path)["spec"]["clusterIP"])


def pod_addresses(cluster: Cluster, namespace: str, name: str) -> list[str]:
    """The addresses of the service's pods that are to stay."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    found = cluster.get(f"{path}?labelSelector=serving.kserve.io/inferenceservice={name}")["items"]
    staying = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
    return [pod["status"]["podIP"] for pod in staying]


@dataclass
class Traffic:
    """What came of requests made one after the other: predictions and failures, with their times
    by time.monotonic()."""

    outcomes: list[tuple[float, Any]] = field(default_factory=list)

    def counted(self) -> Counter[str]:
        """How often there was each outcome."""
        return Counter(str(outcome) for _, outcome in self.outcomes)

    def failures(self) -> list[tuple[float, NotPredicted]]:
        """The requests that failed."""
        return [(at, told) for at, told in self.outcomes if isinstance(told, NotPredicted)]

    def failing_for(self) -> float:
        """Seconds from the first failure to the last; 0 if there was none."""
        times = [at for at, _ in self.failures()]
        return times[-1] - times[0] if times else 0.0


@contextmanager
def traffic(predictor: Predictor, address: str) -> Iterator[Traffic]:
    """Predictions asked for, each on a connection of its own, until the block ends."""
    made, ended = Traffic(), threading.Event()

    def ask() -> None:
        while not ended.wait(ASKED_EVERY):
            made.outcomes.append((time.monotonic(), predictor.answer(address)))

    asking = threading.Thread(target=ask, name="traffic")
    asking.start()
    try:
        yield made
    finally:
        ended.set()
        asking.join()


def _post(host: str, port: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
    connection = HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, HTTPException) as error:
        raise NotPredicted(type(error).__name__) from error
    finally:
        connection.close()
    if answer.status != 200:
        raise NotPredicted(f"HTTP {answer.status}")
    return dict(json.loads(text))
