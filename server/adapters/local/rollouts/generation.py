"""One generation of a service: one model server, restarted after each failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import structlog

from server.adapters.local.model_files.fetcher import FetchFailed, Progress
from server.adapters.local.proxy.reverse_proxy import ProbeResult, Upstream
from server.adapters.local.rollouts.failure_messages import (
    AttemptFailed,
    Crashed,
    PortLost,
    crash_failure,
    deadline_failure,
    failure,
    load_failure,
    reports_port_taken,
    start_failure,
    unanswering_failure,
    unready_failure,
)
from server.adapters.local.rollouts.generation_status import GenerationStatus
from server.adapters.local.rollouts.load_limiter import LoadSlot
from server.adapters.local.rollouts.model_server_run import ModelServerConfig, Run, running
from server.adapters.local.runtimes.runtimes import NoRuntime, ServingRuntime
from server.adapters.local.state_dir import discard
from server.adapters.local.stored_service import GenerationSpec
from server.domain.rollout.facts import Problem
from server.domain.rollout.status import Failure, FailureReason

POLL_SECONDS = 0.1
# Unready answers in a row before the log is read, which takes longer than a poll.
UNREADY_POLLS = 10
# As a readiness probe's failure threshold: one answer may be late under load.
PROBES_MISSED = 3
PORT_TRIES = 5

log = structlog.get_logger(__name__)


class Generation:
    """Keeps one model server running from `run` until that is cancelled.

    `upstream` is the server while it is ready. `changed` is called at each change of `status` and
    `upstream`.
    """

    def __init__(
        self,
        spec: GenerationSpec,
        folder: Path,
        config: ModelServerConfig,
        changed: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.status = GenerationStatus(spec.generation)
        self.upstream: Upstream | None = None
        self._folder = folder
        self._config = config
        self._changed = changed
        self._failures = 0
        self._ports_lost = 0
        self._attempt = asyncio.timeout(None)
        self._fetch_anew = False

    async def run(self) -> NoReturn:
        """Serve until cancelled. No process of the generation is left then."""
        while True:
            try:
                async with asyncio.timeout(None) as self._attempt:
                    await self._try()
            except TimeoutError:
                if not self._attempt.expired():
                    raise
                if self._fetch_anew:
                    await asyncio.to_thread(discard, self._folder / "model")

    def retry_now(self, *, fetch_anew: bool) -> None:
        """Retry a failed generation at once, with its failures forgotten. Others go on.

        `fetch_anew`: download the model again, since its source may have been corrected.
        """
        problem = self.status.problem
        failed = problem is not None and problem.fails_at is not None
        if failed and not self.upstream and self._attempt.when() is None:
            self._attempt.reschedule(asyncio.get_running_loop().time())
            self._fetch_anew = fetch_anew
            self._failures = 0
            # At once: the caller waits for this rollout, which has not failed yet.
            self._update(problem=None, activity="starting again", retried_at=_now())

    async def delete_files(self) -> None:
        """Delete the files of the generation."""
        await asyncio.to_thread(discard, self._folder)

    async def _try(self) -> None:
        """Make one attempt, and wait before the next."""
        try:
            await self._serve()
        except PortLost:
            self._ports_lost += 1
        except AttemptFailed as e:
            await asyncio.sleep(self._report(e).total_seconds())

    async def _serve(self) -> NoReturn:
        """Make one attempt, until it ends. Raises AttemptFailed or PortLost."""
        self._update(begun=True, activity="choosing a serving runtime")
        runtime = await self._runtime()
        self._update(runtime=runtime.name)
        model = await self._fetched()
        self._update(activity="waiting for its turn to load the model")
        folder = self._folder / "run"
        async with self._config.load_limiter.slot() as slot:
            self._update(activity="loading the model")
            async with running(self.spec, runtime, model, folder, self._config) as run:
                await self._until_ready(run, slot)
                await self._until_exit(run)

    async def _runtime(self) -> ServingRuntime:
        try:
            return await self._config.runtimes.select(self.spec.model, self._config.python)
        except NoRuntime as e:
            raise AttemptFailed(failure(FailureReason.NO_RUNTIME, e.message, e.remedy)) from e
        except OSError as e:
            raise AttemptFailed(start_failure(e)) from e

    async def _fetched(self) -> Path | None:
        uri = self.spec.model.storage_uri
        if not uri:
            return None
        self._update(activity="downloading the model")
        try:
            return await self._config.fetch(uri, self._folder / "model", self._report_progress)
        except FetchFailed as e:
            raise AttemptFailed(failure(e.reason, e.message, e.remedy)) from e

    def _report_progress(self, progress: Progress) -> None:
        self._update(activity=f"downloading the model: {progress}")

    async def _until_ready(self, run: Run, slot: LoadSlot) -> None:
        """Poll until the model is ready, the server exits, or the progress deadline passes."""
        # A rollout that has failed at its ready_timeout may be ready later.
        timeout = max(
            self._config.timeouts.progress_deadline, self.spec.spec.ready_timeout or timedelta(0)
        )
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                unready, loaded = 0, False
                while (answer := await run.probe()) is not ProbeResult.READY:
                    unready += answer is ProbeResult.LOADING
                    if loaded and unready == UNREADY_POLLS:
                        await self._report_unready(run)
                    if not loaded and unready == UNREADY_POLLS:
                        # Some servers answer long before they have loaded.
                        unready, loaded = 0, await run.has_loaded()
                    if (code := await run.process.exited_within(POLL_SECONDS)) is not None:
                        lines = await run.log_lines()
                        if reports_port_taken(lines) and self._ports_lost < PORT_TRIES:
                            raise PortLost
                        raise AttemptFailed(load_failure(code, lines))
        except TimeoutError:
            raise AttemptFailed(deadline_failure(timeout, await run.log_lines())) from None
        slot.release()
        self._report_ready(run)

    async def _report_unready(self, run: Run) -> None:
        """Report that the load ended without a ready model, which may still change."""
        found = self._with_history(unready_failure(await run.log_lines()))
        self._update(problem=Problem(found, _now(), self._config.timeouts.unready))

    def _report_ready(self, run: Run) -> None:
        now = _now()
        again = self.status.completed_at is not None
        self._failures = self._failures if again else 0
        self._ports_lost = 0
        self.upstream = run.upstream
        self._update(
            ready=True,
            activity="serving",
            completed_at=self.status.completed_at or now,
            unavailable_since=None,
            stable_at=now + self._config.timeouts.stable if again else None,
            problem=self.status.problem if again else None,
        )

    async def _until_exit(self, run: Run) -> NoReturn:
        """Probe the server until it exits. Raises Crashed."""
        async with asyncio.TaskGroup() as tasks:
            probing = tasks.create_task(self._probe(run), name=f"probe of {self.spec.key}")
            code = await self._exit_code(run)
            # First of all, so that no request goes where nothing listens.
            self.upstream = None
            probing.cancel()
            self._update(ready=False, activity="starting again", unavailable_since=_now())
        raise Crashed(crash_failure(code, await run.log_lines()))

    async def _exit_code(self, run: Run) -> int:
        """Wait for the exit. Meanwhile the server becomes stable, and its crashes are reset."""
        stable, reset = self._config.timeouts.stable, self._config.timeouts.crash_reset
        code = await run.process.exited_within(stable.total_seconds())
        if code is None:
            problem = None if self.status.ready else self.status.problem
            self._update(stable_at=None, problem=problem)
            code = await run.process.exited_within((reset - stable).total_seconds())
        if code is None:
            self._failures = 0
            code = await run.process.exited()
        return code

    async def _probe(self, run: Run) -> NoReturn:
        """Probe a ready server: it can hang, or give up its model, without an exit."""
        missed = 0
        while True:
            await asyncio.sleep(self._config.timeouts.probe.total_seconds())
            answer = await run.probe()
            missed = 0 if answer is ProbeResult.READY else missed + 1
            if missed == PROBES_MISSED:
                await self._stop_traffic(run, answer)
            elif not missed and not self.status.ready:
                self._resume_traffic(run)

    async def _stop_traffic(self, run: Run, answer: ProbeResult) -> None:
        found = self._with_history(unanswering_failure(answer, await run.log_lines()))
        self.upstream = None
        self._update(
            ready=False,
            activity=found.message,
            unavailable_since=_now(),
            problem=Problem(found, _now(), None),
        )

    def _resume_traffic(self, run: Run) -> None:
        self.upstream = run.upstream
        self._update(ready=True, activity="serving", unavailable_since=None, problem=None)

    def _report(self, failed: AttemptFailed) -> timedelta:
        """Report a failure, and return the wait before the next attempt."""
        timeouts = self._config.timeouts
        self._failures += 1
        # A server that was ready is restarted at once after its first crash.
        once = isinstance(failed, Crashed) and self._failures == 1
        wait = timedelta(0) if once else timeouts.before_retry(self._failures)
        found = self._with_history(failed.failure)
        self._update(
            activity=f"trying again in {wait.total_seconds():.0f} s" if wait else "starting again",
            problem=Problem(found, _now(), None if once else timedelta(0)),
        )
        log.warning(
            "failed",
            service=str(self.spec.key),
            generation=self.spec.generation,
            reason=found.reason.value,
            exit_code=found.exit_code,
            retry_in=wait.total_seconds(),
        )
        return wait

    def _with_history(self, found: Failure) -> Failure:
        """Return the failure with its count of restarts and the time of its first occurrence."""
        before = self.status.problem
        since = before.failure.first_seen_time if before else None
        restarts = max(self._failures - 1, 0)
        return replace(found, restart_count=restarts, first_seen_time=since or _now())

    def _update(self, **changes: object) -> None:
        self.status = replace(self.status, **changes)  # type: ignore[arg-type]
        self._changed()


def _now() -> datetime:
    return datetime.now(UTC)
