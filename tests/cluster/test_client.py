"""The Python client on two replicas: one dies, the other one is behind, and then it is stopped."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import pairwise

from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice_client import Retrying

from tests.client.faces import FACES, client
from tests.client.tcp_proxy import tcp_proxy
from tests.client.test_faces import eventually
from tests.patience import PATIENCE_SECONDS

from .asking import State, container
from .fixtures import StartReplica
from .interference import Link


async def test_a_wait_goes_on_while_replicas_die_are_behind_and_stop(
    replica: StartReplica, link: Link, namespace: str
) -> None:
    first = await asyncio.to_thread(replica)
    late = await asyncio.to_thread(replica, kubeconfig=link.kubeconfig)
    shown: dict[str, list[InferenceService]] = {kind: [] for kind in FACES}
    retries: list[Retrying] = []
    async with AsyncExitStack() as stack:
        proxy = stack.enter_context(tcp_proxy(first.address))
        waits = []
        link.swallow(requests=False)
        for kind in FACES:
            face = await stack.enter_async_context(
                client(kind, proxy.address, patience=PATIENCE_SECONDS, on_retry=retries.append)
            )
            waiting = face.call(
                "deploy_and_wait",
                namespace=namespace,
                name=kind,
                spec=container("lab/slow:5s"),
                timeout=2 * PATIENCE_SECONDS,
                on_change=shown[kind].append,
            )
            waits.append(asyncio.create_task(waiting))
        await eventually("both are followed", lambda: all(shown.values()))
        proxy.backend = late.address
        await asyncio.to_thread(first.kill)
        await eventually(
            "both met the replica that is behind",
            lambda: [retry.error.reason for retry in retries].count("VIEW_BEHIND") >= 2,
        )
        link.restore()
        await asyncio.to_thread(first.start)
        proxy.backend = first.address
        await asyncio.to_thread(late.stop)
        for kind, service in zip(FACES, await asyncio.gather(*waits), strict=True):
            states = shown[kind]
            assert service.status.state == State.Value("STATE_READY")
            assert states[-1] == service
            assert {state.rollout_id for state in states} == {service.rollout_id}
            assert [a for a, b in pairwise(states) if a == b] == []
            assert {state.generation for state in states} == {1}
