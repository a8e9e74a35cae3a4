"""`python -m tests.benchmarks`: measure, print a table, and write the figures as JSON."""

from __future__ import annotations

import argparse
import json
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

from .changing import measure_change
from .comparing import Comparison, table
from .deploying import measure_deploy
from .encrypting import measure_identity, measure_tls
from .listing_deployments import measure_deployments
from .load import LoadFailed
from .peers import PeerFailed
from .reading import measure_get, measure_list
from .samples import NAMESPACE
from .starting import measure_start
from .streaming import measure_streams, measure_streams_of_many

CANNOT_MEASURE = 1
INTERRUPTED = 130
SIZES = (100, 1000, 10_000)
FIGURES = Path("build/benchmarks.json")
_NOT_MEASURED = (
    BuildFailed,
    ComponentFailed,
    InstallFailed,
    LoadFailed,
    PeerFailed,
    TimeoutError,
)


def get(folder: Path) -> list[Comparison]:
    """Get at full load of 100, 1,000 and 10,000 services, beside a bare grpc.aio server."""
    return [
        comparison
        for services in SIZES
        for comparison in measure_get(say, services=services, rounds=16, seconds=0.5, folder=folder)
    ]


def tls(folder: Path) -> list[Comparison]:
    """Get at full load with TLS, beside Get in plaintext."""
    return measure_tls(say, rounds=20, seconds=0.5, folder=folder)


def identity(folder: Path) -> list[Comparison]:
    """Get at full load with TLS, identity, rights, limits, audit and log, beside Get without."""
    return measure_identity(say, rounds=20, seconds=0.5, folder=folder)


def list_(folder: Path) -> list[Comparison]:
    """List of 100, 1,000 and 10,000 services by pages, beside a bare server of the same bytes."""
    return [
        measure_list(say, services=services, rounds=10, page_size=100, folder=folder)
        for services in SIZES
    ]


def deploy(folder: Path) -> list[Comparison]:
    """Deploy on the lab, beside a raw server-side apply of the same object."""
    with booted_lab(say) as lab:
        return [measure_deploy(say, lab, namespace=NAMESPACE, rounds=100, folder=folder)]


def change(folder: Path) -> list[Comparison]:
    """A change at the lab's API server until one client has it, beside a raw watch."""
    with booted_lab(say) as lab:
        return [measure_change(say, lab, namespace=NAMESPACE, rounds=100, folder=folder)]


def start(folder: Path) -> list[Comparison]:
    """Start to SERVING and memory with 1,000 and 10,000 services on the lab, beside raw lists."""
    with booted_lab(say) as lab:
        return measure_start(
            say, lab, namespace=NAMESPACE, sizes=SIZES[1:], rounds=3, folder=folder
        )


def deployments(folder: Path) -> list[Comparison]:
    """A page of ListModelDeployments of 100,000 records, beside one of 1,000: none, each filter."""
    return measure_deployments(say, many=100_000, few=1000, rounds=100, folder=folder)


def streams(folder: Path) -> list[Comparison]:
    """WatchStatus to 100, 1,000 and 10,000 readers, beside a bare server that pushes the same."""
    compared = list[Comparison]()
    for few, changes in ((100, 20), (1000, 10)):
        # They open within 0.2 s: a single measurement scatters by half.
        compared += measure_streams(
            say, streams=few, changes=changes, stalled=0, storms=0, folder=folder, openings=7
        )
    return compared + measure_streams(
        say, streams=10_000, changes=7, stalled=100, storms=3, folder=folder
    )


def streams_of_many(folder: Path) -> list[Comparison]:
    """The memory of WatchStatus of all namespaces, with 1,000 and with 5,000 services."""
    compared = measure_streams_of_many(say, services=1000, streams=400, folder=folder)
    return compared + measure_streams_of_many(say, services=5000, streams=100, folder=folder)


PARTS: dict[str, Callable[[Path], list[Comparison]]] = {
    "streams": streams,
    "streams-of-many": streams_of_many,
    "get": get,
    "tls": tls,
    "identity": identity,
    "list": list_,
    "deployments": deployments,
    "change": change,
    "deploy": deploy,
    "start": start,
}


def main(arguments: Sequence[str]) -> int:
    """Measure what is asked for; 0 whatever comes out, CANNOT_MEASURE when a part does not run,
    INTERRUPTED after Ctrl-C. The parts that were measured are written in any case."""
    asked = _parser().parse_args(arguments)
    began = time.monotonic()
    measured: dict[str, list[Comparison]] = {}
    code = 0
    try:
        for name in asked.parts or PARTS:
            code = _measure(name, measured) or code
    except KeyboardInterrupt:
        code = INTERRUPTED
    comparisons = [comparison for part in measured.values() for comparison in part]
    say(f"\n{table(comparisons)}\n\nmedians, in {time.monotonic() - began:.0f} s")
    figures = {part: [c.figures for c in compared] for part, compared in measured.items()}
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(figures, indent=2) + "\n")
    say(f"all figures: {asked.json}")
    return code


def say(line: str) -> None:
    print(line, flush=True)


def _measure(name: str, measured: dict[str, list[Comparison]]) -> int:
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="modelservice-bench-") as folder:
            measured[name] = PARTS[name](Path(folder))
    except _NOT_MEASURED as error:
        return _cannot(name, str(error))
    except grpc.RpcError as error:
        return _cannot(name, f"a call failed: {error}")
    say(f"{name}: measured in {time.monotonic() - began:.0f} s")
    return 0


def _cannot(name: str, why: str) -> int:
    print(f"error: {name} cannot be measured: {why}", file=sys.stderr, flush=True)
    return CANNOT_MEASURE


def _part(name: str) -> str:
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(PARTS)}, got {name!r}")
    return name


def _parser() -> argparse.ArgumentParser:
    parts = "\n".join(f"  {name:16}{part.__doc__}" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measure the server side by side with what it stands on, and print the ratios "
        "beside what is aimed at. It reports and does not judge: the exit code is 0 unless "
        "something cannot be measured. On a busy machine both sides are slow, and the ratios "
        "scatter.",
        epilog=f"parts:\n{parts}\n\nexamples:\n"
        "  python -m tests.benchmarks\n"
        "  python -m tests.benchmarks streams get --json /tmp/figures.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "parts", nargs="*", type=_part, metavar="PART", help="a part; without any: all"
    )
    parser.add_argument(
        "--json", type=Path, default=FIGURES, metavar="FILE", help=f"default: {FIGURES}"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
