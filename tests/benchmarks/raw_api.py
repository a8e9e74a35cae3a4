"""The lab's API server by one aiohttp client and nothing else."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from modelservice.v1 import model_service_pb2 as pb

from lab import Lab
from server.adapters.kserve.apply.kserve_config import KServeConfig
from server.adapters.kserve.apply.write_plan import Plan, plan_deploy
from server.adapters.kserve.manifests.serving_runtimes import Runtimes, candidates
from server.api.requests import deploy_of
from server.domain.service.canonical_spec import canonical_deploy
from server.domain.service.inference_service import ModelPredictor


class Listed(NamedTuple):
    """A collection: how many objects, the bytes of their JSON, and its resourceVersion."""

    objects: int
    bytes: int
    version: str


class RawApi:
    """Sends what it is given and reads the JSON that comes back; it keeps its connection."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def create(self, manifest: dict[str, Any]) -> None:
        """Server-side apply of an InferenceService that is not there yet."""
        metadata = manifest["metadata"]
        path = (
            f"/apis/{manifest['apiVersion']}/namespaces/{metadata['namespace']}"
            f"/inferenceservices/{metadata['name']}?fieldManager=modelservice&force=false"
        )
        headers = {"Content-Type": "application/apply-patch+yaml"}
        body = json.dumps(manifest, separators=(",", ":"))
        async with self._session.patch(path, data=body, headers=headers) as answer:
            told = json.loads(await answer.read())
            assert answer.status == 201, told

    async def patch(self, path: str, change: dict[str, Any]) -> None:
        """Merge a change into an object."""
        headers = {"Content-Type": "application/merge-patch+json"}
        async with self._session.patch(path, data=json.dumps(change), headers=headers) as answer:
            # Unread, it would cost the connection.
            text = await answer.text()
            assert answer.status == 200, text

    async def watch(self, path: str, version: str) -> AsyncIterator[bytes]:
        """The lines of a watch of a collection from this resourceVersion on."""
        query = {"watch": "true", "resourceVersion": version}
        forever = aiohttp.ClientTimeout(total=None)
        async with self._session.get(path, params=query, timeout=forever) as answer:
            assert answer.status == 200, await answer.text()
            async for line in answer.content:
                yield line

    async def list(self, path: str, query: dict[str, str]) -> Listed:
        """Read a whole collection at once."""
        async with self._session.get(path, params=query) as answer:
            content = await answer.read()
            told = json.loads(content)
            assert answer.status == 200, told
        return Listed(len(told["items"]), len(content), told["metadata"]["resourceVersion"])


@asynccontextmanager
async def raw_api(lab: Lab, kubeconfig: Path) -> AsyncIterator[RawApi]:
    """With the rights of a kubeconfig that the lab wrote."""
    [user] = json.loads(kubeconfig.read_text())["users"]
    tls = ssl.create_default_context(cadata=lab.ca.decode())
    # The API server's own certificate does not pass OpenSSL's strict profile.
    tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
    async with aiohttp.ClientSession(
        lab.server,
        connector=aiohttp.TCPConnector(ssl=tls),
        headers={
            "Authorization": f"Bearer {user['user']['token']}",
            "Accept-Encoding": "identity",
        },
        read_bufsize=2**20,
    ) as session:
        yield RawApi(session)


def manifest_for(
    request: pb.DeployRequest, runtimes: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """What the server itself would apply for a Deploy of a new model, with these runtimes in the
    cluster."""
    deploy = canonical_deploy(deploy_of(request))
    plan = plan_deploy(deploy, None, KServeConfig(), "")
    assert isinstance(plan, Plan)
    model = plan.desired.spec.serving
    assert isinstance(model, ModelPredictor)
    return dict(plan.with_added_fields(candidates(model, Runtimes((), runtimes))).manifest)
