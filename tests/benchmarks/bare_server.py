"""A grpc.aio server that answers ready-made bytes; prints its port.

`python -m tests.benchmarks.bare_server [--tls CERT KEY] FOLDER/Get.bytes ...`: a method for each
file.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from modelservice.v1 import model_service_pb2

from server.memory_trimming import keep_freeing


def answering(answer: bytes) -> grpc.RpcMethodHandler[Any, Any]:
    """A method that reads nothing and writes these bytes."""

    async def answer_it(request: bytes, context: Any) -> bytes:
        return answer

    return grpc.unary_unary_rpc_method_handler(answer_it)


async def serve(
    handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]],
    options: Sequence[tuple[str, int]] = (),
    credentials: grpc.ServerCredentials | None = None,
) -> None:
    """Serve methods of ModelService, in plaintext without `credentials`, and print the port.

    Garbage is collected as in the server that is measured beside it: CPython's own collector would
    examine all objects again and again while thousands of streams are opened, and the bare server
    would look slower than gRPC is.
    """
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *options])
    service = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    address = "127.0.0.1:0"
    port = (
        server.add_secure_port(address, credentials)
        if credentials
        else server.add_insecure_port(address)
    )
    await server.start()
    print(port, flush=True)
    await keep_freeing()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tls", nargs=2, type=Path, metavar=("CERT", "KEY"))
    parser.add_argument("answers", nargs="+", type=Path)
    given = parser.parse_args()
    credentials = None
    if given.tls:
        cert, key = (path.read_bytes() for path in given.tls)
        credentials = grpc.ssl_server_credentials([(key, cert)])
    handlers = {path.stem: answering(path.read_bytes()) for path in given.answers}
    await serve(handlers, credentials=credentials)


if __name__ == "__main__":
    asyncio.run(main())
