"""A life on a real node, recorded for the tests of status reading: `python -m tests.node.lives`.

A model that cannot be loaded, with the readiness probe that KServe gives it: whether the port is
open. That is what makes KServe's own status lie.
"""

from __future__ import annotations

import sys

from lab import booted_node_lab, images
from tests.cluster.lives import Life, model, record

SECONDS = 480.0


def main() -> None:
    seconds = float(sys.argv[1]) if sys.argv[1:] else SECONDS
    little = {"requests": {"cpu": "50m", "memory": "64Mi"}}
    corrupt = model(uri="pvc://models/iris-corrupt", runtime="kserve-mlserver", resources=little)

    with booted_node_lab() as lab:

        def corrupt_model(life: Life) -> None:
            lab.put_models(images.models(print), life.namespace)
            life.deploy(corrupt, wait=seconds)

        record(lab, "corrupt_model", corrupt_model)


if __name__ == "__main__":
    main()
