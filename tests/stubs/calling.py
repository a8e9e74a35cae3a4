"""Call a server through the stubs, on whatever runtime runs this; for test_distribution."""

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import google.protobuf
import grpc
import modelservice
from google.protobuf import any_pb2, json_format
from google.rpc import error_details_pb2, status_pb2
from modelservice.v1 import (
    errors_pb2,
    inference_service_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)

REASON = errors_pb2.ErrorReason.Name(errors_pb2.ERROR_REASON_SERVICE_NOT_FOUND)


class Echo(model_service_pb2_grpc.ModelServiceServicer):
    """Answers each Deploy with what it asked for, watches with it once; Get finds nothing."""

    async def Deploy(self, request, context):
        return model_service_pb2.DeployResponse(
            service=inference_service_pb2.InferenceService(name=request.name, spec=request.spec),
            action=model_service_pb2.DeployResponse.ACTION_CREATED,
        )

    async def Get(self, request, context):
        info = error_details_pb2.ErrorInfo(
            reason=REASON.removeprefix("ERROR_REASON_"), domain="modelservice"
        )
        detail = any_pb2.Any()
        detail.Pack(info)
        code = grpc.StatusCode.NOT_FOUND
        status = status_pb2.Status(code=code.value[0], message="absent", details=[detail])
        trailer = ("grpc-status-details-bin", status.SerializeToString())
        await context.abort(code, "absent", trailing_metadata=(trailer,))

    async def WatchStatus(self, request, context):
        yield model_service_pb2.WatchStatusResponse(
            type=model_service_pb2.WatchStatusResponse.TYPE_SNAPSHOT,
            service=inference_service_pb2.InferenceService(name=request.name),
        )


def deploy_request() -> model_service_pb2.DeployRequest:
    """Use every kind of field: a oneof, maps, an optional zero, a duration, a repeated message."""
    spec = {
        "model": {"format": {"name": "sklearn"}, "storage_uri": "gs://bucket/iris"},
        "env": {"WORKERS": "2"},
        "secret_env": {"HF_TOKEN": {"secret": "hf", "key": "token"}},
        "scaling": {"min_replicas": 0},
        "tolerations": [{"key": "gpu", "toleration_seconds": "30"}],
        "request_timeout": "300s",
    }
    return json_format.ParseDict({"name": "iris", "spec": spec}, model_service_pb2.DeployRequest())


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


def call_synchronously(address: str) -> dict[str, object]:
    request = deploy_request()
    with grpc.insecure_channel(address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        answer = stub.Deploy(request, timeout=60)
        return {
            "deployed": answer.service.spec == request.spec,
            "minimum": answer.service.spec.scaling.HasField("min_replicas"),
            "refusal": refusal(stub),
        }


def refusal(stub: model_service_pb2_grpc.ModelServiceStub) -> str:
    try:
        stub.Get(model_service_pb2.GetRequest(name="absent"), timeout=60)
    except grpc.RpcError as error:
        trailers = dict(error.trailing_metadata())
        [detail] = status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details
        info = error_details_pb2.ErrorInfo()
        detail.Unpack(info)
        return info.reason
    return ""


async def watch(address: str) -> list[str]:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        call = stub.WatchStatus(model_service_pb2.WatchStatusRequest(name="iris"), timeout=60)
        return [message.service.name async for message in call]


async def main() -> None:
    async with served() as address:
        with ThreadPoolExecutor(1) as threads:
            called = await asyncio.get_running_loop().run_in_executor(
                threads, call_synchronously, address
            )
        watched = await watch(address)
    versions = {"protobuf": google.protobuf.__version__, "stubs": modelservice.__file__}
    print(json.dumps(called | {"watched": watched} | versions))


if __name__ == "__main__":
    asyncio.run(main())
