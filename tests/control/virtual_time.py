"""An event loop in which waiting takes no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch


class _SkippingSelector(selectors.SelectSelector):
    """Returns at once, and moves the clock by the time that it would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "every task waits for another one"
        ready = super().select(0)
        if not ready:
            self.now += timeout
        return ready


class _VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _SkippingSelector()
        super().__init__(self._skipping)
        # A timer whose time has come by all but a rounding error would spin.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._skipping.now


def run_in_virtual_time(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in a loop of its own; deadlines of the server follow the loop's clock."""
    with asyncio.Runner(loop_factory=_VirtualTimeLoop) as runner:
        clock = SimpleNamespace(monotonic=runner.get_loop().time)
        with patch("server.deadline.time", clock):
            runner.run(main)
