"""The whole suite, for a class of tests beside a fixture `world`."""

from __future__ import annotations

from tests.contracts.deleting import DeleteConformance, UnmanagedConformance
from tests.contracts.deploying import DeployConformance, RestartConformance
from tests.contracts.feeding import FeedConformance
from tests.contracts.guarding import GuardConformance, RequestIdConformance
from tests.contracts.own_writes import OwnWritesConformance
from tests.contracts.positions import PositionConformance
from tests.contracts.registered import RegisteredConformance
from tests.contracts.rolling_back import RollbackConformance
from tests.contracts.stopping import StopConformance


class ClusterConformance(
    DeployConformance,
    RestartConformance,
    RequestIdConformance,
    GuardConformance,
    DeleteConformance,
    UnmanagedConformance,
    FeedConformance,
    OwnWritesConformance,
    PositionConformance,
    RegisteredConformance,
    RollbackConformance,
    StopConformance,
):
    """What every cluster keeps to."""
