"""`python -m tests.benchmarks`: measure, and print a table."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc

# In a checkout the stubs are not installed.
sys.path.append(str(Path(__file__).parents[2] / "generated"))

from lab import BuildFailed, ComponentFailed, booted_lab
from lab.debian import InstallFailed

from .comparing import Comparison, table
from .deploying import measure_deploy
from .encrypting import measure_tls
from .listing_deployments import measure_deployments
from .load import LoadFailed
from .peers import PeerFailed
from .reading import measure_get, measure_list
from .samples import NAMESPACE
from .starting import measure_start

CANNOT_MEASURE = 1
_NOT_MEASURED = (
    BuildFailed,
    ComponentFailed,
    InstallFailed,
    LoadFailed,
    PeerFailed,
    TimeoutError,
)


def get(folder: Path) -> list[Comparison]:
    """Get at full load, beside a bare grpc.aio server that sends the same bytes."""
    return measure_get(say, rounds=40, seconds=0.5, folder=folder)


def tls(folder: Path) -> list[Comparison]:
    """Get at full load with TLS, beside Get in plaintext."""
    return measure_tls(say, rounds=40, seconds=0.5, folder=folder)


def list_(folder: Path) -> list[Comparison]:
    """List of 1,000 services by pages, beside a bare grpc.aio server sending one page's bytes."""
    return [measure_list(say, services=1000, rounds=40, page_size=100, folder=folder)]


def deploy(folder: Path) -> list[Comparison]:
    """Deploy on the lab, beside a raw server-side apply of the same object."""
    with booted_lab(say) as lab:
        return [measure_deploy(say, lab, namespace=NAMESPACE, rounds=100, folder=folder)]


def start(folder: Path) -> list[Comparison]:
    """Start to SERVING with 1,000 services on the lab, beside raw lists of the same kinds."""
    with booted_lab(say) as lab:
        return measure_start(say, lab, namespace=NAMESPACE, services=1000, rounds=5, folder=folder)


def deployments(folder: Path) -> list[Comparison]:
    """A page of ListModelDeployments of 100,000 records, beside one of 1,000: none, each filter."""
    return measure_deployments(say, many=100_000, few=1000, rounds=100, folder=folder)


PARTS: dict[str, Callable[[Path], list[Comparison]]] = {
    "get": get,
    "tls": tls,
    "list": list_,
    "deployments": deployments,
    "deploy": deploy,
    "start": start,
}


def main(arguments: Sequence[str]) -> int:
    """Measure what is asked for; 0 whatever comes out, CANNOT_MEASURE when a part does not run."""
    chosen = _parser().parse_args(arguments).only or list(PARTS)
    began = time.monotonic()
    comparisons: list[Comparison] = []
    code = 0
    for name in chosen:
        try:
            with tempfile.TemporaryDirectory(prefix="modelservice-bench-") as folder:
                comparisons += PARTS[name](Path(folder))
        except _NOT_MEASURED as error:
            code = _cannot(name, str(error))
        except grpc.RpcError as error:
            code = _cannot(name, f"a call failed: {error}")
    say(f"\n{table(comparisons)}\n\nmedians, in {time.monotonic() - began:.0f} s")
    return code


def say(line: str) -> None:
    print(line, flush=True)


def _cannot(name: str, why: str) -> int:
    print(f"error: {name} cannot be measured: {why}", file=sys.stderr, flush=True)
    return CANNOT_MEASURE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure the server side by side with what it stands on, and print the ratios "
        "beside what is aimed at. It reports and does not judge: the exit code is 0 unless "
        "something cannot be measured. On a busy machine both sides are slow, and the ratios "
        "scatter.",
        epilog="\n".join(f"  {name:12}{part.__doc__}" for name, part in PARTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help="of these parts")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
