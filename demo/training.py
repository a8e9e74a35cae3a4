"""The models of the demo, made with the scikit-learn of the serving environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from demo import SERVING_PYTHON

_TRAIN = Path(__file__).with_name("train.py")


class NotTrained(Exception):
    """The serving environment is absent or cannot train; the message says what to do."""


def trained(file: Path) -> str:
    """Save a model that names an iris by its measures; what it is worth. Raises NotTrained."""
    if not SERVING_PYTHON.exists():
        raise NotTrained(f"{SERVING_PYTHON.parents[1].name} is missing: make serving")
    # Others may read the file meanwhile.
    fresh = file.with_name(f"{os.getpid()}-{file.name}")
    training = subprocess.run(
        [SERVING_PYTHON, "-I", _TRAIN, fresh], capture_output=True, text=True, check=False
    )
    if training.returncode:
        raise NotTrained(f"the training failed: {training.stderr.strip()}")
    fresh.rename(file)
    return training.stdout.strip()


def broken(file: Path, from_model: Path) -> None:
    """Save what a copy that was cut off leaves."""
    size = from_model.stat().st_size
    file.write_bytes(from_model.read_bytes())
    os.truncate(file, size // 2)
