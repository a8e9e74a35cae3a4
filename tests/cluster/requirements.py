"""Tests that need what a machine may not have: left out with a reason, except in CI."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from lab import BuildFailed, builds

OTHER_CLUSTER = os.environ.get("MODELSERVICE_TEST_KUBECONFIG")

_left_out = pytest.StashKey[Counter[str]]()


def leave_out(
    config: pytest.Config, items: Iterable[pytest.Item], reason: Callable[[], str | None]
) -> None:
    """Leave these tests out if there is a reason to; in CI that is an error."""
    why = reason() if (items := list(items)) else None
    if why and os.environ.get("CI") == "true":
        raise pytest.UsageError(f"CI=true, and {items[0].nodeid} cannot run: {why}")
    if why:
        config.stash.setdefault(_left_out, Counter())[why] += len(items)
        for item in items:
            item.add_marker(pytest.mark.skip(reason=why))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """One line for each reason, the first time that it is called: every conftest that imports it
    has pytest call it."""
    for reason, count in config.stash.get(_left_out, Counter()).items():
        terminalreporter.write_line(f"left out: {count} cluster tests, since {reason}")
    config.stash[_left_out] = Counter()


def build_before(
    session: pytest.Session, wanted: Iterable[pytest.Item], build: Callable[[builds.Say], object]
) -> None:
    """Build before the first test, whose time limit is not meant for builds, if any is wanted."""
    runs = any(not item.get_closest_marker("skip") for item in wanted)
    if runs and not session.config.option.collectonly:
        try:
            build(say_to(session.config))
        except BuildFailed as error:
            raise pytest.UsageError(str(error)) from error


def unmet(check: Callable[[], None]) -> str | None:
    """What `check` raises BuildFailed with."""
    try:
        check()
    except BuildFailed as error:
        return str(error)
    return None


def needs(fixture: str, item: pytest.Item) -> bool:
    """Whether the test uses this fixture, itself or through another."""
    return fixture in getattr(item, "fixturenames", ())


def say_to(config: pytest.Config) -> builds.Say:
    """Print lines between pytest's own, on standard error: a worker of pytest-xdist has no other
    stream in common with the run."""
    capture = config.pluginmanager.get_plugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(line, file=sys.stderr, flush=True)

    return say
