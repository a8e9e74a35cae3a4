"""`python -m server` that leaves its connections within seconds: an old one, and one whose client
answers no ping. Both take half an hour and 40 s otherwise, which nobody can set."""

from __future__ import annotations

import sys

from server import __main__ as program
from server.api import grpc_server

grpc_server._OPTIONS = tuple(
    {
        **dict(grpc_server._OPTIONS),
        "grpc.max_connection_age_ms": 5_000,
        "grpc.max_connection_age_grace_ms": 500,
        "grpc.keepalive_time_ms": 3_000,
        "grpc.keepalive_timeout_ms": 3_000,
        "grpc.http2.ping_timeout_ms": 3_000,
    }.items()
)

if __name__ == "__main__":
    sys.exit(program.main(sys.argv[1:]))
