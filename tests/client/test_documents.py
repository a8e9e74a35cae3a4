"""The code that documents show runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

from server.domain.rollout.status import State
from tests.api.requests import key
from tests.serving import Served
from tests.transcript import transcript

README = Path(__file__).parents[2] / "client/README.md"


def test_the_first_lines_deploy_and_wait(served: Served) -> None:
    """client/README.md"""
    [code] = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    # The promise: what connects, waits and resumes are three lines, after the model.
    assert len(code[code.index("with Client(") :].splitlines()) == 3
    exec(code.replace("127.0.0.1:50051", served.address), {})
    stored = served.inside(served.memory.store.service, key("sklearn-iris"))
    assert stored.status.state is State.READY


def test_modelctl_deploys_and_waits_in_one_line() -> None:
    """docs/modelctl.md, whose session tests/client/cli/test_sessions.py runs."""
    steps = transcript("docs/modelctl.md", "A first session")
    [deploy] = [step for step in steps if step.command.startswith("modelctl deploy ")]
    assert "\n" not in deploy.command
    assert "is ready after" in deploy.shown
