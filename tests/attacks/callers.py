"""Attacks by one caller that has an identity, or by one with tokens of no caller.

Those by frames and connections are in transport.py: gRPC meets them before it knows whose they are.
"""

from __future__ import annotations

from copy import copy
from itertools import count

from . import requests
from .attack import Attack, Made
from .connection import Connection
from .requests import TOO_MANY
from .streams import open_watches
from .target import Target
from .transport import CONTENT, ENDS, GET, repeat

# The limit of each caller is 3,000.
WATCHES = 4000


async def gets(target: Target, seconds: float) -> Made:
    """Gets over four connections, 64 at once on each."""
    return await _calls(target, seconds, at_once=64)


async def many_gets(target: Target, seconds: float) -> Made:
    """Gets over four connections, 1,000 at once on each."""
    return await _calls(target, seconds, at_once=1000)


async def _calls(target: Target, seconds: float, at_once: int) -> Made:
    def act(connection: Connection) -> int:
        calls = at_once - len(connection.open)
        for _ in range(calls):
            connection.call(GET, CONTENT)
        return calls

    return await repeat(target, seconds, act, most_open=at_once - 1)


async def watches(target: Target, seconds: float) -> Made:
    """4,000 watches of a service, which is more than one caller may have."""
    return await open_watches(target, seconds, WATCHES)


async def garbage_tokens(target: Target, seconds: float) -> Made:
    """Gets with tokens of no caller, each another, 64 at once on each of four connections."""
    numbers = count()
    anonymous = copy(target)
    anonymous.metadata = ()

    def act(connection: Connection) -> int:
        calls = 64 - len(connection.open)
        for _ in range(calls):
            connection.call(GET, CONTENT, ("authorization", f"Bearer garbage-{next(numbers)}"))
        return calls

    return await repeat(anonymous, seconds, act, most_open=63)


ATTACKS = (
    Attack("one caller's Gets", gets, ENDS, sees={"answered": 100}),
    Attack("one caller's 4,000 Gets at once", many_gets, ENDS, sees={"answered": 100}),
    Attack(
        "one caller's Deploys",
        requests.deploys_of_one_name,
        TOO_MANY | {"OK"},
        sees={"OK": 20},
    ),
    Attack("one caller's 4,000 watches", watches, ENDS, sees={"open": 1000, "answered": 50}),
    Attack("tokens of no caller, each another", garbage_tokens, ENDS, sees={"answered": 100}),
)
