"""The same as tests/cluster/test_stop_and_start.py, in Knative mode."""

from __future__ import annotations

import pytest

from lab import Lab
from tests.cluster.serving import Server
from tests.cluster.stopping import lead


def test_stopped_and_started_at_some_moments(lab: Lab, server: Server, namespace: str) -> None:
    lead(lab, [server], namespace, rollouts=(1,), stops=(4,), starts=(3,))


@pytest.mark.soak
@pytest.mark.parametrize("_round", range(5))
def test_stopped_and_started_at_every_moment(
    lab: Lab, server: Server, namespace: str, _round: int
) -> None:
    lead(lab, [server], namespace, rollouts=range(12), stops=range(12), starts=range(16))
