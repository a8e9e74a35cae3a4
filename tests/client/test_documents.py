"""The code that documents show runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

from server.domain.rollout.status import State
from tests.api.requests import key
from tests.serving import Served

README = Path(__file__).parents[2] / "client/README.md"


def test_the_first_lines_deploy_and_wait(served: Served) -> None:
    """client/README.md"""
    [code] = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(code.replace("127.0.0.1:50051", served.address), {})
    stored = served.inside(served.memory.store.service, key("sklearn-iris"))
    assert stored.status.state is State.READY
