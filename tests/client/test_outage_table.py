"""The outages of docs/clients.md, on the local cluster. tests/cluster/test_outage_table.py has the
same on two replicas."""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from lab.port_blocks import PortBlock, own_block
from tests.adapters.local import server_process
from tests.client.outages import BAD, FULL, GOOD, OUTAGES, Lengths, documented, play, table

pytestmark = pytest.mark.processes


class LocalPlace:
    """One server on the local cluster. Models load until `finish`."""

    namespace = "outages"
    reason = "MODEL_LOAD"

    def __init__(self, folder: Path, program: str, stack: ExitStack) -> None:
        # Ports that no other server takes while this one is away, side by side as they may be.
        self._ports = stack.enter_context(closing(PortBlock()))
        self.addresses = (f"127.0.0.1:{self._ports.next()}",)
        self._folder = folder
        self._program = program
        self._stack = stack
        self._over = folder / "over"
        orders: dict[str, dict[str, Any]] = {GOOD: {}, BAD: {"exit": 3}}
        for model, of_model in orders.items():
            (folder / model).write_text(json.dumps({"loads_once": str(self._over)} | of_model))
        self.start()

    def request(self, name: str, model: str) -> dict[str, Any]:
        predictor = {"format": {"name": "test"}, "storage_uri": str(self._folder / model)}
        return {"name": name, "spec": {"model": predictor}}

    def begun(self, names: Sequence[str]) -> None:
        """It has, once it is stored."""

    def finish(self) -> None:
        self._over.touch()

    def kill(self) -> None:
        server_process.kill(self._server)

    def stop(self, number: int) -> None:
        assert self._server.running.stop() == 0

    def start(self) -> None:
        self._server = self._stack.enter_context(
            server_process.server(
                self._folder,
                self._program,
                MODELSERVICE_LISTEN=self.addresses[0],
                MODELSERVICE_SERVING_PORTS=self._ports.setting,
            )
        )

    def fall_behind(self) -> None:
        psutil.Process(self._server.process.pid).suspend()

    def catch_up(self) -> None:
        psutil.Process(self._server.process.pid).resume()


@contextmanager
def local_place(folder: Path, outage: str) -> Iterator[LocalPlace]:
    folder.mkdir(parents=True, exist_ok=True)
    program = "tests.client.brisk_server" if OUTAGES[outage].brisk else "server"
    with ExitStack() as stack:
        yield LocalPlace(folder, program, stack)


@pytest.mark.parametrize("outage", documented())
def test_every_client_sees_each_state_once_and_the_right_end(outage: str, tmp_path: Path) -> None:
    with local_place(tmp_path / "server", outage) as place:
        print(table({outage: play(outage, place, tmp_path / "clients", Lengths())}))


def test_the_document_has_every_outage() -> None:
    assert documented() == list(OUTAGES)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_outages_of_full_length_that_begin_at_any_time(tmp_path: Path) -> None:
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}")
    # Each server's settings ask for it first: two threads that do so at once would make two.
    own_block()

    def played(number: int, outage: str) -> Any:
        folder = tmp_path / str(number)
        lengths = Lengths(**FULL, random=random.Random(f"{seed} {outage}"))
        with local_place(folder / "server", outage) as place:
            return play(outage, place, folder / "clients", lengths)

    with ThreadPoolExecutor(len(OUTAGES)) as threads:
        futures = {
            outage: threads.submit(played, number, outage) for number, outage in enumerate(OUTAGES)
        }
    print(table({outage: future.result() for outage, future in futures.items()}))
