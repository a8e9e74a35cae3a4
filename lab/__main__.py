"""`python -m lab`: boot a lab, say how to use it, stay until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import get_args

from . import BuildFailed, ComponentFailed, Lab, NodeLab, booted_lab, booted_node_lab, images
from .builds import NEWEST_KSERVE, KServe, Mode, Say

Booted = Callable[[Say, Mode, KServe], AbstractContextManager[Lab]]
BOOTED: dict[str, Booted] = {
    "simulated": booted_lab,
    "real": booted_node_lab,
}


class Ended(BaseException):
    """SIGTERM or Ctrl-C came."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lab",
        description="Boot a KServe control plane (etcd, kube-apiserver, controller manager, "
        "scheduler, KServe's controller) with one node, building first what is missing. It stays "
        "until Ctrl-C and leaves nothing behind but the builds in ~/.cache/modelservice/lab.",
    )
    parser.add_argument(
        "--node",
        choices=BOOTED,
        default="simulated",
        help="simulated: KWOK plays it, no image is needed and any user can boot it. real: a "
        "kubelet with containerd, which needs Linux, root and Debian's packages",
    )
    parser.add_argument(
        "--mode",
        choices=get_args(Mode),
        default="standard",
        help="of KServe. knative: with Knative Serving, which needs Linux and root",
    )
    parser.add_argument(
        "--kserve",
        choices=get_args(KServe),
        default=NEWEST_KSERVE,
        help="KServe's release; each one takes some minutes to build the first time",
    )
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    try:
        _serve(BOOTED[arguments.node], arguments.mode, arguments.kserve)
    except Ended:
        say("stopped")
    except (BuildFailed, ComponentFailed, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def say(line: str) -> None:
    print(line, flush=True)


def _serve(booted: Booted, mode: Mode, kserve: KServe) -> None:
    began = time.monotonic()
    with booted(say, mode, kserve) as lab:
        if isinstance(lab, NodeLab):
            lab.put_models(images.models(say), "default")
        say(f"booted in {time.monotonic() - began:.1f} s\n")
        say(_how_to_use(lab))
        try:
            while True:
                signal.pause()
        except Ended:
            say("\nstopping")
            raise


def _how_to_use(lab: Lab) -> str:
    return f"""For kubectl:
  export KUBECONFIG={lab.kubeconfig}
For the server:
  export KSERVE_ENABLED=true KUBERNETES_KUBECONFIG={lab.kubeconfig}
kubectl and grpcurl:
  export PATH=$PATH:{lab.programs["kubectl"].parent}:{lab.programs["grpcurl"].parent}
{_models(lab)}Logs: {lab.logs}
Ctrl-C ends it."""


def _models(lab: Lab) -> str:
    if not isinstance(lab, NodeLab):
        return ""
    return """Models, in the namespace default:
  pvc://models/iris-v1, pvc://models/iris-v2 (scikit-learn; the image of MLServer is there)
"""


def _end(_number: int, _frame: object) -> None:
    # Only once: a second Ctrl-C must not cut the stopping short.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise Ended


if __name__ == "__main__":
    sys.exit(main())
