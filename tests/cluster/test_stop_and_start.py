"""Stop at every moment of a rollout, Start at every moment of a stop: what is reported is so."""

from __future__ import annotations

import pytest

from lab import Lab

from .fixtures import StartReplica
from .serving import Server
from .stopping import lead


def test_stopped_and_started_at_some_moments(
    lab: Lab, server: Server, replica: StartReplica, namespace: str
) -> None:
    servers = [server, replica()]
    lead(lab, servers, namespace, rollouts=(0, 1, 2, 3), stops=(0, 2, 4, 7), starts=(0, 1, 3, 6))


@pytest.mark.soak
@pytest.mark.parametrize("_round", range(5))
def test_stopped_and_started_at_every_moment(
    lab: Lab, server: Server, namespace: str, _round: int
) -> None:
    lead(lab, [server], namespace, rollouts=range(12), stops=range(12), starts=range(16))
