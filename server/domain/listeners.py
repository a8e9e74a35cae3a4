"""Callbacks that are called at every change."""

from __future__ import annotations

from collections.abc import Callable


class Listeners:
    """Callbacks, all called in the event loop's thread, in the order in which they were added."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []

    def add(self, changed: Callable[[], None]) -> None:
        """Call `changed` at every change from now on."""
        self._callbacks.append(changed)

    def notify(self) -> None:
        """Call every callback."""
        for changed in self._callbacks:
            changed()
