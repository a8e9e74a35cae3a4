"""The wire between this machine and a node in a network namespace of its own (Linux, root)."""

from __future__ import annotations

import ipaddress
import json
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .processes import ComponentFailed

NUMBERS = range(128, 255)

# Stays one process.
_ENTER = 'pid=$(cat "$1"); shift; exec nsenter --target "$pid" --net -- "$@"'


@dataclass(frozen=True)
class Subnet:
    """10.`number`.0.0/16, of which the node, its pods and the Services have their parts.

    Made by `claim`: the wire's two ends exist, the node's is not yet in its namespace.
    """

    number: int

    @property
    def whole(self) -> str:
        return f"10.{self.number}.0.0/16"

    @property
    def host(self) -> str:
        """This machine's address on the wire."""
        return f"10.{self.number}.0.1"

    @property
    def node(self) -> str:
        """The node's address."""
        return f"10.{self.number}.0.2"

    @property
    def pods(self) -> str:
        return f"10.{self.number}.1.0/24"

    @property
    def services(self) -> str:
        return f"10.{self.number}.128.0/17"

    @property
    def link(self) -> str:
        """This machine's end of the wire."""
        return f"lab-node-{self.number}"

    @property
    def peer(self) -> str:
        """The node's end, until it is in its namespace."""
        return f"lab-peer-{self.number}"

    def address(self) -> None:
        """Give this machine's end its address, for servers that listen there."""
        _ip("address", "add", f"{self.host}/30", "dev", self.link)
        _ip("link", "set", self.link, "up")

    def connect(self, pid: int) -> None:
        """Lead the wire into the network namespace of this process, and all traffic over it."""
        inside = ("nsenter", f"--target={pid}", "--net")
        _ip("link", "set", self.peer, "netns", str(pid), "name", "eth0")
        _ip("address", "add", f"{self.node}/30", "dev", "eth0", prefix=inside)
        _ip("link", "set", "eth0", "up", prefix=inside)
        _ip("route", "add", self.whole, "via", self.node)


def claim() -> Subnet:
    """A subnet that nothing on this machine routes to, claimed by its wire.

    Raises ComponentFailed when there is none.
    """
    taken = _routed()
    free = [
        subnet
        for subnet in map(Subnet, NUMBERS)
        if not any(ipaddress.ip_network(subnet.whole).overlaps(network) for network in taken)
    ]
    random.shuffle(free)
    for subnet in free:
        # Two labs may look at once: only one of them can make a link of this name.
        made = subprocess.run(
            ["ip", "link", "add", subnet.link, "type", "veth", "peer", "name", subnet.peer],
            capture_output=True,
            text=True,
        )
        if made.returncode == 0:
            return subnet
        if "File exists" not in made.stderr:
            raise ComponentFailed(f"cannot make a network link: {made.stderr.strip()}")
    raise ComponentFailed(f"every network of 10.{NUMBERS[0]}-{NUMBERS[-1]}.0.0/16 is in use")


def entering(pid: Path, command: list[str | Path]) -> list[str | Path]:
    """`command` run in the network of the process whose pid will be in this file."""
    return ["sh", "-ec", _ENTER, "sh", pid, *command]


def _routed() -> list[ipaddress.IPv4Network]:
    told = _ip("-json", "-4", "route", "show", "table", "all")
    destinations = [route["dst"] for route in json.loads(told)]
    return [ipaddress.IPv4Network(dst) for dst in destinations if dst != "default"]


def _ip(*arguments: str, prefix: tuple[str, ...] = ()) -> str:
    done = subprocess.run([*prefix, "ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ComponentFailed(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
