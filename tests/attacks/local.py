"""Attacks by what a model is made of, on the local cluster."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from itertools import count, cycle
from pathlib import Path

import grpc
from modelservice.v1 import inference_service_pb2 as pb
from modelservice.v1.model_service_pb2 import DeleteRequest, DeployRequest, WatchStatusRequest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from tests.adapters.local.file_server import FileServer, file_server
from tests.refusals import refusal_of

from .attack import Attack, Made
from .target import MODEL_SIZE_LIMIT, Target

FAILS_WITHIN_SECONDS = 60
ESCAPED = "escaped"


def _tar(*members: tuple[str, bytes, str]) -> bytes:
    """Of members with a type each, their name and where a link leads."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            content = b"x" if kind == tarfile.REGTYPE else b""
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _tar_bomb() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("zeros")
        member.size = 2 * MODEL_SIZE_LIMIT
        with Path("/dev/zero").open("rb") as zeros:
            archive.addfile(member, zeros)
    return packed.getvalue()


def _zip(name: str, size: int) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(size))
    return packed.getvalue()


def _hostile(folder: Path, http: FileServer) -> Iterator[str]:
    """URIs of which none may ever be served."""
    file, link, hard = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
    up = "../" * 12 + str(folder / ESCAPED).lstrip("/")
    http.files |= {
        "/up.tar.gz": _tar((up, file, "")),
        "/absolute.tar.gz": _tar((str(folder / ESCAPED), file, "")),
        "/link.tar.gz": _tar(("out", link, str(folder)), (f"out/{ESCAPED}", file, "")),
        "/hard.tar.gz": _tar(("out", hard, "/etc/passwd")),
        "/passwd.tar.gz": _tar(("model.json", link, "/etc/passwd")),
        "/device.tar.gz": _tar(("device", tarfile.CHRTYPE, "")),
        "/pipe.tar.gz": _tar(("pipe", tarfile.FIFOTYPE, "")),
        "/bomb.tar.gz": _tar_bomb(),
        "/up.zip": _zip(up, 10),
        "/bomb.zip": _zip("zeros", 2 * MODEL_SIZE_LIMIT),
        "/large": bytes(MODEL_SIZE_LIMIT + 1),
    }
    yield from map(http.url, http.files)
    http.redirects |= {
        "/to-file": "file:///etc/passwd",
        "/to-gopher": "gopher://127.0.0.1:1/",
        "/in-circles": http.url("/in-circles"),
    }
    yield from map(http.url, http.redirects)
    pipe, devices = folder / "pipe", folder / "devices"
    pipe.exists() or os.mkfifo(pipe)
    devices.mkdir(exist_ok=True)
    (devices / "zero").exists() or (devices / "zero").symlink_to("/dev/zero")
    yield from map(str, (pipe, devices, "/dev/zero", "/dev/urandom", "/dev/tty", "/proc/self/mem"))
    yield from ("file://other-host/etc/passwd", "ftp://127.0.0.1/a", "gopher://127.0.0.1/a")


async def _failure(stub: ModelServiceStub, name: str, uri: str) -> str:
    """The reason why a model is not served, or READY."""
    model = pb.ModelPredictor(format=pb.ModelFormat(name="test"), storage_uri=uri)
    deploy = DeployRequest(
        namespace="hostile", name=name, spec=pb.InferenceServiceSpec(model=model)
    )
    try:
        deployed = await stub.Deploy(deploy, timeout=FAILS_WITHIN_SECONDS)
        watch = WatchStatusRequest(
            namespace="hostile",
            name=name,
            rollout_id=deployed.rollout_id,
            until=WatchStatusRequest.UNTIL_READY,
        )
        async for _ in stub.WatchStatus(watch, timeout=FAILS_WITHIN_SECONDS):
            pass
    except grpc.aio.AioRpcError as error:
        refusal = refusal_of(error)
        if refusal.reason == "ROLLOUT_FAILED":
            return pb.Failure.Reason.Name(refusal.failure.reason).removeprefix("REASON_")
        return refusal.reason or refusal.code.name
    return "READY"


async def hostile_models(target: Target, seconds: float) -> Made:
    """Archives that reach out of their folder, bombs, redirects to files, devices and pipes."""
    answers: Counter[str] = Counter()
    ends, numbers = time.monotonic() + seconds, count()
    with file_server() as http:
        uris = list(_hostile(target.folder, http))
        async with grpc.aio.insecure_channel(target.address) as channel:
            stub = ModelServiceStub(channel)

            async def caller(first: int) -> None:
                for nth, uri in enumerate(cycle(uris[first::4])):
                    if time.monotonic() > ends and nth >= len(uris[first::4]):
                        return
                    name = f"hostile-{next(numbers)}"
                    answers[await _failure(stub, name, uri)] += 1
                    await stub.Delete(
                        DeleteRequest(namespace="hostile", name=name, allow_missing=True)
                    )

            await asyncio.gather(*map(caller, range(4)))
    if (target.folder / ESCAPED).exists():
        answers["escaped"] += 1
    # A Deploy, a watch and a Delete each.
    return Made(3 * answers.total(), answers)


ATTACKS = (
    Attack(
        "archives, redirects and devices as models",
        hostile_models,
        frozenset(
            {"STORAGE_DOWNLOAD", "STORAGE_SCHEME", "FIELD_INVALID", "UNSUPPORTED_BY_CLUSTER"}
        ),
        sees={"STORAGE_DOWNLOAD": 20, "STORAGE_SCHEME": 2},
    ),
)
