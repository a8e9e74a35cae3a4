"""Each caller has limits of its own: the flood of one leaves the others alone."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import grpc
import pytest
from grpc import StatusCode
from modelservice.v1.model_service_pb2 import DeployResponse, GetRequest, ListRequest
from structlog.testing import capture_logs

from server.adapters.kserve.identity.identities import KubernetesIdentities
from server.api import call_limits, write_pace
from server.api.call_limits import (
    AdmittedCall,
    ArrivingRequests,
    CallAdmission,
    CallerLimits,
    CallKind,
    CallLimits,
    RefusedCalls,
)
from server.domain.caller import Access, BearerToken, Caller
from server.domain.errors import ErrorReason, TooManyRequests
from server.settings import Serving
from server.token_bucket import TokenBucket
from tests.alone import alone
from tests.attacks.connection import Connection
from tests.http2 import ACK, PING, Frame, frame
from tests.patience import PATIENCE_SECONDS
from tests.refusals import refusal_of
from tests.serving import Served, serving, settings

from .requests import deploy, eventually, hold_deploys, watching
from .token_files import Client, entry, identity, token_of

CALLS, STREAMS = 3, 2
PLENTY = 1_000_000


class World(NamedTuple):
    served: Served
    flooder: Client
    other: Client


@contextmanager
def world(folder: Path, **limits: int) -> Iterator[World]:
    file = folder / "tokens.toml"
    users = [entry(user, namespaces={"*": "admin"}) for user in ("flooder", "other")]
    file.write_text("\n".join(users))
    given = {"caller_rate": PLENTY} | {f"caller_{name}": n for name, n in limits.items()}
    with serving(settings(serving=given, identity=identity(file))) as served:
        served.wait_until_synced()
        with grpc.insecure_channel(served.address) as channel:
            callers = [Client.of(channel, user) for user in ("flooder", "other")]
            yield World(served, *callers)


def refused_for_now(call: Callable[[], object]) -> str | None:
    """The reason of a refusal that says when to call again; None where the call is answered."""
    try:
        call()
    except grpc.RpcError as error:
        return reason_for_now(error)
    return None


def reason_for_now(error: Any) -> str:
    refusal = refusal_of(error)
    assert refusal.code is StatusCode.RESOURCE_EXHAUSTED
    assert refusal.retry_after > timedelta(0)
    pushback = dict(error.trailing_metadata())["grpc-retry-pushback-ms"]
    assert timedelta(milliseconds=int(pushback)) == refusal.retry_after
    return refusal.reason


def test_a_caller_with_its_limit_of_calls_is_refused_and_another_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world(tmp_path, max_calls=CALLS) as (served, flooder, other):
        began, released = hold_deploys(served.memory, monkeypatch)
        with ThreadPoolExecutor(CALLS) as pool:
            waiting = [pool.submit(flooder.models.Deploy, deploy(f"s{n}")) for n in range(CALLS)]
            eventually("as many calls are open as may be", lambda: len(began) == CALLS)
            refusal = refused_for_now(lambda: flooder.models.List(ListRequest()))
            assert refusal == "TOO_MANY_REQUESTS"
            assert other.models.List(ListRequest()) is not None
            served.inside(released.set)
            assert all(isinstance(each.result(), DeployResponse) for each in waiting)
        assert flooder.models.List(ListRequest()).services


def test_a_caller_with_its_limit_of_streams_is_refused_and_another_is_answered(
    tmp_path: Path,
) -> None:
    with world(tmp_path, max_streams=STREAMS) as (_, flooder, other):
        with ExitStack() as opened:
            for nth in range(STREAMS):
                opened.enter_context(watching(flooder.models, name=f"w{nth}")).next()
            with watching(flooder.models, name="one-too-many") as stream:
                messages, error = stream.rest()
            assert (messages, reason_for_now(error)) == ([], "TOO_MANY_STREAMS")
            assert opened.enter_context(watching(other.models, name="w")).next()
            # Its other calls are answered.
            assert flooder.models.List(ListRequest()) is not None

        def opens() -> bool:
            with watching(flooder.models, name="another") as stream:
                return refused_for_now(stream.next) is None

        eventually("there is room again", opens)


def test_a_caller_above_its_rate_is_refused_and_another_is_answered(tmp_path: Path) -> None:
    with world(tmp_path, rate=1) as (_, flooder, other):
        refusal = None

        def flood() -> bool:
            nonlocal refusal
            refusal = refused_for_now(lambda: flooder.models.List(ListRequest()))
            return refusal is not None

        eventually("it calls twice within a second", flood)
        assert refusal == "TOO_MANY_REQUESTS"
        assert other.models.List(ListRequest()) is not None
        eventually("it may call again", lambda: not flood())


def test_callers_without_identity_share_the_servers_limits_alone() -> None:
    limits = {"caller_rate": 1, "caller_max_calls": 1, "caller_max_streams": 1}
    with serving(settings(serving=limits)) as served:
        served.wait_until_synced()
        with grpc.insecure_channel(served.address) as channel, ExitStack() as opened:
            client = Client(channel)
            for nth in range(3):
                opened.enter_context(watching(client.models, name=f"w{nth}")).next()
                assert client.models.List(ListRequest()) is not None


def test_a_caller_has_a_quarter_of_the_servers_limits_unless_they_are_set() -> None:
    assert Serving().limits_of_caller() == (500, 250, 3000)
    assert Serving(max_calls=2, max_streams=40).limits_of_caller() == (500, 1, 10)
    given = Serving(caller_rate=7, caller_max_calls=8, caller_max_streams=9)
    assert given.limits_of_caller() == (7, 8, 9)


def test_a_bucket_lets_its_burst_pass_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=10, burst=3)
    passed = []
    for tenths in (1000, 1000, 1000, 1000, 1001, 1001, 1002, 2000, 2000, 2000, 2000):
        now = tenths / 10
        passed.append(bucket.delay(now) < 1e-6)
        if passed[-1]:
            bucket.take(now)
    assert passed == [*[True] * 3, False, True, False, True, *[True] * 3, False]
    assert bucket.delay(200.0) == pytest.approx(0.1)


def test_a_bucket_is_full_on_a_machine_that_has_just_booted() -> None:
    bucket = TokenBucket(rate=0.001, burst=3)
    for _ in range(3):
        assert not bucket.delay(1.0)
        bucket.take(1.0)
    assert bucket.delay(1.0)


def stop_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates and turns are as if all calls came at one moment, however slow the machine is."""
    monkeypatch.setattr(call_limits, "time", SimpleNamespace(monotonic=lambda: 1.0))
    monkeypatch.setattr(write_pace, "MOST_REST_SECONDS", 0.0)


async def test_few_callers_are_remembered_and_those_with_open_calls_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop_clock(monkeypatch)
    monkeypatch.setattr(call_limits, "MOST_IDLE_CALLERS", 3)
    admission = CallAdmission(CallLimits(PLENTY, PLENTY, CallerLimits(1, 1, 1)))
    open_calls = [await admission.admit(admission.unary, f"busy-{n}") for n in range(5)]
    for number in range(100):
        (await admission.admit(admission.unary, f"idle-{number}")).end()
    assert (len(admission._busy), len(admission._idle)) == (5, 3)
    with pytest.raises(TooManyRequests, match="this caller already has 1 calls"):
        await admission.admit(admission.unary, "busy-0")
    with pytest.raises(TooManyRequests, match="more than 1 calls a second"):
        await admission.admit(admission.unary, "idle-99")
    for call in open_calls:
        call.end()
    assert (len(admission._busy), len(admission._idle)) == (0, 3)
    assert admission.unary.open == 0


async def test_the_writes_of_a_burst_take_turns_and_another_caller_has_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop_clock(monkeypatch)
    monkeypatch.setattr(call_limits, "WRITES_A_SECOND", 1)
    monkeypatch.setattr(call_limits, "MOST_WRITES_WAITING", 3)
    admission = CallAdmission(CallLimits(PLENTY, PLENTY, CallerLimits(500, PLENTY, PLENTY)))

    def admit(name: str, *, writes: bool) -> asyncio.Task[AdmittedCall]:
        return asyncio.create_task(admission.admit(admission.unary, name, writes=writes))

    burst = [admit("flooder", writes=True) for _ in range(6)]
    others = [admit("other", writes=True), admit("flooder", writes=False)]
    await asyncio.sleep(0)
    assert [each.done() for each in burst] == [True, *[False] * 3, *[True] * 2]
    for each in burst[-2:]:
        with pytest.raises(TooManyRequests, match="3 writes of this caller wait"):
            each.result()
    assert all(each.done() for each in others)
    # One that leaves no longer waits.
    burst[3].cancel()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await burst[1]
        await burst[2]
    for each in [*burst[:3], *others]:
        each.result().end()
    await asyncio.wait([burst[3]])
    assert (admission.unary.open, len(admission._busy), admission._waiting_bytes) == (0, 0, 0)


class Loop:
    """How long the event loop has lived, and worked, for the pace of writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._lived = self._worked = 0.0
        clock = SimpleNamespace(monotonic=lambda: self._lived, thread_time=lambda: self._worked)
        monkeypatch.setattr(write_pace, "time", clock)

    def works(self, seconds: float) -> None:
        self._lived += seconds
        self._worked += seconds

    def rests(self, seconds: float) -> None:
        self._lived += seconds


class Writes:
    """Calls of callers, and which of them have begun."""

    def __init__(self) -> None:
        self.admission = CallAdmission(
            CallLimits(PLENTY, PLENTY, CallerLimits(500, PLENTY, PLENTY))
        )

    def begin(self, name: str, *, writes: bool = True) -> asyncio.Task[None]:
        return asyncio.create_task(self._call(name, writes))

    async def _call(self, name: str, writes: bool) -> None:
        (await self.admission.admit(self.admission.unary, name, writes=writes)).end()


async def begin(*calls: asyncio.Task[None]) -> None:
    """Wait until they have begun."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.wait(calls)


async def wait(*calls: asyncio.Task[None]) -> None:
    """Those that may begin would have had many times as long as they take to see it."""
    await asyncio.sleep(0.05)
    assert not any(each.done() for each in calls)


async def test_a_write_waits_until_the_loop_has_rested_from_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Most of what it takes comes after its answer, so the loop is looked at, and not the call."""
    monkeypatch.setattr(call_limits, "WRITES_A_SECOND", 1e6)
    loop, callers = Loop(monkeypatch), Writes()
    await begin(callers.begin("flooder"))
    loop.works(0.02)
    flood = [callers.begin("flooder") for _ in range(3)]
    others = [callers.begin("flooder", writes=False), callers.begin("other")]
    await begin(*others)
    await wait(*flood)
    loop.rests(0.01)
    await wait(*flood)
    flood[1].cancel()
    loop.rests(0.01)
    await begin(*flood)
    assert flood[1].cancelled()
    assert (len(callers.admission._busy), callers.admission._waiting_bytes) == (0, 0)


async def test_a_write_waits_only_a_moment_for_a_loop_that_never_rests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, callers = Loop(monkeypatch), Writes()
    await callers.begin("busy")
    loop.works(0.04)
    later = callers.begin("busy")
    await wait(later)
    loop.works(0.02)
    await begin(later)


async def test_few_writes_wait_for_a_loop_that_works_long_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They begin more slowly than their rate says, so it does not bound those that wait."""
    monkeypatch.setattr(call_limits, "WRITES_A_SECOND", 1e6)
    monkeypatch.setattr(call_limits, "MOST_WRITES_WAITING", 3)
    loop, callers = Loop(monkeypatch), Writes()
    await callers.begin("flooder")
    loop.works(0.03)
    flood = [callers.begin("flooder") for _ in range(4)]
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.wait(flood[3:])
    await wait(*flood[:3])
    with pytest.raises(TooManyRequests, match="3 writes of this caller wait"):
        flood[3].result()
    flood[0].cancel()
    await asyncio.wait(flood[:1])
    later = callers.begin("flooder")
    await wait(later)
    loop.rests(0.04)
    await asyncio.gather(*flood[1:3], later)


class Waiting:
    """Writes of callers that wait for their turn for longer than a test takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stop_clock(monkeypatch)
        monkeypatch.setattr(call_limits, "WRITES_A_SECOND", 1 / PATIENCE_SECONDS / 10)
        self.admission = CallAdmission(CallLimits(PLENTY, PLENTY, CallerLimits(20, 20, 20)))
        self._tasks: list[asyncio.Task[AdmittedCall]] = []

    async def outcome(self, name: str, **given: Any) -> str:
        admitting = self.admission.admit(self.admission.unary, name, writes=True, **given)
        self._tasks.append(task := asyncio.create_task(admitting))
        await asyncio.sleep(0)
        if not task.done():
            return "waits"
        return str(task.exception() or "admitted")

    async def leave(self) -> None:
        """Those that wait leave, and the others end."""
        for task in self._tasks:
            if task.cancel():
                continue
            if not task.exception():
                task.result().end()
        await asyncio.wait(self._tasks)
        self._tasks.clear()
        waiting = self.admission._waiting_bytes
        assert (self.admission.unary.open, len(self.admission._busy), waiting) == (0, 0, 0)


async def test_a_call_that_leaves_gives_its_turn_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_limits, "MOST_WRITES_WAITING", 2)
    waiting = Waiting(monkeypatch)
    assert await waiting.outcome("a") == "admitted"
    for _ in range(2):
        assert [await waiting.outcome("a") for _ in range(2)] == ["waits"] * 2
        assert "2 writes of this caller wait" in await waiting.outcome("a")
        await waiting.leave()


async def test_a_call_whose_deadline_comes_before_its_turn_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = Waiting(monkeypatch)
    turn = 10 * PATIENCE_SECONDS
    assert await waiting.outcome("a", time_remaining=lambda: 0.1) == "admitted"
    assert "its deadline" in await waiting.outcome("a", time_remaining=lambda: turn - 1)
    assert await waiting.outcome("a", time_remaining=lambda: turn + 1) == "waits"
    assert await waiting.outcome("a", time_remaining=lambda: None) == "waits"
    await waiting.leave()


async def test_the_calls_of_a_caller_that_wait_hold_a_share_of_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(call_limits, "BYTES_OF_A_CALL", 2**10)
    monkeypatch.setattr(call_limits, "MOST_WAITING_BYTES_OF_CALLER", 2**20)
    monkeypatch.setattr(call_limits, "MOST_WAITING_BYTES", 7 * 2**19)
    waiting = Waiting(monkeypatch)
    half = 2**19 - 2**10
    for name in ("flooder", "large", "other"):
        assert await waiting.outcome(name, request_bytes=half) == "admitted"
    assert [await waiting.outcome("flooder", request_bytes=half) for _ in range(2)] == ["waits"] * 2
    assert "limit of each caller" in await waiting.outcome("flooder", request_bytes=half)
    # One of them may be larger than the share.
    assert await waiting.outcome("large", request_bytes=2**21) == "waits"
    assert "limit of each caller" in await waiting.outcome("large", request_bytes=half)
    assert "limit of this server" in await waiting.outcome("other", request_bytes=2**20)
    await waiting.leave()


async def test_the_refusals_of_a_flood_are_held_as_long_as_they_take_little_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop_clock(monkeypatch)
    monkeypatch.setattr(call_limits, "PROMPT_REFUSALS", 0.001)
    monkeypatch.setattr(call_limits, "PROMPT_AT_ONCE", 5)
    monkeypatch.setattr(call_limits, "MOST_HELD_SECONDS", 10 * PATIENCE_SECONDS)
    monkeypatch.setattr(call_limits, "LEAST_HELD_SECONDS", 10 * PATIENCE_SECONDS)
    monkeypatch.setattr(call_limits, "MOST_HELD_BYTES", 2 * 2**20)
    monkeypatch.setattr(call_limits, "_SUMMED_SECONDS", 10 * PATIENCE_SECONDS)
    refused = RefusedCalls()

    async def answered(calls: int) -> set[asyncio.Task[None]]:
        adding = [refused.add(ErrorReason.TOO_MANY_REQUESTS, 2**20 - 2**15) for _ in range(calls)]
        tasks = [asyncio.create_task(each) for each in adding]
        await asyncio.sleep(0)
        held.update(task for task in tasks if not task.done())
        return {task for task in tasks if task.done()}

    held: set[asyncio.Task[None]] = set()
    assert (len(await answered(5)), len(held)) == (5, 0)
    assert (len(await answered(10)), len(held)) == (8, 2)
    # Those whose clients leave make room.
    for task in held:
        task.cancel()
    await asyncio.wait(held)
    held.clear()
    assert (len(await answered(1)), len(held)) == (0, 1)
    # A stop waits for none.
    with capture_logs() as logged:
        refused.release()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*held)
    assert [(line["event"], line["calls"]) for line in logged] == [("calls refused", 16)]


def test_refusals_are_held_the_longer_the_more_there_are() -> None:
    refused = RefusedCalls()
    for held, least, most in ((0, 0.5, 1.5), (800, 2.0, 6.0), (100_000, 5.0, 15.0)):
        refused._held = held
        delays = [refused._delay() for _ in range(100)]
        assert least <= min(delays) < max(delays) <= most


def test_large_requests_of_callers_that_are_not_authenticated_yet_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(call_limits, "MOST_ARRIVING_BYTES", 2**21)
    arriving = ArrivingRequests()
    with ExitStack() as waiting:
        for known in (False, True):
            for _ in range(2):
                waiting.enter_context(arriving.counted(2**20, known=known))
            with pytest.raises(TooManyRequests):
                waiting.enter_context(arriving.counted(2**20, known=known))
            for _ in range(100):
                waiting.enter_context(arriving.counted(2**15, known=known))
    with arriving.counted(2**21, known=False):
        pass


class SlowReviews:
    """An API server that knows `root`, and does not answer for other tokens until `released`."""

    def __init__(self) -> None:
        self.waiting = 0
        self.released = threading.Event()

    async def caller_of(self, token: BearerToken) -> Caller | None:
        if token.reveal() == "root":
            return Caller("root")
        self.waiting += 1
        await asyncio.to_thread(self.released.wait, PATIENCE_SECONDS)
        return None

    async def allows(self, caller: Caller, access: Access) -> bool:
        return True


def test_large_requests_with_unknown_tokens_keep_no_known_caller_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(call_limits, "MOST_ARRIVING_BYTES", 2**18)
    reviews: Any = SlowReviews()
    identities = KubernetesIdentities(reviews, "modelservice", timedelta(hours=1))
    with (
        serving(settings(), identities=identities) as served,
        grpc.insecure_channel(served.address) as channel,
    ):
        served.wait_until_synced()
        root = Client(channel, "Bearer root")
        root.models.List(ListRequest())
        large = deploy("large", annotations={"note": "x" * 120_000})
        garbage = [Client(channel, f"Bearer garbage-{n}") for n in range(2)]
        waiting = [each.models.Deploy.future(large) for each in garbage]
        try:
            eventually("their requests wait", lambda: reviews.waiting == len(garbage))
            assert refused_for_now(lambda: root.models.Deploy(large)) is None
        finally:
            reviews.released.set()
        for each in waiting:
            error: Any = each.exception()
            assert error.code() is StatusCode.UNAUTHENTICATED


@pytest.mark.processes
def test_calls_without_a_valid_token_are_summed_up_in_the_log(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(entry("other", namespaces={"*": "admin"}))
    given = {"MODELSERVICE_AUTH": "tokens", "MODELSERVICE_TOKENS_FILE": str(file)}
    with alone(MODELSERVICE_STOP_DELAY="0", **given) as server:
        with grpc.insecure_channel(server.address) as channel:
            for number in range(50):
                garbage = Client(channel, f"Bearer garbage-{number}")
                with pytest.raises(grpc.RpcError):
                    garbage.models.List(ListRequest())

            def counted() -> int:
                return sum(line["calls"] for line in server.events("calls refused"))

            eventually("all are counted", lambda: counted() == 50)
        assert server.stop() == 0
    assert {line["reason"] for line in server.events("calls refused")} == {"UNAUTHENTICATED"}
    assert not [call for call in server.events("call") if call["level"] != "debug"]


class Pinging(Connection):
    """A connection that knows when the server has received all that was sent."""

    async def received(self) -> None:
        self.acknowledged = asyncio.Event()
        self.send(frame(PING, 0, 0, b"received"))
        await self.acknowledged.wait()

    def _take(self, frames: Iterable[Frame]) -> None:
        taken = list(frames)
        if any(kind == PING and flags & ACK for kind, flags, _, _ in taken):
            self.acknowledged.set()
        super()._take(taken)


async def test_a_get_does_not_wait_for_the_deploys_that_came_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    admit = CallAdmission.admit

    async def admitted(
        self: CallAdmission, kind: CallKind, name: str, **others: Any
    ) -> AdmittedCall:
        order.append(name)
        return await admit(self, kind, name, **others)

    monkeypatch.setattr(CallAdmission, "admit", admitted)
    contents = deploy("contended").SerializeToString(), GetRequest(name="x").SerializeToString()
    with world(tmp_path) as (served, *_):
        resumed = threading.Event()
        served._loop.call_soon_threadsafe(resumed.wait, PATIENCE_SECONDS)
        async with asyncio.timeout(PATIENCE_SECONDS):
            connection = await Pinging.to(served.address, Counter())
            for method, user, content in (
                *[("Deploy", "flooder", contents[0])] * 100,
                ("Get", "other", contents[1]),
            ):
                authorization = ("authorization", f"Bearer {token_of(user)}")
                connection.call(f"/modelservice.v1.ModelService/{method}", content, authorization)
            await connection.received()
            resumed.set()
            await connection.answered()
        connection.close()
    assert order.count("flooder") == 100
    # gRPC takes them in turn, and has taken some when the last one has come.
    assert order.index("other") < 50
