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

from server.adapters.local.addresses.proxying import Answer, Upstream
from server.adapters.local.generations.failing import (
    Crashed,
    Failed,
    PortLost,
    crashed,
    failure,
    not_loaded,
    not_ready,
    says_port_taken,
    too_slow,
)
from server.adapters.local.generations.running import Means, Run, running
from server.adapters.local.generations.sights import Sight
from server.adapters.local.generations.turns import Turn
from server.adapters.local.models.fetching import FetchFailed, Progress
from server.adapters.local.records import Wish
from server.adapters.local.runtimes.runtimes import NoRuntime, ServingRuntime
from server.domain.facts import Problem
from server.domain.status import Failure, FailureReason

POLL_SECONDS = 0.1
# MLServer answers for a moment before it ends because of a model that it could not load.
UNREADY_POLLS = 10
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
        if self.sight.problem and not self.upstream and self._attempt.when() is None:
            self._attempt.reschedule(asyncio.get_running_loop().time())
            self._fetch_anew = fetch_anew
            self._failures = 0
            # By now: whoever asked for it follows a rollout that has not failed.
            self._see(problem=None, doing="starting again")

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
        self._see(begun=True, doing="choosing a serving runtime")
        runtime = await self._runtime()
        self._see(runtime=runtime.name)
        model = await self._fetched()
        self._see(doing="waiting for its turn to load the model")
        folder = self._folder / "run"
        async with self._means.turns.turn() as turn:
            self._see(doing="loading the model")
            async with running(self.wish, runtime, model, folder, self._means) as run:
                await self._until_ready(run, turn)
                await self._until_exit(run)

    async def _runtime(self) -> ServingRuntime:
        try:
            return await self._means.runtimes.select(self.wish.model, self._means.python)
        except NoRuntime as e:
            raise Failed(failure(FailureReason.NO_RUNTIME, e.message, e.remedy)) from e

    async def _fetched(self) -> Path | None:
        uri = self.wish.model.storage_uri
        if not uri:
            return None
        self._see(doing="downloading the model")
        try:
            return await self._means.fetch(uri, self._folder / "model", self._tell_progress)
        except FetchFailed as e:
            raise Failed(failure(e.reason, e.message, e.remedy)) from e

    def _tell_progress(self, progress: Progress) -> None:
        self._see(doing=f"downloading the model: {progress}")

    async def _until_ready(self, run: Run, turn: Turn) -> None:
        deadline = self._means.patience.progress_deadline
        try:
            async with asyncio.timeout(deadline.total_seconds()):
                unready = 0
                while (answer := await run.answers()) is not Answer.READY:
                    unready += answer is Answer.LOADING
                    if unready == UNREADY_POLLS:
                        await self._note_unready(run)
                    if (code := await run.process.exited_within(POLL_SECONDS)) is not None:
                        raise await self._exit_before_ready(run, code)
        except TimeoutError:
            raise Failed(too_slow(deadline, await run.words())) from None
        turn.give_back()
        self._become_ready(run)

    async def _note_unready(self, run: Run) -> None:
        """It may pass: some servers answer before they have loaded."""
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
            doing="serving",
            completed_at=self.sight.completed_at or now,
            unavailable_since=None,
            steady_at=now + self._means.patience.steady if again else None,
            problem=self.sight.problem if again else None,
        )

    async def _until_exit(self, run: Run) -> NoReturn:
        steady, forgiven = self._means.patience.steady, self._means.patience.forgiven
        code = await run.process.exited_within(steady.total_seconds())
        if code is None:
            self._see(steady_at=None, problem=None)
            code = await run.process.exited_within((forgiven - steady).total_seconds())
        if code is None:
            self._failures = 0
            code = await run.process.exited()
        # Before anything else, so that no request is sent where nobody listens any more.
        self.upstream = None
        self._see(ready=False, doing="starting again", unavailable_since=_now())
        raise Crashed(crashed(code, await run.words()))

    def _take(self, failed: Failed) -> timedelta:
        """Show what went wrong, and answer how long to wait."""
        patience = self._means.patience
        self._failures += 1
        # Whoever has served may have bad luck once; before that, it is the model's fault.
        once = isinstance(failed, Crashed) and self._failures == 1
        wait = timedelta(0) if once else patience.before_retry(self._failures)
        found = self._about(failed.failure)
        self._see(
            doing=f"trying again in {wait.total_seconds():.0f} s" if wait else "starting again",
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
