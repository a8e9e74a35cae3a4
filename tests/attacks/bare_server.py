"""grpc.aio and nothing else, with the channel options of the server.

`python -m tests.attacks.bare_server ANSWER` answers each call with the bytes of this file, and logs
its address as the server does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import grpc

from server.api.grpc_server import _OPTIONS

_SERVICE = "modelservice.v1.ModelService"


async def main(answer: bytes) -> None:
    async def answered(request: bytes, context: Any) -> bytes:
        return answer

    async def streamed(request: bytes, context: Any) -> None:
        await context.write(answer)
        await asyncio.Event().wait()

    unary = grpc.unary_unary_rpc_method_handler(answered)
    own_queues = dict.fromkeys(("Get", "Deploy"), unary)
    others = {"Delete": unary, "WatchStatus": grpc.unary_stream_rpc_method_handler(streamed)}
    server = grpc.aio.server(options=_OPTIONS)
    server.add_registered_method_handlers(_SERVICE, own_queues)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, others)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"event": "listening", "address": f"127.0.0.1:{port}"}), file=sys.stderr)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).read_bytes()))
