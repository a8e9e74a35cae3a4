"""Each way in which a first rollout fails, as far as a simulated node can play it."""

from __future__ import annotations

from .asking import container, model
from .failures import Case

CASES = (
    Case("image missing", container("lab/missing:1"), "IMAGE_PULL", container="kserve-container"),
    Case(
        "crash loop",
        container("lab/crash:3"),
        "CRASH_LOOP",
        container="kserve-container",
        exit_code=3,
    ),
    Case(
        "out of memory",
        container("lab/crash:137"),
        "OUT_OF_MEMORY",
        container="kserve-container",
        exit_code=137,
    ),
    Case(
        "storage initializer fails",
        model("lab-init-fails"),
        "STORAGE_DOWNLOAD",
        container="storage-initializer",
        exit_code=1,
    ),
    Case("unknown model format", model("no-such-format"), "NO_RUNTIME", wait=2),
    Case("unknown runtime", model(runtime="no-such-runtime"), "NO_RUNTIME", wait=2),
    Case("storage scheme nobody handles", model(uri="ftp://host/model"), "STORAGE_SCHEME", wait=2),
    Case("quota", container(), "QUOTA", wait=10, no_pods=True),
    Case("unschedulable", container(node_selector={"no": "such-node"}), "UNSCHEDULABLE", wait=60),
)
