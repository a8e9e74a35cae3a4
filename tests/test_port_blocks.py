"""What keeps tests that run at once from taking one another's ports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lab.port_blocks import PortBlock, own_block
from server.adapters.local.proxy.port_allocator import listen
from tests.alone import ROOT, clean_environment
from tests.patience import PATIENCE_SECONDS

TAKING = "import sys; from lab.port_blocks import PortBlock; PortBlock([int(sys.argv[1])])"


def another_process_takes(base: int) -> bool:
    """Whether it could have this very block."""
    took = subprocess.run(
        [sys.executable, "-c", TAKING, str(base)],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert took.returncode == 0 or "no block of free ports is left" in took.stderr, took.stderr
    return took.returncode == 0


def test_a_block_is_nobody_elses_until_it_is_closed() -> None:
    block = PortBlock()
    assert not another_process_takes(block.base)
    block.close()
    assert another_process_takes(block.base)


def test_a_block_in_which_somebody_listens_is_not_taken() -> None:
    block = PortBlock()
    block.close()
    with listen(block.ports[-1]), pytest.raises(RuntimeError, match="no block"):
        PortBlock([block.base])


def test_a_process_has_one_block_of_its_own() -> None:
    assert own_block() is own_block()
    assert not another_process_takes(own_block().base)
