"""One generation of a service: one model server at a time, tried again and again."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import structlog

from server.adapters.local.model_files.fetcher import FetchFailed, Progress
from server.adapters.local.proxy.reverse_proxy import Answer, Upstream
from server.adapters.local.rollouts.failure_messages import (
    Crashed,
    Failed,
    PortLost,
    crashed,
    failure,
    not_loaded,
    not_ready,
    says_port_taken,
    too_slow,
    unanswering,
    unwritable,
)
from server.adapters.local.rollouts.generation_status import Sight
from server.adapters.local.rollouts.load_limiter import Turn
from server.adapters.local.rollouts.model_server_run import Means, Run, running
from server.adapters.local.runtimes.runtimes import NoRuntime, ServingRuntime
from server.adapters.local.stored_service import Wish
from server.domain.rollout.facts import Problem
from server.domain.rollout.status import Failure, FailureReason

POLL_SECONDS = 0.1
# How often it is asked before its log is looked at, which takes longer.
UNREADY_POLLS = 10
# As a readiness probe's: one answer may be late under load.
PROBES_MISSED = 3
PORT_TRIES = 5

log = structlog.get_logger(__name__)


class Generation:
    """Keeps one model server up for one wish, while `run` runs.

    `sight` is how it stands, and `upstream` its server while that is ready; `changed` is called
    after each change of them.
    """

    def __init__(self, wish: Wish, folder: Path, means: Means, changed: Callable[[], None]) -> None:
        self.wish = wish
        self.sight = Sight(wish.generation)
        self.upstream: Upstream | None = None
        self._folder = folder
        self._means = means
        self._changed = changed
        self._failures = 0
        self._ports_lost = 0
        self._attempt = asyncio.timeout(None)
        self._fetch_anew = False

    async def run(self) -> NoReturn:
        """Serve until cancelled; then no process of it is left."""
        while True:
            try:
                async with asyncio.timeout(None) as self._attempt:
                    await self._try()
            except TimeoutError:
                if not self._attempt.expired():
                    raise
                await self._drop_model()

    def try_again(self, *, fetch_anew: bool) -> None:
        """Try at once, as if for the first time, what has failed; anything else goes on.

        `fetch_anew`: its model is fetched again, since its source may have been mended.
        """
        problem = self.sight.problem
        failed = problem is not None and problem.fails_at is not None
        if failed and not self.upstream and self._attempt.when() is None:
            self._attempt.reschedule(asyncio.get_running_loop().time())
            self._fetch_anew = fetch_anew
            self._failures = 0
            # By now: whoever asked for it follows a rollout that has not failed.
            self._see(problem=None, activity="starting again")

    async def forget(self) -> None:
        """Remove what it has on disk."""
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        # The service's folder goes with the last of its generations.
        with suppress(OSError):
            self._folder.parent.rmdir()

    async def _try(self) -> None:
        """One attempt, and the wait before the next."""
        try:
            await self._serve()
        except PortLost:
            self._ports_lost += 1
        except Failed as e:
            await asyncio.sleep(self._take(e).total_seconds())

    async def _drop_model(self) -> None:
        if self._fetch_anew:
            await asyncio.to_thread(shutil.rmtree, self._folder / "model", ignore_errors=True)

    async def _serve(self) -> NoReturn:
        """One attempt, until it ends. Raises Failed or PortLost."""
        self._see(begun=True, activity="choosing a serving runtime")
        runtime = await self._runtime()
        self._see(runtime=runtime.name)
        model = await self._fetched()
        self._see(activity="waiting for its turn to load the model")
        folder = self._folder / "run"
        async with self._means.turns.turn() as turn:
            self._see(activity="loading the model")
            async with running(self.wish, runtime, model, folder, self._means) as run:
                await self._until_ready(run, turn)
                await self._until_exit(run)

    async def _runtime(self) -> ServingRuntime:
        try:
            return await self._means.runtimes.select(self.wish.model, self._means.python)
        except NoRuntime as e:
            raise Failed(failure(FailureReason.NO_RUNTIME, e.message, e.remedy)) from e
        except OSError as e:
            raise Failed(unwritable(e)) from e

    async def _fetched(self) -> Path | None:
        uri = self.wish.model.storage_uri
        if not uri:
            return None
        self._see(activity="downloading the model")
        try:
            return await self._means.fetch(uri, self._folder / "model", self._tell_progress)
        except FetchFailed as e:
            raise Failed(failure(e.reason, e.message, e.remedy)) from e

    def _tell_progress(self, progress: Progress) -> None:
        self._see(activity=f"downloading the model: {progress}")

    async def _until_ready(self, run: Run, turn: Turn) -> None:
        deadline = self._means.patience.progress_deadline
        try:
            async with asyncio.timeout(deadline.total_seconds()):
                unready, loaded = 0, False
                while (answer := await run.answers()) is not Answer.READY:
                    unready += answer is Answer.LOADING
                    if loaded and unready == UNREADY_POLLS:
                        await self._note_unready(run)
                    if not loaded and unready == UNREADY_POLLS:
                        # Until then it is on its way: some answer long before they have loaded.
                        unready, loaded = 0, await run.has_loaded()
                    if (code := await run.process.exited_within(POLL_SECONDS)) is not None:
                        raise await self._exit_before_ready(run, code)
        except TimeoutError:
            raise Failed(too_slow(deadline, await run.words())) from None
        turn.give_back()
        self._become_ready(run)

    async def _note_unready(self, run: Run) -> None:
        """It may pass, although the load has ended."""
        found = self._about(not_ready(await run.words()))
        self._see(problem=Problem(found, _now(), self._means.patience.unready))

    async def _exit_before_ready(self, run: Run, code: int) -> Exception:
        words = await run.words()
        if says_port_taken(words) and self._ports_lost < PORT_TRIES:
            return PortLost()
        return Failed(not_loaded(code, words))

    def _become_ready(self, run: Run) -> None:
        now = _now()
        again = self.sight.completed_at is not None
        self._failures = self._failures if again else 0
        self._ports_lost = 0
        self.upstream = run.upstream
        self._see(
            ready=True,
            activity="serving",
            completed_at=self.sight.completed_at or now,
            unavailable_since=None,
            stable_at=now + self._means.patience.stable if again else None,
            problem=self.sight.problem if again else None,
        )

    async def _until_exit(self, run: Run) -> NoReturn:
        async with asyncio.TaskGroup() as tasks:
            probing = tasks.create_task(self._probe(run), name=f"probe of {self.wish.key}")
            code = await self._outlived(run)
            # Before anything else, so that no request is sent where nobody listens any more.
            self.upstream = None
            probing.cancel()
            self._see(ready=False, activity="starting again", unavailable_since=_now())
        raise Crashed(crashed(code, await run.words()))

    async def _outlived(self, run: Run) -> int:
        """Forgive what went wrong before with time; the code of the exit, once it comes."""
        stable, forgiven = self._means.patience.stable, self._means.patience.forgiven
        code = await run.process.exited_within(stable.total_seconds())
        if code is None:
            self._see(stable_at=None, problem=None if self.sight.ready else self.sight.problem)
            code = await run.process.exited_within((forgiven - stable).total_seconds())
        if code is None:
            self._failures = 0
            code = await run.process.exited()
        return code

    async def _probe(self, run: Run) -> NoReturn:
        """Ask it again and again: a server can hang, or give up its model, without an exit."""
        missed = 0
        while True:
            await asyncio.sleep(self._means.patience.probe.total_seconds())
            answer = await run.answers()
            missed = 0 if answer is Answer.READY else missed + 1
            if missed == PROBES_MISSED:
                await self._take_out(run, answer)
            elif not missed and not self.sight.ready:
                self._put_back(run)

    async def _take_out(self, run: Run, answer: Answer) -> None:
        found = self._about(unanswering(answer, await run.words()))
        self.upstream = None
        self._see(
            ready=False,
            activity=found.message,
            unavailable_since=_now(),
            problem=Problem(found, _now(), None),
        )

    def _put_back(self, run: Run) -> None:
        self.upstream = run.upstream
        self._see(ready=True, activity="serving", unavailable_since=None, problem=None)

    def _take(self, failed: Failed) -> timedelta:
        """Show what went wrong, and answer how long to wait."""
        patience = self._means.patience
        self._failures += 1
        # Whoever has served may have bad luck once; before that, it is the model's fault.
        once = isinstance(failed, Crashed) and self._failures == 1
        wait = timedelta(0) if once else patience.before_retry(self._failures)
        found = self._about(failed.failure)
        self._see(
            activity=f"trying again in {wait.total_seconds():.0f} s" if wait else "starting again",
            problem=Problem(found, _now(), None if once else timedelta(0)),
        )
        log.warning(
            "failed",
            service=str(self.wish.key),
            generation=self.wish.generation,
            reason=found.reason.value,
            exit_code=found.exit_code,
            retry_in=wait.total_seconds(),
        )
        return wait

    def _about(self, found: Failure) -> Failure:
        """The failure, with how often and since when there is one."""
        before = self.sight.problem
        since = before.failure.first_seen_time if before else None
        restarts = max(self._failures - 1, 0)
        return replace(found, restart_count=restarts, first_seen_time=since or _now())

    def _see(self, **changes: object) -> None:
        self.sight = replace(self.sight, **changes)  # type: ignore[arg-type]
        self._changed()


def _now() -> datetime:
    return datetime.now(UTC)
