"""`python -m demo`: deploy a model, follow it, ask it, and see how a broken one fails.

With `serve`: keep a server running, and say what to call it with.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import grpc
import psutil

from demo.server_process import STOP_SECONDS, ServerFailed
from demo.serving import serve
from demo.story import WentWrong, tell
from demo.training import NotTrained

FAILED = 1
INTERRUPTED = 130


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["serve"], help="keep a server running")
    arguments = parser.parse_args()
    with ExitStack() as left:
        # As Ctrl-C: everything that was started is ended, also when the terminal is closed; Ctrl-C
        # too, since a shell has its background jobs ignore it, and the server beside this does not.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: _end(left))
        return _run(arguments.what, left)


def _run(what: str | None, left: ExitStack) -> int:
    try:
        serve() if what else tell(_folder(left))
    except (NotTrained, ServerFailed, WentWrong) as e:
        print(f"\nerror: {e}", file=sys.stderr)
        return FAILED
    except grpc.RpcError as e:
        print(f"\nerror: {e.code().name}: {e.details()}", file=sys.stderr)
        return FAILED
    return 0


def _folder(left: ExitStack) -> Path:
    """For everything that the demo keeps; gone when what is left is closed."""
    return Path(left.enter_context(TemporaryDirectory(prefix="modelservice-demo-")))


def _end(left: ExitStack) -> NoReturn:
    """End what was started, then this.

    Not by an exception: one that is raised in the middle of gRPC may leave a lock of its held, and
    its channel would wait for that for ever.
    """
    started = psutil.Process().children()
    for process in started:
        process.terminate()
    _, stuck = psutil.wait_procs(started, STOP_SECONDS)
    for process in stuck:
        process.kill()
    left.close()
    os.write(2, b"\ninterrupted; what was started has been ended\n")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
