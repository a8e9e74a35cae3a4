"""`python -m tests.demo`: deploy a model, follow it, ask it, and see how a broken one fails.

With `serve`: keep a server running, and say what to call it with.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc

from tests.demo.server_process import ServerFailed
from tests.demo.serving import serve
from tests.demo.story import WentWrong, tell
from tests.demo.training import NotTrained

FAILED = 1
INTERRUPTED = 130


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["serve"], help="keep a server running")
    arguments = parser.parse_args()
    # As Ctrl-C: everything that was started is ended, also when the terminal is closed; Ctrl-C too,
    # since a shell has its background jobs ignore it, and the server beside this does not.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        serve() if arguments.what else _demo()
    except KeyboardInterrupt:
        print("\ninterrupted; what was started has been ended", file=sys.stderr)
        return INTERRUPTED
    except (NotTrained, ServerFailed, WentWrong) as e:
        print(f"\nerror: {e}", file=sys.stderr)
        return FAILED
    except grpc.RpcError as e:
        print(f"\nerror: {e.code().name}: {e.details()}", file=sys.stderr)
        return FAILED
    return 0


def _demo() -> None:
    with TemporaryDirectory(prefix="modelservice-demo-") as folder:
        tell(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
