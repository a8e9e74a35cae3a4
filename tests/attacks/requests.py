"""Attacks by right frames of gRPC: what is in the requests, and how many there are."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count, cycle
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message
from modelservice.v1 import inference_service_pb2 as pb
from modelservice.v1 import registry_service_pb2 as registry
from modelservice.v1.model_service_pb2 import (
    DeleteRequest,
    DeployRequest,
    GetRequest,
    ListRequest,
    WatchStatusRequest,
)
from modelservice.v1.registry_pb2 import RegisteredModel

from server.domain.rollout.rollout_id import Rollout
from tests.api.generated_requests import METHODS
from tests.api.test_largest_requests import CASES, largest

from .attack import Attack, Made
from .target import SERVED, Metadata, Target

TIMEOUT_SECONDS = 30
REFUSED = frozenset({"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"})
TOO_MANY = frozenset({"RESOURCE_EXHAUSTED"})


class Request(NamedTuple):
    method: str
    content: bytes


def request(method: str, message: Message) -> Request:
    return Request(method, message.SerializeToString())


async def answer(channel: grpc.aio.Channel, request: Request, metadata: Metadata = ()) -> str:
    """The code that a request is answered with."""
    described = METHODS[request.method]
    path = f"/{described.containing_service.full_name}/{request.method}"
    try:
        if described.server_streaming:
            call = channel.unary_stream(path)(
                request.content, timeout=TIMEOUT_SECONDS, metadata=metadata
            )
            await call.read()
            call.cancel()
        else:
            await channel.unary_unary(path)(
                request.content, timeout=TIMEOUT_SECONDS, metadata=metadata
            )
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def flood(
    target: Target, seconds: float, requests: Iterator[Request], callers: int = 8
) -> Made:
    """So many callers send what comes next, each on a connection of its own."""
    answers: Counter[str] = Counter()
    ends = time.monotonic() + seconds

    async def caller() -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(target.address, options=options) as channel:
            while time.monotonic() < ends:
                answers[await answer(channel, next(requests))] += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    return Made(answers.total(), answers)


@cache
def _largest() -> Sequence[Request]:
    return [Request(method, largest(method, path)) for method, path in CASES]


async def largest_requests(target: Target, seconds: float) -> Made:
    """Four callers send, of every field in turn, as many entries as 1 MiB has room for: labels,
    tolerations, states, masks, environments."""
    return await flood(target, seconds, cycle(_largest()), callers=4)


async def calls_over_the_limit(target: Target, seconds: float) -> Made:
    """2,500 calls at once on one connection, again and again."""
    answers: Counter[str] = Counter()
    get = request("Get", GetRequest(name=SERVED))
    ends = time.monotonic() + seconds
    async with grpc.aio.insecure_channel(target.address) as channel:
        while time.monotonic() < ends:
            calls: list[Any] = [answer(channel, get) for _ in range(2500)]
            answers.update(await asyncio.gather(*calls))
    return Made(answers.total(), answers)


def _large(name: str, nth: int, **fields: Any) -> DeployRequest:
    """As large as is accepted; no runtime here serves its format, so that nothing is started."""
    model = pb.ModelPredictor(format=pb.ModelFormat(name="none"), storage_uri="/absent")
    spec = pb.InferenceServiceSpec(model=model)
    spec.env.update({f"E{i}": f"{nth:08}" + "x" * 30_000 for i in range(16)})
    notes = {"note": f"{nth:08}" + "y" * 200_000}
    return DeployRequest(name=name, spec=spec, annotations=notes, **fields)


async def churn(target: Target, seconds: float) -> Made:
    """Services as large as may be, made, read, listed, watched and deleted."""
    answers: Counter[str] = Counter()
    ends, numbers = time.monotonic() + seconds, count()

    async def caller(channel: grpc.aio.Channel) -> None:
        while time.monotonic() < ends:
            nth = next(numbers)
            name = {"namespace": "churn", "name": f"churn-{nth}"}
            for each in (
                request("Deploy", _large(nth=nth, **name)),
                request("Get", GetRequest(**name)),
                request("List", ListRequest(namespace="churn")),
                request("WatchStatus", WatchStatusRequest(namespace="churn")),
                request("Delete", DeleteRequest(**name)),
            ):
                answers[await answer(channel, each)] += 1

    async with grpc.aio.insecure_channel(target.address) as channel:
        await asyncio.gather(*(caller(channel) for _ in range(4)))
    return Made(answers.total(), answers)


async def selectors(target: Target, seconds: float) -> Made:
    """Lists by selectors of 600 terms, and of the 50 that are permitted."""
    asked = [
        request(
            "List",
            ListRequest(namespace="-", label_selector=",".join(f"l{i} notin (a,b)" for i in terms)),
        )
        for terms in (range(600), range(50))
    ]
    return await flood(target, seconds, cycle(asked), callers=16)


async def forged_rollouts(target: Target, seconds: float) -> Made:
    """Reads of rollouts that never were, each another."""
    forged = (
        request(method, kind(name=SERVED, rollout_id=Rollout(f"{uid:032x}", uid).id))
        for uid in count()
        for method, kind in (("Get", GetRequest), ("WatchStatus", WatchStatusRequest))
    )
    return await flood(target, seconds, forged, callers=16)


async def deploys_of_one_name(target: Target, seconds: float) -> Made:
    """200 Deploys of one service at once, each of another spec, again and again."""
    answers: Counter[str] = Counter()
    ends, numbers = time.monotonic() + seconds, count()
    async with grpc.aio.insecure_channel(target.address) as channel:
        while time.monotonic() < ends:
            calls = []
            for nth in (next(numbers) for _ in range(200)):
                deploy = DeployRequest(name="contended", annotations={"nth": str(nth)})
                deploy.spec.model.format.name = "none"
                deploy.spec.model.storage_uri = "/absent"
                calls.append(answer(channel, request("Deploy", deploy), target.metadata))
            answers.update(await asyncio.gather(*calls))
        delete = request("Delete", DeleteRequest(name="contended", allow_missing=True))
        answers[await answer(channel, delete, target.metadata)] += 1
    return Made(answers.total(), answers)


_TOKENS = (
    [True],
    ["", True],
    ["binding", True],
    [["a"]],
    {"a": 1},
    "text",
    None,
    [2**70],
    [-1, "\0"],
    ["a"] * 5000,
    [1e308],
)


def _tokens() -> Iterator[str]:
    chance = random.Random(1)
    while True:
        for content in _TOKENS:
            yield base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")
        yield base64.urlsafe_b64encode(b"[" * 3000).decode()
        yield chance.randbytes(30).hex()
        yield "=" * 50
        yield "\0\U0001f4a3"


async def forged_tokens(target: Target, seconds: float) -> Made:
    """Page tokens and resume tokens that were never given."""
    forged = (
        each
        for token in _tokens()
        for each in (
            request("List", ListRequest(page_token=token)),
            request("WatchStatus", WatchStatusRequest(name=SERVED, resume_token=token)),
            request(
                "ListRegisteredModels",
                registry.ListRegisteredModelsRequest(project="p", page_token=token),
            ),
            request(
                "ListModelDeployments",
                registry.ListModelDeploymentsRequest(project="p", page_token=token),
            ),
        )
    )
    return await flood(target, seconds, forged)


_HOSTILE = (
    "'; DROP TABLE registered_models; --",
    "a' OR '1'='1",
    "a\0b",
    "%",
    "_",
    "\\",
    "../../etc/passwd",
    "\u202egnp.exe",
    "\ufeff",
    "$(reboot)",
    "{{7*7}}",
    "x" * 100_000,
)


async def hostile_names(target: Target, seconds: float) -> Made:
    """SQL, NUL bytes, paths and templates, wherever a name stands."""
    hostile = (
        each
        for text in cycle(_HOSTILE)
        for each in (
            request("Get", GetRequest(namespace=text, name=text)),
            request("Delete", DeleteRequest(name=text)),
            request("Deploy", DeployRequest(name=text, request_id=text, labels={text: text})),
            request("List", ListRequest(namespace=text, label_selector=text)),
            request(
                "CreateRegisteredModel",
                registry.CreateRegisteredModelRequest(
                    model=RegisteredModel(project=text, name=text, description=text)
                ),
            ),
            request(
                "GetRegisteredModel", registry.GetRegisteredModelRequest(project=text, name=text)
            ),
            request(
                "ListModelDeployments",
                registry.ListModelDeploymentsRequest(project="p", model=text, service=text),
            ),
        )
    )
    return await flood(target, seconds, hostile)


async def garbage(target: Target, seconds: float) -> Made:
    """Bytes of no message, and messages of which some bytes were turned."""
    chance = random.Random(2)
    right = _large("garbage", 0, validate_only=True).SerializeToString()[:2000]

    def bytes_of_all_kinds() -> Iterator[Request]:
        for method in cycle(METHODS):
            yield Request(method, chance.randbytes(chance.randrange(200)))
            turned = bytearray(right)
            for _ in range(5):
                turned[chance.randrange(len(turned))] = chance.randrange(256)
            yield Request(method, bytes(turned))

    return await flood(target, seconds, bytes_of_all_kinds())


ATTACKS = (
    Attack(
        "largest requests",
        largest_requests,
        REFUSED | TOO_MANY | {"OK"},
        sees={"INVALID_ARGUMENT": 10},
    ),
    Attack(
        "2,500 calls at once on a connection",
        calls_over_the_limit,
        TOO_MANY | {"OK"},
        refuses_others=True,
        sees={"OK": 1000},
    ),
    Attack(
        "churn of the largest services",
        churn,
        frozenset({"OK", "RESOURCE_EXHAUSTED"}),
        sees={"OK": 10},
    ),
    Attack(
        "selectors of 600 terms",
        selectors,
        frozenset({"OK", "INVALID_ARGUMENT"}),
        sees={"OK": 10, "INVALID_ARGUMENT": 10},
    ),
    Attack(
        "reads of forged rollouts",
        forged_rollouts,
        REFUSED | {"OK", "UNAVAILABLE"},
        sees={"NOT_FOUND": 8},
    ),
    Attack("200 Deploys of one name", deploys_of_one_name, frozenset({"OK"}), sees={"OK": 200}),
    Attack(
        "forged page and resume tokens",
        forged_tokens,
        REFUSED | {"OK"},
        sees={"INVALID_ARGUMENT": 50},
    ),
    Attack(
        "SQL, NUL bytes and paths as names",
        hostile_names,
        REFUSED | {"OK"},
        sees={"INVALID_ARGUMENT": 50},
    ),
    Attack("bytes that are no message", garbage, REFUSED | {"OK"}, sees={"INVALID_ARGUMENT": 50}),
)
