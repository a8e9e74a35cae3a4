"""How first rollouts fail on a real node in Knative mode: `make failures MODE=knative`.

As `tests.node.failures`, of which most of the cases are.
"""

from __future__ import annotations

import sys
from pathlib import Path

# In a checkout the stubs are not installed.
sys.path.append(str(Path(__file__).parents[3] / "generated"))

from modelservice.v1.inference_service_pb2 import Resources

from tests.cluster.failures import Case
from tests.node.failures import CASES as OF_STANDARD_MODE
from tests.node.failures import MAIN, main, server

_ALIKE = ("image missing", "exit 1 at start", "corrupt model", "PVC missing", "out of memory")
_TOO_MUCH = Resources(requests={"cpu": "1000"}, limits={"cpu": "1000"})

CASES = (
    *(case for case in OF_STANDARD_MODE if case.what in _ALIKE),
    Case("CPU that no node has", server(resources=_TOO_MUCH), "UNSCHEDULABLE", wait=60),
    Case("quota full", server(), "QUOTA", wait=10, no_pods=True),
    # The lab's own deadline, not Knative's of ten minutes.
    Case(
        "slow past the deadline",
        server("--loads-nothing", env={"PROTOCOL": "v2"}),
        "NOT_ANSWERING",
        container=MAIN,
        wait=60,
    ),
)

if __name__ == "__main__":
    sys.exit(main(CASES, "knative"))
