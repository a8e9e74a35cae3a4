"""A gRPC proxy that passes calls on, and ends some of them as proxies do: without a reason."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import grpc

from tests.patience import PATIENCE_SECONDS


class CuttingProxy(grpc.GenericRpcHandler):
    """`cuts` has, for each method, the codes that its next calls end with after one answer has come
    from the server. Of a method with one answer that one is lost. `passed`: the calls passed on.
    `held`: the methods whose calls have come and are passed on once the event is set."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.address = ""
        self.cuts: dict[str, list[grpc.StatusCode]] = {}
        self.passed: list[str] = []
        self.held: dict[str, threading.Event] = {}
        self._channel = channel

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        method = str(details.method)

        def call(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            return self._passed_on(method, requests, context)

        return grpc.stream_stream_rpc_method_handler(call)

    def _passed_on(
        self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        name = method.rpartition("/")[2]
        self.passed.append(name)
        if held := self.held.get(name):
            assert held.wait(PATIENCE_SECONDS)
        codes = self.cuts.get(name)
        cut = codes.pop(0) if codes else None
        call = self._channel.stream_stream(method)(
            _until_gone(requests), timeout=context.time_remaining()
        )
        if not context.add_callback(call.cancel):
            # The caller has gone, or the proxy is being stopped.
            call.cancel()
        try:
            for answer in call:
                if cut and name != "Deploy":
                    yield answer
                if cut:
                    context.abort(cut, "cut by the proxy")
                yield answer
        except grpc.RpcError as error:
            context.set_trailing_metadata(error.trailing_metadata() or ())
            context.abort(error.code(), error.details() or "")
        finally:
            call.cancel()


def _until_gone(requests: Iterator[bytes]) -> Iterator[bytes]:
    with suppress(grpc.RpcError):
        yield from requests


@contextmanager
def cutting_proxy(address: str, *options: tuple[str, int]) -> Iterator[CuttingProxy]:
    """A proxy before the server at this address; `options` are those of its own gRPC server."""
    with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(20) as threads:
        proxy = CuttingProxy(channel)
        server = grpc.server(threads, handlers=[proxy], options=options)
        proxy.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield proxy
        finally:
            server.stop(None).wait()
