"""Get and List over a cluster in memory, beside a bare grpc.aio server of the same bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from .comparing import Comparison, Say
from .load import load
from .peers import Peer, bare_server, memory_server
from .samples import NAMESPACE, deploy_request, names

SERVICE = "/modelservice.v1.ModelService"
NEWS_EVERY = 10


def measure_get(
    say: Say, *, services: int, rounds: int, seconds: float, folder: Path
) -> list[Comparison]:
    """Calls per second at full load, and the server's CPU for a call."""
    chosen = names(services)
    request = pb.GetRequest(namespace=NAMESPACE, name=chosen[0]).SerializeToString()
    with memory_server(folder) as ours, _channel(ours) as channel:
        _deploy(channel, chosen)
        answer = _raw(channel, "Get")(request)
        say(f"get: {services:,} services, answers of {len(answer):,} bytes")
        with bare_server(folder, {"Get": answer}) as bare:
            rates, costs = _get_side_by_side(say, ours, bare, request, rounds, seconds)
    what, bare_is = f"Get of {services:,} services", "bare grpc.aio"
    return [
        Comparison(what, "calls/s", rates[ours], rates[bare], bare_is, aim_least=0.8),
        Comparison(f"{what}, server's CPU", "us/call", costs[ours], costs[bare], bare_is),
    ]


def measure_list(
    say: Say, *, services: int, rounds: int, page_size: int, folder: Path
) -> Comparison:
    """A whole listing by pages, against as many answers of a page's bytes by the bare server."""
    first = pb.ListRequest(namespace=NAMESPACE, page_size=page_size)
    with memory_server(folder) as ours, _channel(ours) as channel:
        _deploy(channel, names(services))
        page = _raw(channel, "List")(first.SerializeToString())
        say(f"list: {services:,} services, pages of {len(page):,} bytes")
        with bare_server(folder, {"List": page}) as bare, _channel(bare) as beside:
            return _list_side_by_side(channel, beside, first, services, rounds)


def _get_side_by_side(
    say: Say, ours: Peer, bare: Peer, request: bytes, rounds: int, seconds: float
) -> tuple[dict[Peer, list[float]], dict[Peer, list[float]]]:
    rates: dict[Peer, list[float]] = {ours: [], bare: []}
    costs: dict[Peer, list[float]] = {ours: [], bare: []}
    for n in range(1, rounds + 1):
        for peer in (bare, ours):
            before = peer.cpu_seconds()
            served = asyncio.run(load(peer.address, f"{SERVICE}/Get", request, seconds))
            costs[peer].append((peer.cpu_seconds() - before) / served.calls * 1e6)
            rates[peer].append(served.rate)
        if n % NEWS_EVERY == 0:
            say(f"get: {n} of {rounds}: {rates[ours][-1]:,.0f}/s, bare {rates[bare][-1]:,.0f}/s")
    return rates, costs


def _list_side_by_side(
    ours: grpc.Channel, bare: grpc.Channel, first: pb.ListRequest, services: int, rounds: int
) -> Comparison:
    whole, one = ModelServiceStub(ours), ModelServiceStub(bare)
    pages = -(-services // first.page_size)

    def answer_all() -> None:
        for _ in range(pages):
            one.List(first)

    listings: list[float] = []
    answers: list[float] = []
    for _ in range(rounds):
        answers.append(_milliseconds(answer_all))
        listings.append(_milliseconds(lambda: _list_all(whole, first, services)))
    what = f"List of {services:,} by {first.page_size}"
    bare_is = f"{pages:,} pages, bare grpc.aio"
    return Comparison(what, "ms", listings, answers, bare_is, aim_most=2)


def _list_all(stub: ModelServiceStub, first: pb.ListRequest, expected: int) -> None:
    request, found = pb.ListRequest(), 0
    request.CopyFrom(first)
    while True:
        page = stub.List(request)
        found += len(page.services)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == expected, f"{found} services listed of {expected}"


def _milliseconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def _deploy(channel: grpc.Channel, chosen: list[str]) -> None:
    stub = ModelServiceStub(channel)
    for name in chosen:
        stub.Deploy(deploy_request(name))


def _channel(peer: Peer) -> grpc.Channel:
    return grpc.insecure_channel(
        peer.address, options=[("grpc.max_receive_message_length", 64 * 2**20)]
    )


def _raw(channel: grpc.Channel, method: str) -> Callable[[bytes], bytes]:
    call: Any = channel.unary_unary(f"{SERVICE}/{method}")
    return lambda request: bytes(call(request))
