"""What the serving environment has: another Python than ours, whose packages we never import."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path

_ASK = "import sys\nfrom importlib.metadata import version\nversion(sys.argv[1])"


async def has_package(python: Path, requirement: str) -> bool:
    """Ask that Python whether the package of a requirement is installed, whatever its version.

    Takes some 60 ms. Raises OSError where that Python cannot be started.
    """
    package = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
    asked = await asyncio.create_subprocess_exec(
        python,
        *("-I", "-c", _ASK, package),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        return await asked.wait() == 0
    finally:
        if asked.returncode is None:
            asked.kill()


def install_command(python: Path, requirement: str) -> str:
    """What a person types to install a package there."""
    return shlex.join([str(python), "-m", "pip", "install", requirement])
