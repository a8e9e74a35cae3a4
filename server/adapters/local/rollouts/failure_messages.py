"""What went wrong with one attempt to serve a model, in words."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from server.adapters.local.processes.exec_wrapper import NOT_STARTED, NOT_STARTED_WORDS
from server.adapters.local.proxy.port_allocator import NoPortFree
from server.adapters.local.proxy.reverse_proxy import Answer
from server.domain.rollout.container_output import OutputGate
from server.domain.rollout.failures import failure_of
from server.domain.rollout.log_excerpt import cause_line, excerpt_of, plain_lines, without_shutdown
from server.domain.rollout.status import Component, Failure, FailureReason

_PORT_TAKEN = os.strerror(errno.EADDRINUSE).lower()
_SIGNALLED = 128
_NO_ROOM_ON_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)

MODEL_REMEDY = "check that the model's files are whole and fit the format and the runtime's version"


class Failed(Exception):
    """An attempt came to nothing."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Crashed(Failed):
    """A server that was ready has exited."""


class PortLost(Exception):
    """Another process took the port before the model server had it."""


def failure(reason: FailureReason, message: str, remedy: str) -> Failure:
    """Report what is wrong with a model server, and what to do on this machine."""
    return failure_of(reason, message, remedy=remedy, component=Component.PREDICTOR)


def not_loaded(code: int, words: Sequence[str]) -> Failure:
    """The server exited before its model was ready; MLServer does that with 0 too."""
    if code == NOT_STARTED and words and words[-1].startswith(NOT_STARTED_WORDS):
        remedy = "install what the runtime's command names, or correct its row; then deploy again"
        return _from_words(failure(FailureReason.NO_RUNTIME, words[-1], remedy), words, code)
    message = f"the model server {_ended(code)} before its model was ready"
    if why := cause_line(words):
        message += f": {why}"
    return _from_words(failure(FailureReason.MODEL_LOAD, message, MODEL_REMEDY), words, code)


def crashed(code: int, words: Sequence[str]) -> Failure:
    """The server exited after its model was ready."""
    message = f"the model server {_ended(code)} while its model was ready"
    remedy = "see the log lines for why it ends"
    return _from_words(failure(FailureReason.CRASH_LOOP, message, remedy), words, code)


def not_ready(words: Sequence[str]) -> Failure:
    """The server runs without its model."""
    message = "the model server runs, and says that its model is not ready"
    return _from_words(failure(FailureReason.MODEL_LOAD, message, MODEL_REMEDY), words, None)


def unanswering(answer: Answer, words: Sequence[str]) -> Failure:
    """The server runs, and no longer says that its model is ready."""
    told = "does not answer" if answer is Answer.NOTHING else "says that its model is not ready"
    message = f"the model server was ready, and now {told}"
    remedy = "it serves again once it says ready; deploy with restart: true to start it anew"
    return _from_words(failure(FailureReason.NOT_ANSWERING, message, remedy), words, None)


def too_slow(deadline: timedelta, words: Sequence[str]) -> Failure:
    """The server did not get there in time, and was ended."""
    message = f"the model was not ready within {deadline.total_seconds():g} s"
    remedy = "see the log lines; MODELSERVICE_PROGRESS_DEADLINE gives slow models more time"
    return _from_words(failure(FailureReason.PROGRESS_DEADLINE, message, remedy), words, None)


def unwritable(e: OSError) -> Failure:
    """The server's files could not be written, or its process not be started."""
    message = f"the model server cannot be started: {e.strerror}"
    if e.errno == errno.E2BIG:
        remedy = "shorten spec.env and the arguments; together they are too long for a process"
        return failure(FailureReason.CONTAINER_CONFIG, message, remedy)
    if e.errno in _NO_ROOM_ON_DISK:
        return failure(FailureReason.VOLUME, message, "free disk space on this machine")
    remedy = "free memory on this machine, or raise its limits of processes and open files"
    return failure(FailureReason.UNSCHEDULABLE, message, remedy)


def no_port(e: NoPortFree) -> Failure:
    """Nothing is left to listen on."""
    remedy = "end what listens on them, or let MODELSERVICE_SERVING_PORTS name others"
    return failure(FailureReason.NOT_ANSWERING, str(e.strerror), remedy)


def worth_showing(text: str, noise: Sequence[str], output: OutputGate) -> list[str]:
    """The lines of a server's output, but for those about our own questions to it."""
    lines = plain_lines(output.shown(text))
    return [line for line in lines if not any(mark in line for mark in noise)]


def says_port_taken(words: Sequence[str]) -> bool:
    """Whether the server could not have its port."""
    return any(_PORT_TAKEN in line.lower() for line in words)


def _from_words(found: Failure, words: Sequence[str], code: int | None) -> Failure:
    return replace(found, log_lines=excerpt_of(without_shutdown(words)), exit_code=code)


def _ended(code: int) -> str:
    if code <= _SIGNALLED:
        return f"exited with {code}"
    number = code - _SIGNALLED
    known = number in {s.value for s in signal.Signals}
    name = signal.Signals(number).name if known else f"signal {number}"
    # Linux ends so whoever has taken the last memory; nobody else says why.
    return f"was killed by {name}" + (", perhaps for want of memory" if number == 9 else "")
