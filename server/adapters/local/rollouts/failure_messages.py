"""The failures of an attempt to serve a model, and their messages."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from server.adapters.local.processes.exec_wrapper import NOT_STARTED, NOT_STARTED_WORDS
from server.adapters.local.proxy.port_allocator import NoPortFree
from server.adapters.local.proxy.reverse_proxy import ProbeResult
from server.domain.rollout.container_output import OutputGate
from server.domain.rollout.failures import failure_of
from server.domain.rollout.log_excerpt import cause_line, excerpt_of, plain_lines, without_shutdown
from server.domain.rollout.status import Component, Failure, FailureReason

_PORT_TAKEN = os.strerror(errno.EADDRINUSE).lower()
_SIGNALLED = 128
_NO_ROOM_ON_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EACCES)

MODEL_REMEDY = "check that the model's files are whole and fit the format and the runtime's version"


class AttemptFailed(Exception):
    """An attempt to serve failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Crashed(AttemptFailed):
    """A ready server exited."""


class PortLost(Exception):
    """Another process took the port before the model server listened."""


def failure(reason: FailureReason, message: str, remedy: str) -> Failure:
    """Return a failure of the predictor, with the remedy for this machine."""
    return failure_of(reason, message, remedy=remedy, component=Component.PREDICTOR)


def load_failure(code: int, lines: Sequence[str]) -> Failure:
    """Return the failure of a server that exited before it was ready, also with code 0."""
    if code == NOT_STARTED and lines and lines[-1].startswith(NOT_STARTED_WORDS):
        remedy = "install what the runtime's command names, or correct its row; then deploy again"
        found = failure(FailureReason.NO_RUNTIME, lines[-1], remedy)
        return _with_log(replace(found, container_text=lines[-1]), lines, code)
    message = f"the model server {_ended(code)} before its model was ready"
    found = failure(FailureReason.MODEL_LOAD, message, MODEL_REMEDY)
    if why := cause_line(lines):
        found = replace(found, message=f"{message}: {why}", container_text=why)
    return _with_log(found, lines, code)


def crash_failure(code: int, lines: Sequence[str]) -> Failure:
    """Return the failure of a ready server that exited."""
    message = f"the model server {_ended(code)} while its model was ready"
    remedy = "see the log lines for the cause"
    return _with_log(failure(FailureReason.CRASH_LOOP, message, remedy), lines, code)


def unready_failure(lines: Sequence[str]) -> Failure:
    """Return the failure of a server that ended its load and is not ready."""
    message = "the model server runs, and reports that its model is not ready"
    return _with_log(failure(FailureReason.MODEL_LOAD, message, MODEL_REMEDY), lines, None)


def unanswering_failure(answer: ProbeResult, lines: Sequence[str]) -> Failure:
    """Return the failure of a server that was ready and is no longer."""
    silent = answer is ProbeResult.NOTHING
    now = "does not answer" if silent else "reports that its model is not ready"
    message = f"the model server was ready, and now {now}"
    remedy = "it serves again once it is ready; deploy with restart: true to restart it"
    return _with_log(failure(FailureReason.NOT_ANSWERING, message, remedy), lines, None)


def deadline_failure(deadline: timedelta, lines: Sequence[str]) -> Failure:
    """Return the failure of a server that was ended at the progress deadline."""
    message = f"the model was not ready within {deadline.total_seconds():g} s"
    remedy = (
        "see the log lines; spec.ready_timeout gives a slow model more time, and"
        " MODELSERVICE_PROGRESS_DEADLINE all of them"
    )
    return _with_log(failure(FailureReason.PROGRESS_DEADLINE, message, remedy), lines, None)


def start_failure(e: OSError) -> Failure:
    """Return the failure to write a server's files or to start its process."""
    message = f"the model server cannot be started: {e.strerror}"
    if e.errno == errno.E2BIG:
        remedy = "shorten spec.env and the arguments; together they are too long for a process"
        return failure(FailureReason.CONTAINER_CONFIG, message, remedy)
    if e.errno in _NO_ROOM_ON_DISK:
        return failure(FailureReason.VOLUME, message, "free disk space on this machine")
    if e.filename and e.errno in _ABSENT:
        message = f"{message}: {os.fsdecode(e.filename)}"
        remedy = "restore it; if it is of the server's own Python, restart the server too"
    else:
        remedy = "free memory on this machine, or raise its limits of processes and open files"
    return failure(FailureReason.UNSCHEDULABLE, message, remedy)


def port_failure(e: NoPortFree) -> Failure:
    """Return the failure to allocate a port."""
    remedy = "end what listens on them, or set MODELSERVICE_SERVING_PORTS to others"
    return failure(FailureReason.NOT_ANSWERING, str(e.strerror), remedy)


def shown_lines(text: str, noise: Sequence[str], output: OutputGate) -> list[str]:
    """Return the lines of a server's output, without those about our own probes."""
    lines = plain_lines(output.shown(text))
    return [line for line in lines if not any(mark in line for mark in noise)]


def reports_port_taken(lines: Sequence[str]) -> bool:
    """Report whether the server's output says that its port is taken."""
    return any(_PORT_TAKEN in line.lower() for line in lines)


def _with_log(found: Failure, lines: Sequence[str], code: int | None) -> Failure:
    return replace(found, log_lines=excerpt_of(without_shutdown(lines)), exit_code=code)


def _ended(code: int) -> str:
    if code <= _SIGNALLED:
        return f"exited with {code}"
    number = code - _SIGNALLED
    known = number in {s.value for s in signal.Signals}
    name = signal.Signals(number).name if known else f"signal {number}"
    # The kernel's out-of-memory killer sends it, without a message.
    return f"was killed by {name}" + (", perhaps for want of memory" if number == 9 else "")
