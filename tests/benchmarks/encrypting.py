"""Get with TLS beside Get in plaintext, on two servers of which everything else is the same."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import grpc
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from tests.api_recorders import Authority

from .comparing import Comparison, Say
from .load import load
from .peers import Peer, memory_server
from .samples import NAMESPACE, deploy_request, names

GET = "/modelservice.v1.ModelService/Get"


def measure_tls(say: Say, *, rounds: int, seconds: float, folder: Path) -> list[Comparison]:
    """Calls per second at full load, and the server's CPU for a call."""
    authority = Authority("a CA")
    cert, key = folder / "tls.crt", folder / "tls.key"
    for file, content in zip((cert, key), authority.issue("us", ["127.0.0.1"]), strict=True):
        file.write_bytes(content)
    given = {"MODELSERVICE_TLS_CERT": str(cert), "MODELSERVICE_TLS_KEY": str(key)}
    credentials = grpc.ssl_channel_credentials(authority.pem)
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.set_alpn_protocols(["h2"])

    def encrypted_channel(address: str) -> grpc.Channel:
        return grpc.secure_channel(address, credentials)

    [name] = names(1)
    request = pb.GetRequest(namespace=NAMESPACE, name=name).SerializeToString()
    with (
        memory_server(folder, settings=given, channel_to=encrypted_channel) as ours,
        memory_server(folder) as plain,
    ):
        for channel in (encrypted_channel(ours.address), grpc.insecure_channel(plain.address)):
            with channel:
                ModelServiceStub(channel).Deploy(deploy_request(name))
        rates: dict[Peer, list[float]] = {ours: [], plain: []}
        costs: dict[Peer, list[float]] = {ours: [], plain: []}
        for _ in range(rounds):
            for peer, tls in ((plain, None), (ours, context)):
                before = peer.cpu_seconds()
                served = asyncio.run(load(peer.address, GET, request, seconds, tls))
                costs[peer].append((peer.cpu_seconds() - before) / served.calls * 1e6)
                rates[peer].append(served.rate)
    say(f"tls: {rounds} rounds")
    return [
        Comparison(
            "Get with TLS", "calls/s", rates[ours], rates[plain], "plaintext", aim_least=0.75
        ),
        Comparison("Get with TLS, server's CPU", "us/call", costs[ours], costs[plain], "plaintext"),
    ]
