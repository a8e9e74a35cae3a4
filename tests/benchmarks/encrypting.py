"""Get with TLS, and with all that knows callers, beside Get without, on two servers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from tests.api_recorders import Authority

from .comparing import Comparison, Say
from .load import load
from .peers import Peer, memory_server
from .samples import NAMESPACE, deploy_request, names

GET = "/modelservice.v1.ModelService/Get"


# As long as those of ServiceAccounts are.
METADATA = [("authorization", "Bearer " + "x" * 1000)]
PLENTY = "1000000"


def measure_tls(say: Say, *, rounds: int, seconds: float, folder: Path) -> list[Comparison]:
    """Calls per second at full load, and the server's CPU for a call."""
    with _encrypted(folder) as tls, memory_server(folder) as plain:
        return _side_by_side(say, "Get with TLS", tls, (plain, "plaintext"), rounds, seconds)


def measure_identity(say: Say, *, rounds: int, seconds: float, folder: Path) -> list[Comparison]:
    """Calls per second at full load, and the server's CPU for a call: with TLS, tokens and rights
    in warm caches, limits, audit and a log, beside a server without any of them."""
    given = {
        "MODELSERVICE_AUTH": "kubernetes",
        "MODELSERVICE_AUDIT": str(folder / "audit.log"),
        # The load is all one caller's.
        "MODELSERVICE_CALLER_RATE": PLENTY,
    }
    quiet = {"MODELSERVICE_LOG_LEVEL": "error"}
    with (
        _encrypted(folder, given, METADATA) as ours,
        memory_server(folder, settings=quiet) as bare,
    ):
        what = "Get with TLS, identity, audit and log"
        return _side_by_side(say, what, ours, (bare, "without"), rounds, seconds)


class _Encrypted(NamedTuple):
    """A server with TLS, and how it is called."""

    peer: Peer
    credentials: grpc.ChannelCredentials
    context: ssl.SSLContext
    metadata: Sequence[tuple[str, str]]


@contextmanager
def _encrypted(
    folder: Path,
    settings: Mapping[str, str] | None = None,
    metadata: Sequence[tuple[str, str]] = (),
) -> Iterator[_Encrypted]:
    authority = Authority("a CA")
    cert, key = folder / "tls.crt", folder / "tls.key"
    for file, content in zip((cert, key), authority.issue("us", ["127.0.0.1"]), strict=True):
        file.write_bytes(content)
    given = {"MODELSERVICE_TLS_CERT": str(cert), "MODELSERVICE_TLS_KEY": str(key)}
    credentials = grpc.ssl_channel_credentials(authority.pem)
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.set_alpn_protocols(["h2"])
    with memory_server(
        folder,
        settings=given | dict(settings or {}),
        channel_to=lambda address: grpc.secure_channel(address, credentials),
    ) as peer:
        yield _Encrypted(peer, credentials, context, metadata)


def _side_by_side(
    say: Say, what: str, ours: _Encrypted, beside: tuple[Peer, str], rounds: int, seconds: float
) -> list[Comparison]:
    [name] = names(1)
    request = pb.GetRequest(namespace=NAMESPACE, name=name).SerializeToString()
    peer, (bare, bare_is) = ours.peer, beside
    with grpc.secure_channel(peer.address, ours.credentials) as channel:
        ModelServiceStub(channel).Deploy(deploy_request(name), metadata=ours.metadata)
    with grpc.insecure_channel(bare.address) as channel:
        ModelServiceStub(channel).Deploy(deploy_request(name))
    rates: dict[Peer, list[float]] = {peer: [], bare: []}
    costs: dict[Peer, list[float]] = {peer: [], bare: []}
    for _ in range(rounds):
        for each, tls, metadata in ((bare, None, ()), (peer, ours.context, ours.metadata)):
            before = each.cpu_seconds()
            served = asyncio.run(load(each.address, GET, request, seconds, tls, metadata))
            costs[each].append((each.cpu_seconds() - before) / served.calls * 1e6)
            rates[each].append(served.rate)
    say(f"{what}: {rounds} rounds")
    return [
        Comparison(what, "calls/s", rates[peer], rates[bare], bare_is, aim_least=0.75),
        Comparison(f"{what}, server's CPU", "us/call", costs[peer], costs[bare], bare_is),
    ]
