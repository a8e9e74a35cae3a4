"""WatchStatus to thousands of readers, beside a bare grpc.aio server that pushes the same bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import quantiles

import grpc
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from .comparing import Comparison, Say
from .peers import Peer, bare_watch_server, memory_server
from .samples import NAMESPACE, change_request, deploy_request, marker, names
from .watchers import Watchers

[NAME] = names(1)
BARE = "bare grpc.aio"
# Open at once, as dashboards are: each gets a message for every service.
OPENED_AT_ONCE = 25
# Before these changes a stalled reader's window is full.
CHANGES_UNTIL_STALLED = 8
# Fewer say nothing: a process's CPU is known to 10 ms, its memory to what its heap has free.
FEWEST_FOR_MEMORY = 1000
_LONGEST_MESSAGE = ("grpc.max_receive_message_length", 2**20)


@dataclass
class Side:
    """One of the servers with its readers, and one number a round of what is measured."""

    peer: Peer
    stub: ModelServiceStub
    watchers: Watchers
    memory: float = 0.0
    cpu: float = 0.0
    openings: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    stalled_p99: list[float] = field(default_factory=list)
    storms: list[float] = field(default_factory=list)

    async def open(self, requests: Sequence[bytes], messages: int, at_once: int) -> None:
        """Open the streams, and take the seconds for it and the KiB for each."""
        before = self.peer.memory_bytes()
        parts = (requests[n : n + at_once] for n in range(0, len(requests), at_once))
        self.openings.append(sum([await self.watchers.open(some, messages) for some in parts]))
        self.memory = (self.peer.memory_bytes() - before) / len(requests) / 2**10

    async def open_again(self, requests: Sequence[bytes], messages: int) -> None:
        """Cut the streams and open them again, once the server is at rest."""
        self.watchers.close()
        self.watchers.readers.clear()
        self.peer.memory_bytes()
        self.openings.append(await self.watchers.open(requests, messages))

    def change(self, number: int) -> None:
        """Change the service that is watched."""
        self.stub.Deploy(change_request(NAME, number))

    async def time_change(self, number: int) -> list[float]:
        """The milliseconds until each reader has a change."""
        times = await self.watchers.time_change(marker(number), lambda: self.change(number))
        return [seconds * 1e3 for seconds in times]

    async def storm(self, number: int) -> float:
        """The seconds until each reader is back and has a change."""
        return await self.watchers.storm(marker(number), lambda: self.change(number))


def measure_streams(
    say: Say,
    *,
    streams: int,
    changes: int,
    stalled: int,
    storms: int,
    folder: Path,
    openings: int = 1,
) -> list[Comparison]:
    """Readers of one service: opening, memory, each change, stalled readers beside, a storm."""
    return asyncio.run(_measure_streams(say, streams, changes, stalled, storms, folder, openings))


def measure_streams_of_many(
    say: Say, *, services: int, streams: int, folder: Path
) -> list[Comparison]:
    """The memory of readers of all namespaces, above that of the bare server's."""
    return asyncio.run(_measure_streams_of_many(say, services, streams, folder))


async def _measure_streams(
    say: Say, streams: int, changes: int, stalled: int, storms: int, folder: Path, openings: int
) -> list[Comparison]:
    request = pb.WatchStatusRequest(namespace=NAMESPACE, name=NAME)
    requests = [request.SerializeToString()] * streams
    with _side_by_side(folder, request, 1) as (ours, bare, messages):
        numbers = count(2)
        for side in (bare, ours):
            await side.open(requests, messages, at_once=streams)
        for _ in range(openings - 1):
            for side in (bare, ours):
                await side.open_again(requests, messages)
        say(f"streams: {streams:,} open, {ours.openings[-1]:.2f} s, bare {bare.openings[-1]:.2f} s")
        before = {side.peer: side.peer.cpu_seconds() for side in (bare, ours)}
        for _ in range(changes):
            for side in (bare, ours):
                times = await side.time_change(next(numbers))
                side.last.append(times[-1])
                side.p99.append(p99(times))
        for side in (bare, ours):
            used = side.peer.cpu_seconds() - before[side.peer]
            side.cpu = used / changes / streams * 1e6
        say(f"streams: a change: {ours.last[-1]:,.0f} ms, bare {bare.last[-1]:,.0f} ms")
        if stalled:
            await ours.watchers.open_stalled(requests[:stalled])
            for round_ in range(CHANGES_UNTIL_STALLED + changes):
                times = await ours.time_change(next(numbers))
                if round_ >= CHANGES_UNTIL_STALLED:
                    ours.stalled_p99.append(p99(times))
            say(f"streams: {stalled:,} stalled, p99 {ours.stalled_p99[-1]:,.0f} ms")
        for _ in range(storms):
            for side in (bare, ours):
                side.storms.append(await side.storm(next(numbers)))
            say(f"streams: a storm: {ours.storms[-1]:.2f} s, bare {bare.storms[-1]:.2f} s;")
            say(f"streams: refused first: {ours.watchers.refused}, bare {bare.watchers.refused}")
    return _comparisons(streams, ours, bare, stalled)


def _comparisons(streams: int, ours: Side, bare: Side, stalled: int) -> list[Comparison]:
    what = f"{streams:,} streams"
    compared = [
        Comparison(f"{what}, a change", "ms", ours.last, bare.last, BARE, aim_most=2),
        Comparison(f"{what}, opening", "s", ours.openings, bare.openings, BARE, aim_most=1.3),
    ]
    if streams >= FEWEST_FOR_MEMORY:
        for of, unit, our, its, aim in (
            ("server's CPU", "us/stream", ours.cpu, bare.cpu, 2),
            # 25 KiB where the bare server takes 22.8.
            ("memory", "KiB/stream", ours.memory, bare.memory, 1.1),
        ):
            compared.append(Comparison(f"{what}, {of}", unit, [our], [its], BARE, aim_most=aim))
    if ours.stalled_p99:
        beside = f"{what}, {stalled} stalled beside, p99"
        compared.append(
            Comparison(beside, "ms", ours.stalled_p99, ours.p99, "none stalled", aim_most=1.2)
        )
    if ours.storms:
        storm = f"{what}, cut and reopened"
        compared.append(Comparison(storm, "s", ours.storms, bare.storms, BARE))
    return compared


async def _measure_streams_of_many(
    say: Say, services: int, streams: int, folder: Path
) -> list[Comparison]:
    request = pb.WatchStatusRequest(namespace="-")
    requests = [request.SerializeToString()] * streams
    with _side_by_side(folder, request, services) as (ours, bare, messages):
        for side in (bare, ours):
            await side.open(requests, messages, at_once=OPENED_AT_ONCE)
        say(f"streams: {streams:,} of {services:,} services: {ours.memory:.1f} KiB each")
    what = f"streams of {services:,} services, memory"
    return [Comparison(what, "KiB/stream", [ours.memory], [bare.memory], BARE, aim_more=4)]


@contextmanager
def watched_server(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[Side]:
    """A server over a cluster in memory with one service, on which a Deploy is one change."""
    with (
        memory_server(folder, settings=settings, arguments=["never-ready"]) as peer,
        _side(peer) as side,
    ):
        side.change(0)
        yield side


@contextmanager
def _side_by_side(
    folder: Path, request: pb.WatchStatusRequest, services: int
) -> Iterator[tuple[Side, Side, int]]:
    """Both servers, and how many messages a stream begins with."""
    with watched_server(folder) as ours:
        for name in names(services)[1:]:
            ours.stub.Deploy(deploy_request(name))
        opening, changed = _recorded(ours.stub, request, change_request(NAME, 1))
        with bare_watch_server(folder, opening, changed) as peer, _side(peer) as bare:
            yield ours, bare, len(opening)


@contextmanager
def _side(peer: Peer) -> Iterator[Side]:
    with grpc.insecure_channel(peer.address, options=[_LONGEST_MESSAGE]) as channel:
        side = Side(peer, ModelServiceStub(channel), Watchers(peer.address))
        try:
            yield side
        finally:
            side.watchers.close()


def _recorded(
    stub: ModelServiceStub, request: pb.WatchStatusRequest, change: pb.DeployRequest
) -> tuple[list[bytes], bytes]:
    """The messages that a stream begins with, and that of a change."""
    stream = stub.WatchStatus(request)
    opening: list[bytes] = []
    for message in stream:
        opening.append(message.SerializeToString())
        if message.type == pb.WatchStatusResponse.TYPE_SYNCED:
            break
    stub.Deploy(change)
    changed = next(stream).SerializeToString()
    stream.cancel()
    return opening, changed


def p99(times: Sequence[float]) -> float:
    """The time after which 99 % have it."""
    return quantiles(times, n=100)[-1] if len(times) > 1 else times[0]
