"""KServe in Knative mode passes the clusters' suite: here a spec without a mode means Knative."""

from __future__ import annotations

from tests.cluster.test_kserve_conformance import TestKServeCluster, world

__all__ = ["TestKServeCluster", "world"]
