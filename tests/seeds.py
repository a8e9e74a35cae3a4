"""The seed of random tests."""

from __future__ import annotations

import os
import random


def chosen_seed() -> int:
    """Return MODELSERVICE_TEST_SEED, or a random seed. The test prints it, to be repeated."""
    return int(os.environ.get("MODELSERVICE_TEST_SEED") or random.randrange(2**32))
