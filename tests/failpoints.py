"""Failpoints of this process, armed for the length of a block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import get_args

from server import failpoints

NAMES: tuple[failpoints.Name, ...] = get_args(failpoints.Name)


@contextmanager
def armed(name: failpoints.Name, action: Callable[[], None]) -> Iterator[None]:
    assert name in NAMES, f"{name} is no failpoint"
    failpoints.arm(name, action)
    try:
        yield
    finally:
        failpoints.disarm(name)
