"""A grpc.aio server that answers ready-made bytes; prints its port.

`python -m tests.benchmarks.bare_server FOLDER/Get.bytes ...`: a method for each file.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
from modelservice.v1 import model_service_pb2


def answering(answer: bytes) -> grpc.RpcMethodHandler[Any, Any]:
    """A method that reads nothing and writes these bytes."""

    async def answer_it(request: bytes, context: Any) -> bytes:
        return answer

    return grpc.unary_unary_rpc_method_handler(answer_it)


async def main(paths: list[Path]) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handlers = {path.stem: answering(path.read_bytes()) for path in paths}
    service = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main([Path(argument) for argument in sys.argv[1:]]))
