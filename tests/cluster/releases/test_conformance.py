"""Earlier releases of KServe pass the clusters' whole suite."""

from __future__ import annotations

import pytest

from tests.cluster.test_kserve_conformance import world
from tests.contracts.conformance import ClusterConformance

__all__ = ["world"]


@pytest.mark.soak
@pytest.mark.parametrize("release_lab", ["0.15", "0.16"], indirect=True)
class TestKServeReleases(ClusterConformance):
    """The whole suite, on each."""
