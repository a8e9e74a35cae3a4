"""A caller's worst, on the running server: `make attack`.

Each attack runs against `python -m server`, while a well-behaved client and a liveness probe, in a
process of their own, measure what is left for them. The attacker runs at the lowest priority of the
scheduler (nice 19): in production it has another machine's CPUs. `beside.py` measures what a flood
of one caller does to another one, beside a bare gRPC server.
"""

from pathlib import Path

ROOT = Path(__file__).parents[2]
