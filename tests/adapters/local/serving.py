"""A local cluster for tests, whose models are files that tell the test server what to do."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from lab.port_blocks import own_block
from server.adapters.local.cluster import LocalCluster, local_cluster
from server.adapters.local.model_files.fetcher import fetch
from server.adapters.local.processes.orphans import end_orphans
from server.adapters.local.proxy.port_allocator import PortAllocator
from server.adapters.local.rollouts.load_limiter import LoadLimiter
from server.adapters.local.rollouts.model_server_run import ModelServerConfig
from server.adapters.local.runtimes.runtimes import Runtimes
from server.adapters.local.state_dir import open_state_dir
from server.adapters.local.timeouts import Timeouts
from server.domain.revisions.revision import MOST_REVISIONS
from server.domain.service.inference_service import (
    InferenceServiceSpec,
    ModelFormat,
    ModelPredictor,
)

MODEL_SERVER = Path(__file__).with_name("model_server.py")
RUNTIME = """
[[runtime]]
name = "test-server"
protocols = ["v2"]
command = ["{python}", "-I", "{file}", "--port", "{{port}}", "--name", "{{server_name}}",
           "--model", "{{model}}"]
ready = "/v2/models/{{model_name}}/ready"
loaded = "{{model_name}} has loaded"
[[runtime.formats]]
name = "test"

[[runtime]]
name = "gone-server"
protocols = ["v2"]
command = ["/absent/model-server", "{{port}}"]
ready = "/v2/models/{{model_name}}/ready"
[[runtime.formats]]
name = "gone"
"""
# What fails is tried again while a test looks on.
BRISK = Timeouts(
    progress_deadline=timedelta(seconds=30),
    unready=timedelta(seconds=1),
    probe=timedelta(seconds=0.2),
    stable=timedelta(seconds=1),
    first_retry=timedelta(seconds=0.5),
    longest_retry=timedelta(seconds=2),
    stop=timedelta(seconds=20),
)


def runtimes_file(folder: Path) -> Path:
    """A table with the test server, as an operator would add it."""
    file = folder / "runtimes.toml"
    file.write_text(RUNTIME.format(python=sys.executable, file=MODEL_SERVER))
    return file


def model(folder: Path, tag: str = "1", **orders: Any) -> InferenceServiceSpec:
    """A model that orders the test server about; another tag is another one."""
    file = folder / f"{tag}.json"
    content = json.dumps(orders)
    # Whatever downloads it just now would find it changed.
    if not file.exists() or file.read_text() != content:
        file.write_text(content)
    return InferenceServiceSpec(ModelPredictor(ModelFormat("test"), str(file)))


@asynccontextmanager
async def opened(
    folder: Path,
    timeouts: Timeouts = BRISK,
    ports: PortAllocator | None = None,
    python: Path | None = None,
    most_revisions: int = MOST_REVISIONS,
) -> AsyncIterator[LocalCluster]:
    """The cluster of a folder, as a server's start opens it."""
    with open_state_dir(folder / "state") as state:
        end_orphans(state.owner)
        config = ModelServerConfig(
            runtimes=Runtimes.load(runtimes_file(folder)),
            python=python or folder / "no-serving-environment/bin/python",
            fetch=fetch,
            ports=ports or PortAllocator(own_block().ports),
            load_limiter=LoadLimiter(2, timeouts.load_slot),
            timeouts=timeouts,
            environment=os.environ,
            owner=state.owner,
        )
        async with local_cluster(state, config, most_revisions=most_revisions) as cluster:
            yield cluster
