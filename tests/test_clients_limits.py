"""docs/clients.md: the limits that a client meets are those of the server."""

from __future__ import annotations

import grpc
from modelservice.v1.model_service_pb2 import DeployRequest, ListRequest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from server.api import grpc_server, reflection, responses
from server.control.watch_stream import Watch
from tests.patience import PATIENCE_SECONDS
from tests.serving import serving, settings
from tests.transcript import section

HEARTBEAT = Watch._field_defaults["heartbeat"]
OPTIONS = dict(grpc_server._OPTIONS)
KIB = 2**10


def seconds(option: str) -> int:
    return OPTIONS[option] // 1000


HARD_METADATA_KIB = OPTIONS["grpc.max_metadata_size"] * 5 // 4 // KIB  # gRPC's own rule
LIMITS = {
    "calls and watches open on a connection": f"{OPTIONS['grpc.max_concurrent_streams']:,}",
    "a request": f"{OPTIONS['grpc.max_receive_message_length'] // KIB**2} MiB",
    "a page of List": f"{responses.PAGE_BYTES // KIB**2} MiB",
    "metadata of a call, its token included": f"{OPTIONS['grpc.max_metadata_size'] // KIB} KiB",
    "the life of a connection": (
        f"{seconds('grpc.max_connection_age_ms') // 60} minutes,"
        f" and {seconds('grpc.max_connection_age_grace_ms')} s more for open calls"
    ),
    "silence of a watch": f"{HEARTBEAT.seconds} s, then a HEARTBEAT",
    "a request of server reflection": f"{reflection.LARGEST_REQUEST_BYTES // KIB} KiB",
}


def test_each_limit_of_the_document_is_the_servers() -> None:
    lines = section("docs/clients.md", "Limits").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    shown = {what: limit for what, limit, _ in rows[2:]}
    assert shown.pop("calls open on a server; watches") == (
        "`MODELSERVICE_MAX_CALLS`, `MODELSERVICE_MAX_STREAMS`"
    )
    assert shown.pop("those of one caller; its calls a second") == (
        "`MODELSERVICE_CALLER_MAX_CALLS`, `MODELSERVICE_CALLER_MAX_STREAMS`,"
        " `MODELSERVICE_CALLER_RATE`"
    )
    assert shown == LIMITS
    [metadata] = [row for row in rows if row[0].startswith("metadata")]
    assert f"above {HARD_METADATA_KIB} KiB always: RESOURCE_EXHAUSTED" in metadata[2]


def test_grpc_refuses_what_is_beyond_the_limits_and_nothing_within_them() -> None:
    def code(request: DeployRequest | ListRequest, metadata_bytes: int) -> grpc.StatusCode:
        # Each on a connection of its own: the headers of one are compressed by those before.
        with grpc.insecure_channel(served.address) as channel:
            stub = ModelServiceStub(channel)
            call = stub.Deploy if isinstance(request, DeployRequest) else stub.List
            sent = (("x-padding", "x" * metadata_bytes),)
            try:
                call(request, metadata=sent, timeout=PATIENCE_SECONDS)
            except grpc.RpcError as error:
                return error.code()
            return grpc.StatusCode.OK

    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    with serving(settings()) as served:
        served.wait_until_synced()
        assert code(ListRequest(), 15 * KIB) is grpc.StatusCode.OK
        assert code(ListRequest(), HARD_METADATA_KIB * KIB) is exhausted
        assert code(DeployRequest(name="x" * KIB**2), 0) is exhausted
