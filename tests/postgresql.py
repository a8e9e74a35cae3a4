"""A real PostgreSQL for tests: a server of their own on a socket of its own, or the one that
MODELSERVICE_TEST_DATABASE_URL names, whose user may create databases."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil

from lab import debian
from lab.processes import Sweeper, wait_until
from tests.patience import PATIENCE_SECONDS
from tests.small_disk import SmallDisk

END_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND datname = current_database()"
)
OTHER_SERVER = os.environ.get("MODELSERVICE_TEST_DATABASE_URL", "")

# Debian's package brings it, and it refuses to be root.
_USER = "postgres"
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",  # tests end processes, not machines
    "max_connections": "200",
    "log_min_messages": "log",
}


class PostgreSQL:
    """A server with a cluster of databases of its own. `start` and `stop` may follow each other any
    number of times; `folder` has everything, the socket too, but for the data where they are on a
    `disk` of their own."""

    def __init__(
        self,
        folder: Path,
        sweeper: Sweeper,
        disk: SmallDisk | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self._settings = _SETTINGS | (settings or {})
        self._data = (disk.path if disk else folder) / "data"
        self._as_user = [*(disk.enter if disk else ()), *_as_user()]
        self._sweeper = sweeper
        self._process: subprocess.Popen[bytes] | None = None
        options = ["--no-sync", "--auth=trust", "--wal-segsize=1", f"--username={_USER}"]
        subprocess.run(
            [*self._as_user, _program("initdb"), *options, self._data],
            check=True, capture_output=True, cwd=folder,
        )  # fmt: skip

    @property
    def url(self) -> str:
        """Of its own first database. The password is not asked for, and not to be shown."""
        return f"postgresql://{_USER}:secret@/postgres?host={self.folder}"

    def start(self) -> None:
        """Returns once it answers; where it runs already, at once."""
        if self._process:
            return
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        command = [_program("postgres"), "-D", self._data, "-k", self.folder, *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        self._sweeper.tell(f"+{self._process.pid}")
        wait_until(self._answers, f"PostgreSQL in {self.folder}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it and every transaction: SIGINT in order, SIGQUIT and SIGKILL as in a crash."""
        if self._process:
            children = self._children()
            self._process.send_signal(how)
            self._process.wait(60)
            # A killed one leaves them to end by themselves; beside them it does not start anew.
            psutil.wait_procs(children, PATIENCE_SECONDS)
            self._sweeper.tell(f"-{self._process.pid}")
            self._process = None

    def _children(self) -> list[psutil.Process]:
        assert self._process
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._process.pid).children(recursive=True)
        return []

    def has_ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def _answers(self) -> bool:
        assert self._process
        if self._process.poll() is not None:
            raise AssertionError((self.folder / "log").read_text())
        port = self._settings.get("port", "5432")
        asked = [_program("pg_isready"), "-q", "-h", self.folder, "-p", port]
        return subprocess.run(asked, check=False).returncode == 0


@contextmanager
def started_postgresql(
    disk: SmallDisk | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[PostgreSQL]:
    """A server for the length of a block, with settings beside the usual ones; nothing of it stays,
    however the block's process ends."""
    install()
    # A socket's path may have 107 characters, which pytest's own folders come close to.
    folder = Path(tempfile.mkdtemp(prefix="modelservice-pg-"))
    if os.geteuid() == 0:
        shutil.chown(folder, _USER)
    sweeper = Sweeper(folder)
    try:
        server = PostgreSQL(folder, sweeper, disk, settings)
        server.start()
        yield server
        server.stop(signal.SIGQUIT)
    finally:
        sweeper.close()


@asynccontextmanager
async def fresh_database(server_url: str) -> AsyncIterator[str]:
    """The URL of an empty database on the server, dropped after the block."""
    name = f"modelservice_test_{secrets.token_hex(6)}"
    await execute(server_url, f"CREATE DATABASE {name}")
    try:
        yield urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))
    finally:
        await execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def why_there_is_none() -> str | None:
    """Why this machine can have no PostgreSQL; None if it has one, or can install it."""
    if _programs():
        return None
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return (
            "there is no PostgreSQL: install Debian's package postgresql (as root the tests do), or"
            " name a server with MODELSERVICE_TEST_DATABASE_URL"
        )
    return None


def install() -> None:
    """Install Debian's package where there is no PostgreSQL, one run at a time."""
    if _programs():
        return
    with (Path(tempfile.gettempdir()) / "modelservice-postgresql.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _programs():
            return
        debian.install(["postgresql"], print)
        # The package has made a server for the whole machine, and started it.
        for version in _versions():
            debian.run(["pg_dropcluster", "--stop", version.name, "main"])


async def execute(url: str, statement: str) -> None:
    """Do it as an administrator would, also where transactions only read unless they say so."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(statement)
    finally:
        await connection.close()


def _versions() -> Sequence[Path]:
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    return sorted((path.parents[1] for path in found), key=lambda path: int(path.name))


def _programs() -> Path | None:
    if versions := _versions():
        return versions[-1] / "bin"
    elsewhere = shutil.which("postgres")
    return Path(elsewhere).resolve().parent if elsewhere else None


def _program(name: str) -> Path:
    programs = _programs()
    assert programs
    return programs / name


def _as_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups"]
