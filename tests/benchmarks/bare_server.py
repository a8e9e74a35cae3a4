"""A grpc.aio server that answers ready-made bytes; prints its port.

`python -m tests.benchmarks.bare_server FOLDER/Get.bytes ...`: a method for each file.
"""

from __future__ import annotations

import asyncio
import sys
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
) -> None:
    """Serve methods of ModelService, and print the port.

    Garbage is collected as in the server that is measured beside it: CPython's own collector would
    examine all objects again and again while thousands of streams are opened, and the bare server
    would look slower than gRPC is.
    """
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *options])
    service = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await keep_freeing()


async def main(paths: list[Path]) -> None:
    await serve({path.stem: answering(path.read_bytes()) for path in paths})


if __name__ == "__main__":
    asyncio.run(main([Path(argument) for argument in sys.argv[1:]]))
