"""The outages of docs/clients.md, played to every client: Client, AsyncClient and modelctl, as
programs that each wait for a rollout that becomes ready and for one that fails, through a proxy."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import grpc
from modelservice.v1.model_service_pb2 import WatchStatusRequest, WatchStatusResponse
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from tests.client.tcp_proxy import TcpProxy, tcp_proxy
from tests.cluster.deploy_script import Run
from tests.patience import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
GOOD, BAD = "good", "bad"
KINDS = ("threads", "asyncio", "modelctl")
NAMES = tuple(f"{kind}-{model}" for kind in KINDS for model in (GOOD, BAD))


class Place(Protocol):
    """Servers, and a cluster whose rollouts go on until the test lets them end."""

    addresses: Sequence[str]
    namespace: str
    # Of the rollouts that fail.
    reason: str

    def request(self, name: str, model: str) -> dict[str, Any]:
        """The DeployRequest of a good or a bad model, as JSON."""

    def begun(self, names: Sequence[str]) -> None:
        """Wait until the cluster has begun with the rollouts of these services."""

    def finish(self) -> None:
        """Let each rollout become ready, or fail."""

    def kill(self) -> None:
        """Kill every server."""

    def stop(self, number: int) -> None:
        """End one server as SIGTERM does."""

    def start(self) -> None:
        """Start the servers that do not run."""

    def fall_behind(self) -> None:
        """Keep from the last server all that happens; one that is alone stands still."""

    def catch_up(self) -> None:
        """Let the last server go on."""


@dataclass(frozen=True)
class Lengths:
    """How long outages last, in seconds, and when they begin."""

    away: float = 26.0
    cuts: int = 6
    behind: float = 10.0
    # Beyond the 6 s after which a brisk server leaves a client that answers no ping.
    stopped: float = 12.0
    ages: int = 2
    random: random.Random | None = None

    def pause(self) -> None:
        """Let some time go by, of a length that differs from run to run of `make soak`."""
        if self.random:
            time.sleep(self.random.uniform(0.0, 3.0))


FULL = {"cuts": 60, "stopped": 300.0, "ages": 12}


class Ended(NamedTuple):
    """How a wait ended. `states`: how many it showed, of which `again` were there before, with
    others in between; `seconds`: since the outage was over."""

    outcome: str
    states: int
    again: int
    seconds: float


class Clients:
    """The programs, all of which wait at one address."""

    def __init__(self, address: str, place: Place, folder: Path) -> None:
        self._place = place
        python_path = os.pathsep.join(str(ROOT / part) for part in (".", "generated", "client"))
        env = {
            "PYTHONPATH": python_path,
            "XDG_CONFIG_HOME": str(folder),
            "AWAITED": " ".join(NAMES),
            "COLUMNS": "500",
        }
        path = folder / "bin"
        requests = {
            name: place.request(name, name.rpartition("-")[2]) | {"namespace": place.namespace}
            for name in NAMES
        }
        of_library = {name: requests[name] for name in NAMES if not name.startswith("modelctl")}
        command = [sys.executable, "-m", "tests.client.waits", address]
        self._library = Run("library", command, json.dumps(of_library), path, env)
        self._modelctl = {
            name: Run(name, [*MODELCTL, "--server", address], json.dumps(requests[name]), path, env)
            for name in NAMES
            if name not in of_library
        }
        self._runs = [self._library, *self._modelctl.values()]

    def wait_for(self, what: str, true: Callable[[], bool]) -> None:
        """Wait until something is true, while all of them wait for their rollouts."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while not true():
            assert time.monotonic() < ends, f"{what}: not within {PATIENCE_SECONDS:g} s: {self}"
            assert [run.name for run in self._runs if run.process.poll() is not None] == [], self
            time.sleep(0.05)

    def begin(self) -> None:
        """Wait until each has shown that its rollout goes on."""
        self.wait_for(
            "every rollout has begun",
            lambda: (
                all(self.states(name) for name in NAMES)
                and all("SYNCED" in self._types(kind) for kind in KINDS[:2])
            ),
        )

    @property
    def met(self) -> bool:
        """Whether each has lost its connection, and tries again."""
        return all(self.retries(kind) for kind in KINDS[:2]) and all(
            "  RETRYING " in run.errors for run in self._modelctl.values()
        )

    def send_signal(self, number: signal.Signals) -> None:
        """Send each a signal."""
        for run in self._runs:
            run.process.send_signal(number)

    def retries(self, kind: str) -> list[str]:
        """The calls that a client of the library has repeated, and why."""
        return [f"{said['retry']}: {said['why']}" for said in self._said(kind) if "retry" in said]

    def states(self, name: str) -> list[str]:
        """Each state that a wait has shown, as a text."""
        if run := self._modelctl.get(name):
            return _printed_states(run.err)
        return [json.dumps(service, sort_keys=True) for service in self._services(name)]

    def ended(self, over: float) -> dict[str, Ended]:
        """Wait for their ends, and check all that they showed; `over`: when the outage was."""
        seconds = {}
        for run in self._runs:
            run.code()
            seconds[run.name] = time.monotonic() - over
        assert self._library.process.returncode == 0, self
        assert self.met, self
        for kind in KINDS[:2]:
            self._check_watch(kind)
        return {name: self._check(name, seconds) for name in NAMES}

    def close(self) -> None:
        for run in self._runs:
            if run.process.poll() is None:
                os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait()

    def __str__(self) -> str:
        said = [f"{run.name}: {[*run.out, *run.err]}" for run in self._runs]
        return "\n".join(said)

    def _check(self, name: str, seconds: dict[str, float]) -> Ended:
        """Once it has ended: it ended as its rollout did, and showed no state twice."""
        states = self.states(name)
        twice = [a for a, b in pairwise(states) if a == b]
        assert twice == [], f"{name} showed a state twice: {self}"
        is_good = name.endswith(GOOD)
        if run := self._modelctl.get(name):
            outcome, run_name = f"exit {run.process.returncode}", name
            assert run.process.returncode == (0 if is_good else 73), self
            last = states[-1].split()[0]
            if not is_good:
                outcome += f" {self._place.reason}"
                said = f"error: {self._place.namespace}/{name} failed: {self._place.reason}"
                assert said in run.err, self
        else:
            outcome, run_name = self._end_of(name), "library"
            reason = f"RolloutFailed REASON_{self._place.reason}"
            assert outcome == ("returned" if is_good else reason), self
            services = self._services(name)
            last = services[-1]["status"]["state"].removeprefix("STATE_")
            assert {service["rolloutId"] for service in services} == {services[-1]["rolloutId"]}
            assert {service["generation"] for service in services} == {"1"}
        assert last == ("READY" if is_good else "FAILED"), self
        assert len(states) > 1, self
        again = len(states) - len(set(states))
        return Ended(outcome, len(states), again, seconds[run_name])

    def _check_watch(self, kind: str) -> None:
        """A watch of many: no state twice in a row, none of its own end, and the last one."""
        assert self._end_of(f"{kind}-watch") == "returned"
        types = self._types(kind)
        assert types.count("SYNCED") == 1, self
        assert set(types) <= {"SNAPSHOT", "SYNCED", "CHANGED"}, self
        for name in NAMES:
            services = [s for s in self._services(f"{kind}-watch") if s["name"] == name]
            assert [a for a, b in pairwise(services) if a == b] == [], self
            state = "STATE_READY" if name.endswith(GOOD) else "STATE_FAILED"
            assert services[-1]["status"]["state"] == state, self

    def _types(self, kind: str) -> list[str]:
        return [said["type"] for said in self._said(f"{kind}-watch") if "type" in said]

    def _services(self, who: str) -> list[dict[str, Any]]:
        return [said["shown"] for said in self._said(who) if "shown" in said]

    def _end_of(self, who: str) -> str:
        [end] = [str(said["end"]) for said in self._said(who) if "end" in said]
        return end

    def _said(self, who: str) -> list[dict[str, Any]]:
        return [said for said in map(json.loads, list(self._library.out)) if said["who"] == who]


def _printed_states(lines: Sequence[str]) -> list[str]:
    """The states among the lines of modelctl. In a pipe it prints a line again, so that a log shows
    life, when the service changes after 30 s without one."""
    found: list[tuple[float, str]] = []
    for line in lines:
        if match := re.fullmatch(r" +(\d+\.\d) s  (\w+ *.*)", line):
            seconds, text = float(match[1]), " ".join(match[2].split())
            shows_life = found and found[-1][1] == text and seconds >= found[-1][0] + 29.9
            if text.split()[0] not in ("CREATED", "RETRYING") and not shows_life:
                found.append((seconds, text))
    return [text for _, text in found]


MODELCTL = [
    *(sys.executable, "-m", "modelservice_client.cli", "deploy", "--file", "-"),
    *("--timeout", "900", "--patience", "900"),
]


@dataclass
class Scene:
    """One outage: where it happens, and whom it meets."""

    place: Place
    proxy: TcpProxy
    clients: Clients
    lengths: Lengths
    tokens: list[str] = field(default_factory=list)

    def first_alone(self) -> None:
        """Let new connections reach the first server only."""
        self.proxy.backends = (self.place.addresses[0],)

    def last_alone(self) -> None:
        """Let new connections reach the last server only."""
        self.proxy.backends = (self.place.addresses[-1],)

    def finish(self) -> None:
        """Let the rollouts end, at some time."""
        self.lengths.pause()
        self.place.finish()


def killed(scene: Scene) -> None:
    scene.place.kill()
    scene.finish()
    time.sleep(scene.lengths.away)
    scene.place.start()


def terminated(scene: Scene) -> None:
    for number in range(len(scene.place.addresses)):
        scene.place.stop(number)
        scene.place.start()
    scene.finish()


def cut_each_second(scene: Scene) -> None:
    for number in range(scene.lengths.cuts):
        scene.proxy.cut()
        if number == scene.lengths.cuts - 2:
            scene.finish()
        time.sleep(1.0)


def black_hole(scene: Scene) -> None:
    scene.proxy.black_hole()
    scene.finish()


def deployed_to_the_first(scene: Scene) -> None:
    scene.first_alone()
    if len(scene.place.addresses) > 1:
        scene.place.fall_behind()


def behind(scene: Scene) -> None:
    began = time.monotonic()
    if len(scene.place.addresses) == 1:
        scene.place.fall_behind()
    scene.last_alone()
    scene.proxy.cut()
    scene.finish()
    scene.clients.wait_for("all have met it", lambda: scene.clients.met)
    time.sleep(max(scene.lengths.behind - (time.monotonic() - began), 0.0))
    scene.place.catch_up()


def stopped(scene: Scene) -> None:
    began = time.monotonic()
    scene.clients.send_signal(signal.SIGSTOP)
    # What a server has sent before it leaves them would be read from the socket afterwards.
    scene.clients.wait_for("the servers have left them", lambda: scene.proxy.connections == 0)
    scene.finish()
    time.sleep(max(scene.lengths.stopped - (time.monotonic() - began), 0.0))
    scene.clients.send_signal(signal.SIGCONT)


def aged(scene: Scene) -> None:
    connections = 2 + len([name for name in NAMES if name.startswith("modelctl")])
    enough = scene.proxy.accepted + scene.lengths.ages * connections
    scene.clients.wait_for(
        "they aged", lambda: scene.clients.met and scene.proxy.accepted >= enough
    )
    scene.finish()


def reset(scene: Scene) -> None:
    """To another replica, or to the next process of the only one."""
    _, token = watched(scene.place.addresses[0], scene.place.namespace)
    if len(scene.place.addresses) == 1:
        scene.place.stop(0)
        scene.place.start()
    scene.last_alone()
    scene.proxy.cut()
    first, _ = watched(scene.place.addresses[-1], scene.place.namespace, token)
    assert first.type == WatchStatusResponse.TYPE_RESET
    scene.clients.wait_for("all have met it", lambda: scene.clients.met)
    scene.finish()


def watched(address: str, namespace: str, token: str = "") -> tuple[WatchStatusResponse, str]:
    """The first message of a watch of the namespace, and the token of its first SYNCED."""
    request = WatchStatusRequest(namespace=namespace, resume_token=token)
    with grpc.insecure_channel(address) as channel:
        stream = ModelServiceStub(channel).WatchStatus(request, timeout=PATIENCE_SECONDS)
        first = next(stream)
        message = first
        while message.type != WatchStatusResponse.TYPE_SYNCED:
            message = next(stream)
        stream.cancel()
    return first, message.resume_token


class Outage(NamedTuple):
    """What happens, and what the servers and the proxy are like when the clients begin."""

    happens: Callable[[Scene], None]
    before: Callable[[Scene], None] = lambda _: None
    # Whether servers leave connections within seconds: tests/client/brisk_server.py.
    brisk: bool = False
    # Whether servers end or stand still, so that no other outage can happen there meanwhile.
    alone: bool = False
    # Whether the last server is to fall behind.
    falls_behind: bool = False


# By the names that the table of docs/clients.md gives them.
OUTAGES = {
    "a server is killed and 26 s away": Outage(killed, alone=True),
    "servers are restarted, one after the other": Outage(terminated, alone=True),
    "a proxy cuts every connection each second": Outage(cut_each_second),
    "a black hole: connections stay open and pass nothing": Outage(black_hole),
    "a replica is 10 s behind": Outage(
        behind, before=deployed_to_the_first, alone=True, falls_behind=True
    ),
    "the program itself is stopped for 5 minutes": Outage(stopped, brisk=True),
    "connections are closed at an age of 5 s": Outage(aged, brisk=True),
    "a server cannot use the token: RESET": Outage(reset, before=Scene.first_alone, alone=True),
}


def documented() -> list[str]:
    """The outages of the table in docs/clients.md, in its order."""
    text = (ROOT / "docs/clients.md").read_text().partition("### Outages")[2]
    table = re.split(r"^#", text, maxsplit=1, flags=re.M)[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    return rows[2:]


def play(name: str, place: Place, folder: Path, lengths: Lengths) -> dict[str, Ended]:
    """Play an outage; how each wait ended. Raises AssertionError where one did not end right."""
    outage = OUTAGES[name]
    with (
        tcp_proxy(*place.addresses) as proxy,
        programs(proxy, place, folder, outage, lengths) as scene,
    ):
        scene.clients.begin()
        place.begun(NAMES)
        lengths.pause()
        outage.happens(scene)
        return scene.clients.ended(over=time.monotonic())


@contextmanager
def programs(
    proxy: TcpProxy, place: Place, folder: Path, outage: Outage, lengths: Lengths
) -> Iterator[Scene]:
    folder.mkdir(parents=True, exist_ok=True)
    scene = Scene(place, proxy, None, lengths)
    outage.before(scene)
    scene.clients = Clients(proxy.address, place, folder)
    try:
        yield scene
    finally:
        scene.clients.close()


def table(cells: dict[str, dict[str, Ended]]) -> str:
    """The outcomes, for reading."""
    lines = [
        f"{outage:53}  {name:14}  {ended.outcome:32}  {ended.states:2} states,"
        f" {ended.again} again"
        f"  {ended.seconds:5.1f} s after the outage"
        for outage, waits in cells.items()
        for name, ended in waits.items()
    ]
    return "\n".join(lines)
