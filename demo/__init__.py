"""The demo: a model deployed, followed, asked and broken, on this machine with nothing else."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SERVING_PYTHON = ROOT / ".venv-serving" / "bin" / "python"

# The stubs, which are not installed in a checkout.
sys.path.append(str(ROOT / "generated"))
