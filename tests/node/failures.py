"""How first rollouts fail on a real node, all at once: `python -m tests.node.failures` (`make
failures`) boots one, follows them for twelve minutes and prints the table.

It ends with 1 if one was told for a wrong reason.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# In a checkout the stubs are not installed.
sys.path.append(str(Path(__file__).parents[2] / "generated"))

from modelservice.v1.inference_service_pb2 import ContainerPredictor, Resources, SecretKeyRef

from lab import BuildFailed, ComponentFailed, Mode, NodeLab, booted_node_lab, images
from tests.cluster.asking import Spec, model
from tests.cluster.failure_table import table
from tests.cluster.failures import Case, deployed, faults, follow
from tests.cluster.serving import install, serving
from tests.cluster.symptoms import pod_in_trouble, pod_initialises, warned_of

SECONDS = 720.0
SECRET = "open-sesame-1234"
MAIN, DOWNLOAD = "kserve-container", "storage-initializer"
STAND_IN = "the storage initializer is a stand-in with the real one's exit codes and words"

_EATS = (
    "print('reading 40 GB of weights', flush=True); b=[]\nwhile True: b.append(bytearray(2**20))"
)
_FILLS = "open('/tmp/model.bin', 'wb').write(bytes(64 * 2**20)); __import__('time').sleep(9999)"
# The pod's shared memory outlives its containers: the first run ends at once, the others serve.
_FLAPS = """[ -e /dev/shm/again ] || { touch /dev/shm/again; echo "no licence yet" >&2; exit 1; }
exec python3 /model_server.py --flap 5 --log "the licence has run out"
"""


def small(memory: str = "", disk: str = "") -> Resources:
    """So that all find room on one node."""
    limits = {"memory": memory, "ephemeral-storage": disk}
    return Resources(
        requests={"cpu": "10m", "memory": "32Mi"}, limits={k: v for k, v in limits.items() if v}
    )


def custom(image: str, *command: str, args: Sequence[str] = (), **fields: Any) -> Spec:
    """A container of the caller's own, without a model to download."""
    predictor = ContainerPredictor(image=image, command=command, args=args)
    return Spec(container=predictor, **{"resources": small()} | fields)


def server(*args: str, **fields: Any) -> Spec:
    """A model server, which fails as its arguments say."""
    return custom(images.MODEL_SERVER, args=args, **fields)


def sklearn(uri: str, **fields: Any) -> Spec:
    """A scikit-learn model for MLServer."""
    return model("sklearn", uri, "kserve-mlserver", **{"resources": small()} | fields)


CORRUPT = Case(
    "corrupt model",
    sklearn("pvc://models/iris-corrupt"),
    "MODEL_LOAD",
    container=MAIN,
    exit_code=0,
    log="Error: ",
)
LOADS_NOTHING = Case(
    "failing readiness",
    server("--loads-nothing", "--log", "waiting for the weights", env={"PROTOCOL": "v2"}),
    "NOT_ANSWERING",
    "PROGRESSING",
    container=MAIN,
    log="waiting for the weights",
    wait=60,
    symptom=warned_of("Unhealthy"),
)
FLAPPING = Case(
    "ready for 5 s, again and again",
    custom(images.MODEL_SERVER, "sh", "-c", _FLAPS),
    "CRASH_LOOP",
    container=MAIN,
    exit_code=1,
    log="licence",
)

# Named after three minutes, for which not every run waits.
HANGS = Case(
    "download: hangs",
    sklearn("gs://lab-models/hangs"),
    "STORAGE_DOWNLOAD",
    "PROGRESSING",
    container=DOWNLOAD,
    log="Copying contents of gs://lab-models/hangs",
    wait=180,
    symptom=pod_initialises,
    limit=STAND_IN,
)

CASES = (
    Case("image missing", custom("lab/no-such-image:1"), "IMAGE_PULL", container=MAIN),
    Case("image pull denied", custom("denied/private:1"), "IMAGE_PULL", container=MAIN),
    Case(
        "exit 1 at start",
        server("--exit", "1", "--log", "ValueError: unknown setting"),
        "CRASH_LOOP",
        container=MAIN,
        exit_code=1,
        log="ValueError: unknown setting",
    ),
    Case(
        "exit 0 at start",
        server("--exit", "0", "--log", "nothing to serve"),
        "CRASH_LOOP",
        container=MAIN,
        exit_code=0,
        log="nothing to serve",
    ),
    CORRUPT,
    Case(
        "model file missing",
        sklearn("pvc://models/iris-nothing"),
        "MODEL_LOAD",
        container=MAIN,
        exit_code=0,
        log="Error: ",
    ),
    Case(
        "out of memory",
        custom(images.PYTHON, "python3", "-c", _EATS, resources=small(memory="64Mi")),
        "OUT_OF_MEMORY",
        container=MAIN,
        exit_code=137,
        log="reading 40 GB of weights",
    ),
    Case(
        "wrong command",
        custom(images.MODEL_SERVER, "no-such-program"),
        "CONTAINER_CONFIG",
        container=MAIN,
        exit_code=128,
    ),
    Case(
        "prints a secret of its own",
        custom(
            images.MODEL_SERVER,
            "sh",
            "-c",
            'echo "cannot log in with $LOGIN" | tee /dev/termination-log; exit 1',
            secret_env={"LOGIN": SecretKeyRef(secret="login", key="password")},
        ),
        "CRASH_LOOP",
        container=MAIN,
        exit_code=1,
        log="(not shown: the container has values of Secrets in its environment",
    ),
    Case(
        "secret missing",
        server(secret_env={"KEY": SecretKeyRef(secret="none", key="k")}),
        "CONTAINER_CONFIG",
        container=MAIN,
    ),
    LOADS_NOTHING,
    FLAPPING,
    Case(
        "no disk space for the model",
        custom(images.PYTHON, "python3", "-c", _FILLS, resources=small(disk="16Mi")),
        "EVICTED",
        symptom=lambda sight: pod_in_trouble(sight) or warned_of("Evicted")(sight),
    ),
    Case(
        "CPU that no node has",
        server(resources=Resources(requests={"cpu": "1000"})),
        "UNSCHEDULABLE",
        wait=60,
    ),
    Case("PVC missing", sklearn("pvc://no-such-claim/iris"), "VOLUME", wait=10),
    Case("ServiceAccount missing", server(service_account="nobody"), "POD_REJECTED", wait=10),
    Case(
        "download: 404",
        sklearn("gs://lab-models/no-such-model"),
        "STORAGE_DOWNLOAD",
        container=DOWNLOAD,
        exit_code=1,
        log="No model found",
        limit=STAND_IN,
    ),
    Case(
        "download: no space",
        sklearn("gs://lab-models/no-space"),
        "STORAGE_DOWNLOAD",
        container=DOWNLOAD,
        exit_code=1,
        log="No space left on device",
        limit=STAND_IN,
    ),
    Case(
        "model image without /models",
        sklearn(f"oci://{images.PYTHON}"),
        "STORAGE_DOWNLOAD",
        container="modelcar-init",
        exit_code=1,
        log="modelcar is invalid",
    ),
    Case("download: copies", sklearn("gs://lab-models/iris-v1"), state="READY", limit=STAND_IN),
)


def put_models(lab: NodeLab, namespace: str) -> None:
    """The claim `models` and the Secret `login` that the cases name."""
    lab.put_models(images.models(lambda _: None), namespace)
    login = {"name": "login", "namespace": namespace}
    lab.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": login,
            "stringData": {"password": SECRET},
        }
    )


def main(cases: Sequence[Case] = (*CASES, HANGS), mode: Mode = "standard") -> int:
    """Run the program for `cases`, KServe being in this mode; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long to follow them")
    try:
        wrong = run(cases, mode, parser.parse_args().seconds)
    except (BuildFailed, ComponentFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for what, found in wrong.items():
        print(f"wrong: {what}: {'; '.join(found)}", file=sys.stderr)
    return 1 if wrong else 0


def run(cases: Sequence[Case], mode: Mode, seconds: float) -> dict[str, list[str]]:
    """Print the table; what was told wrong, by case."""
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:5.0f}] {line}", flush=True)

    with (
        booted_node_lab(say, mode) as lab,
        tempfile.TemporaryDirectory() as folder,
        serving(install(lab), Path(folder)) as replicas,
        deployed(lab, replicas.start().stub, cases, lambda n: put_models(lab, n)) as trials,
    ):
        lasted = follow(trials, seconds, at_least=seconds, say=say)
        print(table(trials, lasted))
        return {trial.case.what: found for trial in trials if (found := faults(trial))}


if __name__ == "__main__":
    sys.exit(main())
