"""Services that are stopped and started at every moment, and what is reported of each meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import grpc
from kubernetes.client.exceptions import ApiException, NotFoundException
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.inference_service_pb2 import InferenceService
from urllib3.exceptions import HTTPError

from lab import Lab
from tests.patience import PATIENCE_SECONDS

from .asking import State, container, deploy, start, stop, wait_ready
from .held_deletions import FINALIZER, SERVICES, set_finalizers
from .recording import Recording, Until
from .serving import Server

STEP = 0.5  # seconds
SHORT_STEP = 0.1
# How long pods take to end, where they are held.
ENDING = 2.5
POD_LABEL = "serving.kserve.io/inferenceservice"
ROLLOUT = "modelservice.dev/rollout"
PODS = "/api/v1/namespaces/{}/pods"
ENDED = ("Failed", "Succeeded")
# What an API server that is too busy answers.
BUSY = (429, 500, 502, 503, 504)

Object = dict[str, Any]
Life = Callable[[], None]


class Subject:
    """A service of the test, with what a witness has found wrong in what is reported of it."""

    def __init__(self, lab: Lab, servers: Sequence[Server], namespace: str, name: str) -> None:
        self.lab, self.namespace, self.name = lab, namespace, name
        self.server, self.other = servers[0], servers[-1]
        self.lies: list[str] = []

    def rolled_out(self, image: str) -> str:
        """Deploy it and wait until it is READY; the rollout's id."""
        made = deploy(self.server.stub, self.namespace, self.name, container(image))
        self.until_ready(made.rollout_id)
        return made.rollout_id

    def until_ready(self, rollout_id: str) -> None:
        self.compare(wait_ready(self.server.stub, self.namespace, self.name, rollout_id))

    def deploy(self, image: str) -> pb.DeployResponse:
        return deploy(self.server.stub, self.namespace, self.name, container(image))

    def stop(self) -> str:
        return stop(self.server.rollouts, self.namespace, self.name).rollout_id

    def start(self) -> str:
        return start(self.server.rollouts, self.namespace, self.name).rollout_id

    def waiting(self, until: Until.ValueType, rollout_id: str) -> Recording:
        fields = {"until": until, "rollout_id": rollout_id}
        return Recording(self.server.stub, self.namespace, self.name, **fields)

    def end_of(self, wait: Recording) -> str:
        """How a wait ends: a reason, or empty for OK."""
        refusal = wait.end()
        if refusal is None:
            self.compare(wait.services[-1])
        return refusal.reason if refusal else ""

    def until_stopped(self, rollout_id: str) -> str:
        return self.end_of(self.waiting(Until.UNTIL_STOPPED, rollout_id))

    def until_stopped_elsewhere(self, rollout_id: str) -> str:
        """The same after a cut, at another replica if there is one."""
        fields = {"until": Until.UNTIL_STOPPED, "rollout_id": rollout_id}
        while True:
            wait = Recording(self.other.stub, self.namespace, self.name, **fields)
            # It may take a while to hear of the rollout.
            if (end := self.end_of(wait)) != "VIEW_BEHIND":
                return end

    def pods(self) -> list[Object]:
        selector = f"labelSelector={POD_LABEL}%3D{self.name}"
        return list(self.read(f"{PODS.format(self.namespace)}?{selector}")["items"])

    def read(self, path: str) -> Object:
        """Read an object or a list, again where the API server is too busy to answer."""
        return dict(_patiently(lambda: self.lab.get(path)))

    def compare(self, told: InferenceService) -> None:
        """Compare a status with the pods of this moment.

        The service is read after the pods: where it still is the generation that the status is
        about, nobody has started or stopped it before the pods were read.
        """
        state = told.status.state
        if state not in (State.STATE_STOPPED, State.STATE_READY):
            return
        pods = self.pods()
        service = self.read(SERVICES.format(self.namespace, self.name))
        if service["metadata"]["generation"] != told.generation:
            return
        wanted = service["spec"]["predictor"]["annotations"][ROLLOUT]
        if state == State.STATE_STOPPED and (left := [p for p in pods if not has_ended(p)]):
            self.lies.append(f"{self.name} is STOPPED, and there are {list(map(shown, left))}")
        if state == State.STATE_READY and not any(serves(pod, wanted) for pod in pods):
            self.lies.append(f"{self.name} is READY, and there are {list(map(shown, pods))}")

    @contextmanager
    def witnessed(self) -> Iterator[None]:
        """Compare all that is reported while the block runs. Raises AssertionError after it."""
        call = self.server.stub.WatchStatus(
            pb.WatchStatusRequest(namespace=self.namespace, name=self.name)
        )
        thread = threading.Thread(target=self._follow, args=(call,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            call.cancel()
            thread.join()
        assert self.lies == []

    def _follow(self, call: Any) -> None:
        stopped = set[int]()
        try:
            for message in call:
                told = message.service
                if told.generation in stopped and told.status.state != State.STATE_STOPPED:
                    state = State.Name(told.status.state)
                    self.lies.append(f"{self.name} was STOPPED, and then {state} without a start")
                if told.status.state == State.STATE_STOPPED:
                    stopped.add(told.generation)
                if message.HasField("service"):
                    self.compare(told)
        except Exception as error:
            if not (isinstance(error, grpc.RpcError) and call.cancelled()):
                self.lies.append(f"the witness of {self.name} has ended: {error!r}")

    @contextmanager
    def slow_to_end(self) -> Iterator[None]:
        """Let its present pods take ENDING seconds to end, from now on."""
        paths = [f"{PODS.format(self.namespace)}/{pod['metadata']['name']}" for pod in self.pods()]
        for path in paths:
            _patiently(partial(set_finalizers, self.lab, path, FINALIZER))
        ending = threading.Timer(ENDING, self._let_end, [paths])
        ending.start()
        try:
            yield
        finally:
            ending.join()

    def _let_end(self, paths: Sequence[str]) -> None:
        try:
            for path in paths:
                # Gone: it was let go, and the answer was lost.
                with suppress(NotFoundException):
                    _patiently(partial(set_finalizers, self.lab, path))
        except Exception as error:
            self.lies.append(f"the pods of {self.name} were not let go: {error!r}")


def _patiently(call: Callable[[], Any]) -> Any:
    """Return the call's result, repeated where the API server is too busy to answer."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return call()
        except (ApiException, HTTPError) as error:
            busy = isinstance(error, HTTPError) or error.status in BUSY
            if not busy or time.monotonic() > ends:
                raise
        time.sleep(0.1)


def has_ended(pod: Object) -> bool:
    return pod["status"].get("phase") in ENDED


def serves(pod: Object, rollout: str) -> bool:
    """Whether a pod of this rollout is ready, and is to stay."""
    metadata, conditions = pod["metadata"], pod["status"].get("conditions", ())
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    of_rollout = metadata.get("annotations", {}).get(ROLLOUT) == rollout
    return ready and of_rollout and "deletionTimestamp" not in metadata


def shown(pod: Object) -> str:
    metadata = pod["metadata"]
    ending = ", ending" if "deletionTimestamp" in metadata else ""
    return f"{metadata['name']} ({pod['status'].get('phase')}{ending})"


def stopped_in_a_rollout(subject: Subject, after: float) -> None:
    """Stop it so long after a Deploy, then start it."""
    subject.rolled_out("ready:1")
    second = subject.deploy("lab/slow:1s").rollout_id
    ready = subject.waiting(Until.UNTIL_READY, second)
    time.sleep(after)
    stopped = subject.stop()
    assert subject.until_stopped(stopped) == ""
    assert subject.end_of(ready) in ("", "ROLLOUT_SUPERSEDED")
    assert subject.until_stopped_elsewhere(stopped) == ""
    started = subject.start()
    subject.until_ready(started)
    assert subject.until_stopped(stopped) == "ROLLOUT_SUPERSEDED"


def started_in_a_stop(subject: Subject, after: float) -> None:
    """Start it so long after a Stop, while its pods end."""
    subject.rolled_out("ready:1")
    with subject.slow_to_end():
        stopped = subject.stop()
        wait = subject.waiting(Until.UNTIL_STOPPED, stopped)
        time.sleep(after)
        started = subject.start()
        subject.until_ready(started)
    assert subject.end_of(wait) in ("", "ROLLOUT_SUPERSEDED")
    assert subject.until_stopped(stopped) == "ROLLOUT_SUPERSEDED"


def stopped_in_a_start(subject: Subject, after: float) -> None:
    """Stop it, start it, and stop it again so long after that."""
    subject.rolled_out("ready:1")
    assert subject.until_stopped(subject.stop()) == ""
    started = subject.waiting(Until.UNTIL_READY, subject.start())
    time.sleep(after)
    stopped = subject.stop()
    assert subject.until_stopped(stopped) == ""
    assert subject.end_of(started) in ("", "ROLLOUT_SUPERSEDED")


def lead(
    lab: Lab,
    servers: Sequence[Server],
    namespace: str,
    rollouts: Iterable[int],
    stops: Iterable[int],
    starts: Iterable[int],
) -> None:
    """Lead a service for each number of steps, all at once."""
    lives = [
        *((stopped_in_a_rollout, number * STEP) for number in rollouts),
        *((started_in_a_stop, number * STEP) for number in stops),
        *((stopped_in_a_start, number * SHORT_STEP) for number in starts),
    ]

    def one(number: int) -> None:
        life, after = lives[number]
        name = f"{life.__name__.replace('_', '-')}-{number}"
        subject = Subject(lab, servers, namespace, name)
        with subject.witnessed():
            life(subject, after)

    with ThreadPoolExecutor(len(lives)) as threads:
        list(threads.map(one, range(len(lives))))
