"""Clients of both kinds as a program of their own, each with waits for rollouts and a watch of the
namespace: `python -m tests.client.waits ADDRESS`, with DeployRequests by name on stdin.

It prints a line of JSON for whatever they show, and for the end of each. A watch ends once every
service of the namespace that `AWAITED` names is ready or has failed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from google.protobuf import json_format
from modelservice.v1.inference_service_pb2 import InferenceService, InferenceServiceStatus
from modelservice.v1.model_service_pb2 import DeployRequest, WatchStatusResponse
from modelservice_client import AsyncClient, Client, ModelServiceError, Retrying, RolloutFailed

State = InferenceServiceStatus
ENDED = (State.STATE_READY, State.STATE_FAILED)
TIMEOUT = 900.0
_printing = threading.Lock()


def say(who: str, **said: Any) -> None:
    with _printing:
        print(json.dumps({"who": who, **said}), flush=True)


def state_of(service: InferenceService) -> dict[str, Any]:
    state: dict[str, Any] = json_format.MessageToDict(service)
    return state


def shows(who: str) -> Callable[[InferenceService], None]:
    return lambda service: say(who, shown=state_of(service))


def retries(kind: str) -> Callable[[Retrying], None]:
    def said(retrying: Retrying) -> None:
        say(kind, retry=retrying.method, why=str(retrying.error))

    return said


def end_of(error: ModelServiceError | None) -> str:
    if isinstance(error, RolloutFailed):
        return f"RolloutFailed {type(error.failure).Reason.Name(error.failure.reason)}"
    return "returned" if error is None else str(error)


class Watched:
    """What a watch of the namespace has shown."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._awaited = set(os.environ["AWAITED"].split())

    def take(self, message: WatchStatusResponse) -> bool:
        """Say it; whether that was the end."""
        kind = WatchStatusResponse.Type.Name(message.type).removeprefix("TYPE_")
        said = {"shown": state_of(message.service)} if message.HasField("service") else {}
        say(self._who, type=kind, **said)
        if message.service.status.state in ENDED:
            self._awaited.discard(message.service.name)
        if not self._awaited:
            say(self._who, end="returned")
        return not self._awaited


def in_threads(target: str, requests: dict[str, DeployRequest], namespace: str) -> None:
    def wait(who: str, request: DeployRequest) -> None:
        error = None
        try:
            client.deploy_and_wait(request, timeout=TIMEOUT, on_change=shows(who))
        except ModelServiceError as raised:
            error = raised
        say(who, end=end_of(error))

    def watch() -> None:
        watched = Watched("threads-watch")
        with client.watch(namespace=namespace) as messages:
            for message in messages:
                if watched.take(message):
                    return

    with Client(target, patience=TIMEOUT, on_retry=retries("threads")) as client:
        threads = [threading.Thread(target=wait, args=item) for item in requests.items()]
        threads.append(threading.Thread(target=watch))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


async def in_asyncio(target: str, requests: dict[str, DeployRequest], namespace: str) -> None:
    async def wait(who: str, request: DeployRequest) -> None:
        error = None
        try:
            await client.deploy_and_wait(request, timeout=TIMEOUT, on_change=shows(who))
        except ModelServiceError as raised:
            error = raised
        say(who, end=end_of(error))

    async def watch() -> None:
        watched = Watched("asyncio-watch")
        async with client.watch(namespace=namespace) as messages:
            async for message in messages:
                if watched.take(message):
                    return

    async with (
        AsyncClient(target, patience=TIMEOUT, on_retry=retries("asyncio")) as client,
        asyncio.TaskGroup() as tasks,
    ):
        for who, request in requests.items():
            tasks.create_task(wait(who, request))
        tasks.create_task(watch())


def main(target: str) -> None:
    requests = {
        name: json_format.ParseDict(request, DeployRequest())
        for name, request in json.load(sys.stdin).items()
    }
    [namespace] = {request.namespace for request in requests.values()}

    def of(kind: str) -> dict[str, DeployRequest]:
        return {name: request for name, request in requests.items() if name.startswith(kind)}

    blocking = threading.Thread(target=in_threads, args=(target, of("threads"), namespace))
    blocking.start()
    asyncio.run(in_asyncio(target, of("asyncio"), namespace))
    blocking.join()


if __name__ == "__main__":
    main(sys.argv[1])
