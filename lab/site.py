"""Where a lab lives: its folder, its ports, its programs, and what ends them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lab.port_blocks import PortBlock

from .processes import STOP_GRACE, Component, Sweeper


class Site:
    """`folder` has everything that a lab writes, `programs` the path of each program by name."""

    def __init__(self, folder: Path, programs: Mapping[str, Path], sweeper: Sweeper) -> None:
        self.folder = folder
        self.programs = programs
        self.sweeper = sweeper
        self.ports = PortBlock()
        self.logs = folder / "logs"
        self.logs.mkdir()

    def component(
        self,
        name: str,
        *flags: str,
        ready: Callable[[], bool],
        env: Mapping[str, str] | None = None,
    ) -> Component:
        """The program of this name, with these flags."""
        return self.process(name, [self.programs[name], *flags], ready=ready, env=env)

    def process(
        self,
        name: str,
        argv: list[str | Path],
        *,
        ready: Callable[[], bool],
        env: Mapping[str, str] | None = None,
        stop_grace: float = STOP_GRACE,
    ) -> Component:
        """Any command as a component; `name` is its log's."""
        return Component(
            name,
            argv,
            logs=self.logs,
            sweeper=self.sweeper,
            ready=ready,
            env=env,
            stop_grace=stop_grace,
        )

    def kubeconfig(self, user: str) -> Path:
        """Where the kubeconfig of this user is, once the API server runs."""
        return self.folder / f"{user}.kubeconfig"
