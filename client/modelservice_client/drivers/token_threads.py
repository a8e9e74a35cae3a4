"""Make the tokens of calls in threads: a file may be on a disk that hangs, a function may wait."""

from __future__ import annotations

import errno
import threading
from collections import deque
from concurrent.futures import Future
from contextvars import Context, copy_context

from modelservice_client.credentials import Metadata, Token

# They end when there is nothing to make. One that hangs stays until its file or function answers.
_MOST_THREADS = 16


class TokenThreads:
    """The threads that make the tokens of a channel's calls. The program ends without them.

    A function may look at whom its call is for. So it is called once for each call, with the
    context variables of that call.
    """

    def __init__(self, token: Token) -> None:
        self._token = token
        # A garbage collection may make a call, in the middle of `ask`.
        self._lock = threading.RLock()
        self._asked: deque[tuple[Future[Metadata], Context]] = deque()
        self._threads = 0

    def ask(self) -> Future[Metadata]:
        """Return what `Token.metadata` will return for a call. Cancel it to wait no longer.

        Raises OSError if no thread can be started.
        """
        asked: Future[Metadata] = Future()
        with self._lock:
            # Calls that have given up: their number would grow while every thread hangs.
            while self._asked and self._asked[0][0].cancelled():
                self._asked.popleft()
            if self._threads < _MOST_THREADS:
                thread = threading.Thread(target=self._make, name="modelservice-token", daemon=True)
                try:
                    thread.start()
                    self._threads += 1
                except RuntimeError as error:
                    if not self._threads:
                        raise OSError(
                            errno.EAGAIN, "no thread can be started", self._token.source
                        ) from error
            self._asked.append((asked, copy_context()))
        return asked

    def _make(self) -> None:
        while True:
            with self._lock:
                if not self._asked:
                    self._threads -= 1
                    return
                asked, context = self._asked.popleft()
            if asked.set_running_or_notify_cancel():
                try:
                    asked.set_result(context.run(self._token.metadata))
                except BaseException as error:
                    asked.set_exception(error)
