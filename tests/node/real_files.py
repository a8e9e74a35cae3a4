"""What MLServer on a real node makes of real files, beside what docs/local.md says of it:
`python -m tests.node.real_files` boots one, deploys those of sklearn and prints a line for each.

It ends with 1 if one is otherwise. The lab's image of MLServer has sklearn alone.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

# In a checkout the stubs are not installed.
sys.path.append(str(Path(__file__).parents[2] / "generated"))

from demo.training import trained
from lab import booted_node_lab
from tests.cluster.asking import Reason, State, model
from tests.cluster.failures import Case, Trial, deployed, follow
from tests.cluster.serving import install, serving
from tests.node.failures import small
from tests.real_models import NAME, REAL_MODELS, documented

# MLServer takes two minutes to give up a load where a dozen start at once on two cores.
SECONDS = 480.0
_NAME_VARIABLE = "MLSERVER_MODEL_NAME"


def main() -> int:
    """Run the program; its exit code."""
    with (
        tempfile.TemporaryDirectory() as folder,
        booted_node_lab() as lab,
        serving(install(lab), Path(folder)) as replicas,
    ):
        claim = Path(folder) / "models"
        cases = list(_cases(Path(folder), claim))
        stub = replicas.start().stub
        with deployed(lab, stub, cases, lambda n: lab.put_models(claim, n)) as trials:
            follow(trials, SECONDS, say=lambda _: None)
            wrong = [trial for trial in trials if not _is_as_documented(trial)]
            for trial in trials:
                print("WRONG" if trial in wrong else "ok   ", trial.case.what, "|", _shown(trial))
    return 1 if wrong else 0


def _cases(folder: Path, claim: Path) -> Iterator[Case]:
    """One for each row, and its files in a folder of the claim, archives unpacked."""
    trained(folder / "iris.joblib")
    for number, row in enumerate(documented()):
        reason, _, words = row.on_kserve.partition(": ")
        if row.format != "sklearn" or "," in row.on_kserve:
            continue
        real, work = REAL_MODELS[row.files], folder / str(number)
        work.mkdir()
        _lay_out(real.made(work, folder / "iris.joblib"), claim / str(number))
        spec = model("sklearn", f"pvc://models/{number}", "kserve-mlserver", resources=small())
        # The services have other names here than the table's.
        spec.env.update({_NAME_VARIABLE: NAME} | real.env)
        ready = reason == "READY"
        yield Case(
            row.files,
            spec,
            "" if ready else reason,
            "READY" if ready else "FAILED",
            log=words.strip("`"),
        )


def _lay_out(made: Path, target: Path) -> None:
    if made.is_dir():
        shutil.copytree(made, target)
    elif made.name.endswith(".tar.gz"):
        with tarfile.open(made) as archive:
            archive.extractall(target, filter="data")
    else:
        target.mkdir(parents=True)
        shutil.copy(made, target)


def _is_as_documented(trial: Trial) -> bool:
    if not trial.case.reason:
        return trial.was_ready
    named = trial.moments().named is not None
    return named and not trial.was_ready and trial.case.log in trial.log_line


def _shown(trial: Trial) -> str:
    status = trial.last.status
    return f"{State.Name(status.state)} {Reason.Name(status.failure.reason)} {trial.log_line}"


if __name__ == "__main__":
    sys.exit(main())
