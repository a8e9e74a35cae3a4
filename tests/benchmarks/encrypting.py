"""Get with TLS, and with all that knows callers, beside Get without, on two servers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from tests.api_recorders import Authority

from .comparing import Comparison, Say
from .load import load
from .peers import Peer, bare_server, memory_server
from .samples import NAMESPACE, deploy_request, names

GET = "/modelservice.v1.ModelService/Get"


# As long as those of ServiceAccounts are.
METADATA = [("authorization", "Bearer " + "x" * 1000)]
PLENTY = "1000000"
[NAME] = names(1)
REQUEST = pb.GetRequest(namespace=NAMESPACE, name=NAME)


def measure_tls(say: Say, *, rounds: int, seconds: float, folder: Path) -> list[Comparison]:
    """Calls per second at full load, and the server's CPU for a call."""
    tls = _Tls(folder)
    with tls.memory_server(folder, {}) as encrypted, memory_server(folder) as plain:
        ours, beside = _Served(encrypted, tls), _Served(plain)
        for served in (ours, beside):
            served.get()
        measured = _side_by_side((beside, ours), rounds, seconds)
    say(f"TLS: {rounds} rounds")
    return _compared("Get with TLS", measured, ours, beside, "plaintext", aim_least=0.75)


def measure_identity(say: Say, *, rounds: int, seconds: float, folder: Path) -> list[Comparison]:
    """Calls per second at full load, and the server's CPU for a call: with TLS, tokens and rights
    in warm caches, limits, audit and a log, beside a server without any of them.

    TLS and a token of 1 KiB cost every gRPC server something: a bare one with both is measured too,
    beside ours and beside a bare one without.
    """
    tls = _Tls(folder)
    given = {
        "MODELSERVICE_AUTH": "kubernetes",
        "MODELSERVICE_AUDIT": str(folder / "audit.log"),
        # The load is all one caller's.
        "MODELSERVICE_CALLER_RATE": PLENTY,
    }
    quiet = {"MODELSERVICE_LOG_LEVEL": "error"}
    with ExitStack() as peers:
        encrypted = peers.enter_context(tls.memory_server(folder, given))
        ours = _Served(encrypted, tls, METADATA)
        without = _Served(peers.enter_context(memory_server(folder, settings=quiet)))
        ours.get()
        answers = {"Get": without.get()}
        bare = _Served(peers.enter_context(bare_server(folder, answers)))
        bare_tls = bare_server(folder, answers, (tls.cert, tls.key))
        with_tls = _Served(peers.enter_context(bare_tls), tls, METADATA)
        measured = _side_by_side((without, ours, bare, with_tls), rounds, seconds)
    say(f"identity: {rounds} rounds")
    what, tls_is = "Get with TLS, identity, audit and log", "bare grpc.aio with TLS and the token"
    return [
        *_compared(what, measured, ours, without, "without", aim_least=0.75),
        *_compared(what, measured, ours, with_tls, tls_is),
        *_compared(tls_is, measured, with_tls, bare, "without"),
    ]


class _Tls:
    """A CA with the certificate of a server, in files for the server, and for its clients."""

    def __init__(self, folder: Path) -> None:
        authority = Authority("a CA")
        self.cert, self.key = folder / "tls.crt", folder / "tls.key"
        issued = authority.issue("us", ["127.0.0.1"])
        for file, content in zip((self.cert, self.key), issued, strict=True):
            file.write_bytes(content)
        self.credentials = grpc.ssl_channel_credentials(authority.pem)
        self.context = ssl.create_default_context(cadata=authority.pem.decode())
        self.context.set_alpn_protocols(["h2"])

    def channel(self, address: str) -> grpc.Channel:
        return grpc.secure_channel(address, self.credentials)

    def memory_server(
        self, folder: Path, settings: Mapping[str, str]
    ) -> AbstractContextManager[Peer]:
        files = {"MODELSERVICE_TLS_CERT": str(self.cert), "MODELSERVICE_TLS_KEY": str(self.key)}
        return memory_server(folder, settings=files | dict(settings), channel_to=self.channel)


@dataclass(frozen=True, eq=False)
class _Served:
    """A server, and how it is called."""

    peer: Peer
    tls: _Tls | None = None
    metadata: Sequence[tuple[str, str]] = ()

    def get(self) -> bytes:
        """Deploy the service, and return the bytes of a GetResponse."""
        channel_to = self.tls.channel if self.tls else grpc.insecure_channel
        with channel_to(self.peer.address) as channel:
            stub = ModelServiceStub(channel)
            stub.Deploy(deploy_request(NAME), metadata=self.metadata)
            return stub.Get(REQUEST, metadata=self.metadata).SerializeToString()

    def load(self, seconds: float) -> tuple[float, float]:
        """Return the calls a second at full load, and the microseconds of CPU of each."""
        before = self.peer.cpu_seconds()
        context = self.tls.context if self.tls else None
        message = REQUEST.SerializeToString()
        served = asyncio.run(load(self.peer.address, GET, message, seconds, context, self.metadata))
        return served.rate, (self.peer.cpu_seconds() - before) / served.calls * 1e6


_Figures = Mapping[_Served, Sequence[tuple[float, float]]]


def _side_by_side(servers: Sequence[_Served], rounds: int, seconds: float) -> _Figures:
    figures: dict[_Served, list[tuple[float, float]]] = {served: [] for served in servers}
    for _ in range(rounds):
        for served, measured in figures.items():
            measured.append(served.load(seconds))
    return figures


def _compared(
    what: str,
    figures: _Figures,
    ours: _Served,
    bare: _Served,
    bare_is: str,
    aim_least: float | None = None,
) -> list[Comparison]:
    rates, costs = zip(*figures[ours], strict=True)
    bare_rates, bare_costs = zip(*figures[bare], strict=True)
    return [
        Comparison(what, "calls/s", rates, bare_rates, bare_is, aim_least=aim_least),
        Comparison(f"{what}, server's CPU", "us/call", costs, bare_costs, bare_is),
    ]
