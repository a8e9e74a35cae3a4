"""Client and AsyncClient through the same scripts, against the real application."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import modelservice_client as ms
import pytest
from modelservice.v1.inference_service_pb2 import InferenceService, InferenceServiceStatus
from modelservice.v1.model_service_pb2 import DeployResponse, WatchStatusRequest
from modelservice.v1.model_service_pb2 import WatchStatusResponse as Message
from modelservice.v1.model_service_pb2_grpc import (
    ModelServiceServicer,
    add_ModelServiceServicer_to_server,
)
from modelservice.v1.registry_pb2 import RegisteredModel
from modelservice.v1.registry_service_pb2 import (
    CreateRegisteredModelRequest,
    ListRegisteredModelsRequest,
)
from modelservice_client import rpcs
from modelservice_client.core import watching

from server.domain.errors import ErrorReason
from server.domain.rollout.status import InferenceServiceStatus as Status
from server.domain.rollout.status import State
from tests.api.requests import READY, container, failed, key
from tests.api.test_errors import error_of
from tests.client.faces import Face, client
from tests.patience import PATIENCE_SECONDS
from tests.serving import Served

DELETING = InferenceServiceStatus.STATE_DELETING


async def eventually(what: str, true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not true():
            await asyncio.sleep(0.01)


def threads_of_watches() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name == "modelservice-watch"]


def waiting(face: Face, name: str, **named: Any) -> asyncio.Task[Any]:
    """A task that deploys a service and waits until it is ready."""
    deploying = face.call("deploy_and_wait", name=name, spec=container(), **named)
    return asyncio.create_task(deploying)


async def rollout_of(served: Served, name: str) -> str:
    """The rollout of a service once it is stored."""
    await eventually("it is stored", lambda: served.inside(served.memory.store.service, key(name)))
    return str(served.inside(served.memory.store.service, key(name)).rollout.id)


async def test_a_model_is_deployed_waited_for_read_and_deleted(
    face: Face, served: Served, name: str
) -> None:
    states: list[InferenceService] = []
    service = await face.call(
        "deploy_and_wait", name=name, spec=container(), on_change=states.append
    )
    assert service.status.state == READY
    assert states[-1] == service
    assert await face.call("get", name, rollout_id=service.rollout_id) == service
    assert name in [listed.name for listed in await face.call("list", page_size=1)]
    deleted = await face.call("delete", name)
    assert deleted.service.status.state == DELETING
    gone = asyncio.create_task(face.call("wait_gone", deleted))
    served.inside(served.memory.finish_delete, key(name))
    await gone
    with pytest.raises(ms.ServiceNotFound):
        await face.call("get", name)
    await face.call("wait_gone", await face.call("delete", name, allow_missing=True))


@pytest.mark.usefixtures("open_rollouts")
async def test_a_failed_rollout_raises_its_failure_with_the_remedy(
    face: Face, served: Served, name: str
) -> None:
    wait = waiting(face, name, request_id="r-1")
    rollout_id = await rollout_of(served, name)
    status = failed(rollout_id, log_lines=("no such image",))
    served.inside(served.memory.set_status, key(name), status)
    with pytest.raises(ms.RolloutFailed) as raised:
        await wait
    error = raised.value
    assert error.failure.remedy == "push it"
    assert error.service
    assert error.service.rollout_id == rollout_id
    assert error.request_id == "r-1"
    assert str(error).splitlines()[1:] == [
        "IMAGE_PULL: the image example.org/model:1 is not there",
        "remedy: push it",
        "  | no such image",
    ]


@pytest.mark.usefixtures("open_rollouts")
async def test_a_superseded_rollout_raises(face: Face, served: Served, name: str) -> None:
    wait = waiting(face, name)
    await rollout_of(served, name)
    await face.call("deploy", name=name, spec=container("example.org/model:2"))
    with pytest.raises(ms.Superseded):
        await wait


@pytest.mark.usefixtures("open_rollouts")
async def test_a_deleted_service_ends_a_wait_for_its_rollout(
    face: Face, served: Served, name: str
) -> None:
    wait = waiting(face, name)
    await rollout_of(served, name)
    await face.call("delete", name)
    with pytest.raises(ms.ServiceDeleted):
        await wait


@pytest.mark.usefixtures("open_rollouts")
async def test_a_wait_that_is_not_decided_in_time_raises_with_the_last_state(
    face: Face, name: str
) -> None:
    deployed = await face.call("deploy", name=name, spec=container())
    states: list[InferenceService] = []
    with pytest.raises(ms.Timeout) as raised:
        await face.call("wait_ready", deployed, timeout=1, on_change=states.append)
    # None has come in time where everything else on this machine came first.
    assert raised.value.service == (states[-1] if states else None)
    assert "not decided in 1 s" in str(raised.value)


async def test_a_watch_shows_a_snapshot_then_changes_then_the_deletion(
    face: Face, served: Served, name: str
) -> None:
    await face.call("deploy_and_wait", name=name, spec=container())
    async with face.watch(name) as watch:
        assert (await watch.next()).type == Message.TYPE_SNAPSHOT
        assert (await watch.next()).type == Message.TYPE_SYNCED
        await face.call("delete", name)
        changed = await watch.next()
        assert changed.type == Message.TYPE_CHANGED
        assert changed.service.status.state == DELETING
        served.inside(served.memory.finish_delete, key(name))
        assert (await watch.next()).type == Message.TYPE_DELETED


async def test_a_watch_until_ready_ends_and_a_closed_one_leaves_the_server(
    face: Face, served: Served, name: str
) -> None:
    await face.call("deploy", name=name, spec=container())
    *_, last = await face.call("watch", name, until=WatchStatusRequest.UNTIL_READY)
    assert last.service.status.state == READY


async def test_a_refused_request_names_the_fields(face: Face) -> None:
    with pytest.raises(ms.InvalidRequest) as raised:
        await face.call("deploy", name="Iris", spec=container())
    assert [violation.path for violation in raised.value.violations] == ["name"]
    assert raised.value.reason == "FIELD_INVALID"
    assert raised.value.request_id


async def test_a_stale_etag_and_a_taken_name_raise(face: Face, name: str) -> None:
    service = (await face.call("deploy", name=name, spec=container())).service
    await face.call("restart", name)
    with pytest.raises(ms.EtagMismatch):
        await face.call("deploy", name=name, spec=container(), etag=service.etag + "x")
    with pytest.raises(ms.AlreadyExists):
        await face.call("deploy", name=name, spec=container(), create_only=True)


async def test_a_dry_run_returns_the_service_and_stores_nothing(face: Face, name: str) -> None:
    service = await face.call("deploy_and_wait", name=name, spec=container(), validate_only=True)
    assert service.name == name
    with pytest.raises(ms.ServiceNotFound):
        await face.call("get", name)


async def test_a_restart_is_a_rollout(face: Face, name: str) -> None:
    first = await face.call("deploy", name=name, spec=container())
    again = await face.call("restart", name)
    assert again.action == DeployResponse.ACTION_RESTARTED
    assert again.rollout_id != first.rollout_id
    assert (await face.call("wait_ready", again)).rollout_id == again.rollout_id


async def test_a_service_is_stopped_and_started_again(face: Face, name: str) -> None:
    first = await face.call("deploy_and_wait", name=name, spec=container())
    would = await face.call("stop", name, validate_only=True)
    assert (would.action, would.rollout_id) == (DeployResponse.ACTION_UPDATED, "")
    states: list[InferenceService] = []
    stopped = await face.call("stop", name, rollout_id=first.rollout_id)
    service = await face.call("wait_stopped", stopped, on_change=states.append)
    assert service.status.state == InferenceServiceStatus.STATE_STOPPED
    assert states[-1] == service
    with pytest.raises(ms.Superseded):
        await face.call("start", name, rollout_id=first.rollout_id)
    started = await face.call("start", name)
    assert (await face.call("wait_ready", started)).spec == first.spec
    with pytest.raises(ms.Superseded):
        await face.call("wait_stopped", stopped)
    with pytest.raises(ms.Refused) as raised:
        await face.call("wait_stopped", name)
    assert raised.value.reason == "SERVICE_NOT_STOPPING"
    with pytest.raises(ms.ServiceNotFound) as absent:
        await face.call("stop", f"{name}-absent", request_id="r-1")
    assert absent.value.request_id == "r-1"


async def test_a_service_goes_back_to_a_revision(face: Face, name: str) -> None:
    first = await face.call("deploy_and_wait", name=name, spec=container())
    with pytest.raises(ms.NoReadyRevision):
        await face.call("rollback", name)
    image = "example.org/model:2"
    second = await face.call("deploy_and_wait", name=name, spec=container(image))
    with pytest.raises(ms.Superseded):
        await face.call("rollback", name, rollout_id=first.rollout_id)
    back = await face.call("rollback", name, rollout_id=second.rollout_id)
    assert (await face.call("wait_ready", back)).spec == first.spec
    revisions = await face.call("list_revisions", name, page_size=1)
    assert [revision.rollout_id for revision in revisions] == [
        back.rollout_id,
        second.rollout_id,
        first.rollout_id,
    ]
    assert revisions[0].rollback_of == revisions[2].revision
    again = await face.call("rollback", name, revision=revisions[1].revision)
    assert again.service.spec == second.spec
    with pytest.raises(ms.RevisionNotFound):
        await face.call("rollback", name, revision=77)


@pytest.mark.usefixtures("open_rollouts")
async def test_a_failed_rollout_is_rolled_back_and_raises_both(
    face: Face, served: Served, name: str
) -> None:
    first = await face.call("deploy", name=name, spec=container())
    served.inside(served.memory.set_status, key(name), Status(State.READY))

    def present() -> str:
        return str(served.inside(served.memory.store.service, key(name)).rollout.id)

    bad = container("example.org/model:2")
    deploying = asyncio.create_task(
        face.call("deploy_and_wait", name=name, spec=bad, rollback_on_failure=True)
    )
    await eventually("it is deployed", lambda: present() != first.rollout_id)
    failing = present()
    served.inside(served.memory.set_status, key(name), failed(failing))
    await eventually("it is rolled back", lambda: present() != failing)
    served.inside(served.memory.set_status, key(name), Status(State.READY))
    with pytest.raises(ms.RolledBack) as raised:
        await deploying
    error = raised.value
    assert error.failure.remedy == "push it"
    assert error.service
    assert error.service.rollout_id == failing
    assert error.restored.spec == first.service.spec
    assert error.revision == 1


async def test_an_error_that_passes_is_waited_for(face: Face, served: Served, name: str) -> None:
    served.memory.fail_next_write(error_of(ErrorReason.CONCURRENT_WRITE, "others wrote"))
    service = await face.call("deploy_and_wait", name=name, spec=container())
    assert service.status.state == READY


async def test_a_bug_of_the_server_is_not_tried_again(
    face: Face, served: Served, name: str
) -> None:
    served.memory.fail_next_write(error_of(ErrorReason.INTERNAL, "a bug"))
    with pytest.raises(ms.ServerError):
        await face.call("deploy", name=name, spec=container())


async def test_an_error_that_outlasts_the_timeout_is_raised(
    face: Face, served: Served, name: str
) -> None:
    served.memory.fail_next_write(error_of(ErrorReason.SERVER_CREDENTIALS_REFUSED))
    with pytest.raises(ms.Unavailable) as raised:
        await face.call("deploy", name=name, spec=container(), timeout=30)
    assert raised.value.reason == "SERVER_CREDENTIALS_REFUSED"
    assert raised.value.retry_after == 30


async def test_the_registry_is_called_and_listed_by_pages(face: Face, name: str) -> None:
    for number in range(3):
        model = RegisteredModel(project=name, name=f"model-{number}")
        request = CreateRegisteredModelRequest(model=model)
        await face.call("call", rpcs.CREATE_REGISTERED_MODEL, request)
    listing = ListRegisteredModelsRequest(project=name, page_size=2)
    pages = await face.call("pages", rpcs.LIST_REGISTERED_MODELS, listing)
    assert [len(page.models) for page in pages] == [2, 1]
    with pytest.raises(ms.AlreadyExists):
        await face.call("call", rpcs.CREATE_REGISTERED_MODEL, request)


async def test_no_server_is_reported_after_the_patience(kind: str) -> None:
    async with client(kind, "127.0.0.1:9", patience=0.5) as face:
        with pytest.raises(ms.NotReachable, match="no server has answered"):
            await face.call("get", "iris")
        with pytest.raises(ms.NotReachable):
            await face.call("wait_ready", "iris")


@pytest.mark.usefixtures("open_rollouts")
async def test_closing_a_client_ends_its_waits(face: Face, served: Served, name: str) -> None:
    wait = waiting(face, name)
    await rollout_of(served, name)
    await face.close()
    with pytest.raises(ms.ClientClosed):
        await wait
    with pytest.raises(ms.ClientClosed):
        await face.call("get", name)


async def read(watch: ms.Watch | ms.AsyncWatch, show: Callable[[Message], None]) -> None:
    """Read a watch to its end, in a thread or in this task."""
    if isinstance(watch, ms.AsyncWatch):
        async for message in watch:
            show(message)
    else:
        await asyncio.to_thread(lambda: [*map(show, watch)])


async def test_closing_a_watch_ends_its_reader_without_an_error(face: Face, name: str) -> None:
    messages, watch = list[Message](), face.client.watch(name)
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(PATIENCE_SECONDS):
        reader = tasks.create_task(read(watch, messages.append))
        await eventually("the stream is open", lambda: messages)
        watch.close()
        await reader
    assert [message.type for message in messages] == [Message.TYPE_SYNCED]


class Busy(ModelServiceServicer):
    """Refuses each watch, for the longest time that clients believe."""

    def WatchStatus(self, request: Any, context: grpc.ServicerContext) -> Iterator[Message]:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", "60000"),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
        yield Message()


@pytest.fixture
def busy() -> Iterator[str]:
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        add_ModelServiceServicer_to_server(Busy(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


async def test_closing_a_watch_ends_its_reader_in_a_pause(kind: str, busy: str) -> None:
    pauses, messages = list[ms.Retrying](), list[Message]()
    async with client(kind, busy, on_retry=pauses.append) as face:
        watch = face.client.watch()
        reader = asyncio.create_task(read(watch, messages.append))
        await eventually("it pauses", lambda: pauses)
        watch.close()
        await asyncio.wait_for(reader, pauses[0].pause / 2)
    assert messages == []


async def test_a_watch_may_be_closed_before_its_pause(kind: str, busy: str) -> None:
    async with client(kind, busy, on_retry=lambda retrying: watch.close()) as face:
        watch = face.client.watch()
        await asyncio.wait_for(read(watch, print), 30)


async def test_a_watch_that_is_left_in_the_middle_holds_nothing_open(
    served: Served, name: str
) -> None:
    def left() -> None:
        with ms.Client(served.address) as client:
            client.deploy_and_wait(name=name, spec=container())
            for _ in client.watch(name):
                break

    await asyncio.to_thread(left)
    await eventually("no thread of a watch is left", lambda: not threads_of_watches())


async def test_a_watch_that_is_collected_as_garbage_in_its_own_thread_holds_nothing_open(
    served: Served, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collection comes at one step of the thread after the other."""
    monkeypatch.setattr(watching, "SILENCE_SECONDS", 0.8)  # the thread looks eight times as often
    steps = itertools.count(-1, -1)

    def collect(*_: object) -> None:
        if threading.current_thread().name == "modelservice-watch" and next(steps) == 0:
            gc.collect()

    def leave(step: int) -> None:
        nonlocal steps
        with ms.Client(served.address) as client:
            client.deploy_and_wait(name=name, spec=container())
            watch = client.watch(name)
            next(watch)
            cycle: list[Any] = [watch]
            cycle.append(cycle)
        steps = itertools.count(step, -1)

    gc.disable()
    threading.setprofile(collect)
    try:
        for step in range(20):
            await asyncio.to_thread(leave, step)
            await eventually("no thread of a watch is left", lambda: not threads_of_watches())
    finally:
        threading.setprofile(None)
        gc.enable()


async def test_cancelling_a_task_ends_its_stream_and_leaves_the_rollout_alone(name: str) -> None:
    opened, ended = threading.Event(), threading.Event()

    class Silent(ModelServiceServicer):
        def WatchStatus(self, request: Any, context: grpc.ServicerContext) -> Iterator[Message]:
            context.add_callback(ended.set)
            opened.set()
            yield Message(type=Message.TYPE_SYNCED)
            ended.wait(PATIENCE_SECONDS)

    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        add_ModelServiceServicer_to_server(Silent(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        async with ms.AsyncClient(f"127.0.0.1:{port}") as client:
            wait = asyncio.create_task(client.wait_ready(name, rollout_id="r"))
            await eventually("the stream is open", opened.is_set)
            wait.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wait
            await eventually("the stream has ended", ended.is_set)
        server.stop(None).wait()
