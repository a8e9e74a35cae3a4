"""Models as people have them: folders, archives and files of many tools, made anew or kept here.

`xgboost.json` was made by XGBoost 3.2, `xgboost-1.7.bst` by XGBoost 1.7 in the binary format that
3.1 no longer reads, `lightgbm.bst` by LightGBM 4.7.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from demo import SERVING_PYTHON

KEPT = Path(__file__).parent
DOCS = KEPT.parents[1] / "docs" / "local.md"
NAME = "iris"

_OWN_CODE = """
from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceResponse
from answers import ANSWER  # a module beside it

class Own(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        told = StringCodec.encode_output("predict", [ANSWER])
        return InferenceResponse(model_name=self.name, outputs=[told])
"""
ANSWER = "told by code of its own"
_PICKLE = (
    "import joblib, pickle, sys; pickle.dump(joblib.load(sys.argv[1]), open(sys.argv[2], 'wb'))"
)
_MLMODEL = """
flavors:
  python_function:
    env: {virtualenv: python_env.yaml}
    loader_module: mlflow.sklearn
    model_path: model.pkl
    predict_fn: predict
  sklearn:
    pickled_model: model.pkl
    serialization_format: pickle
"""


@dataclass(frozen=True)
class RealModel:
    """`made` writes it into an empty folder, given a trained scikit-learn model's file, and answers
    what to deploy."""

    format: str
    made: Callable[[Path, Path], Path]
    env: dict[str, str] = field(default_factory=dict)


def _settings(folder: Path, **settings: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "model-settings.json").write_text(json.dumps(settings))


def _file(name: str) -> Callable[[Path, Path], Path]:
    def made(folder: Path, trained: Path) -> Path:
        return Path(shutil.copy(trained, folder / name))

    return made


def _folder(file: str, kept: str = "", **settings: object) -> Callable[[Path, Path], Path]:
    """A folder with a model's file, and settings if there are any."""

    def made(folder: Path, trained: Path) -> Path:
        shutil.copy(KEPT / kept if kept else trained, folder / file)
        if settings:
            _settings(folder, **settings)
        return folder

    return made


def _own_code(folder: Path, _: Path) -> Path:
    (folder / "own.py").write_text(_OWN_CODE)
    (folder / "answers.py").write_text(f"ANSWER = {ANSWER!r}")
    _settings(folder, name=NAME, implementation="own.Own")
    return folder


def _two(uri: str) -> Callable[[Path, Path], Path]:
    def made(folder: Path, trained: Path) -> Path:
        for name in (NAME, "lily"):
            parameters = {"parameters": {"uri": uri}} if uri else {}
            _settings(folder / name, name=name, **parameters)
            shutil.copy(trained, folder / name / "model.joblib")
        return folder

    return made


def _mlflow(folder: Path, trained: Path) -> Path:
    (folder / "MLmodel").write_text(_MLMODEL)
    (folder / "python_env.yaml").write_text("python: 3.11.7\n")
    # MLflow reads plain pickles alone.
    subprocess.run([SERVING_PYTHON, "-c", _PICKLE, trained, folder / "model.pkl"], check=True)
    return folder


def _packed(made: Callable[[Path, Path], Path], top: str = ".") -> Callable[[Path, Path], Path]:
    """An archive of what is made, in a folder `top` of it."""

    def packed(folder: Path, trained: Path) -> Path:
        files = folder / "files"
        files.mkdir()
        made(files, trained)
        archive = folder / "iris.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(files, top)
        return archive

    return packed


_IN_SKLEARN = _folder("model.joblib")

# By what the table of docs/local.md calls them.
REAL_MODELS = {
    "a file `iris.joblib`": RealModel("sklearn", _file("iris.joblib")),
    "a folder with `model.joblib`": RealModel("sklearn", _IN_SKLEARN),
    "a folder with `iris.pkl`": RealModel("sklearn", _folder("iris.pkl")),
    "a folder with `iris.pkl`, which the `parameters.uri` of its settings names": RealModel(
        "sklearn", _folder("iris.pkl", parameters={"uri": "./iris.pkl"})
    ),
    "a folder whose settings name an `implementation` in code beside them": RealModel(
        "sklearn", _own_code
    ),
    "a folder whose settings have another `name`": RealModel(
        "sklearn", _folder("model.joblib", name="lily")
    ),
    "the same, with that name as MLSERVER_MODEL_NAME in `env`": RealModel(
        "sklearn", _folder("model.joblib", name="lily"), {"MLSERVER_MODEL_NAME": "lily"}
    ),
    "a folder whose settings ask for an `environment_tarball`": RealModel(
        "sklearn", _folder("model.joblib", parameters={"environment_tarball": "./env.tar.gz"})
    ),
    "folders of several models, whose settings have a `parameters.uri` each": RealModel(
        "sklearn", _two("./model.joblib")
    ),
    "folders of several models, whose settings have no `parameters.uri`": RealModel(
        "sklearn", _two("")
    ),
    "a tarball with `model.joblib`": RealModel("sklearn", _packed(_IN_SKLEARN)),
    "a tarball with `iris/model.joblib`": RealModel("sklearn", _packed(_IN_SKLEARN, "iris")),
    "a folder with `model.json`": RealModel("xgboost", _folder("model.json", "xgboost.json")),
    "a folder with `model.bst` of XGBoost 1.7's binary format": RealModel(
        "xgboost", _folder("model.bst", "xgboost-1.7.bst")
    ),
    "a folder with `model.bst`": RealModel("lightgbm", _folder("model.bst", "lightgbm.bst")),
    "a folder with `model.txt`": RealModel("lightgbm", _folder("model.txt", "lightgbm.bst")),
    "a folder that MLflow saved": RealModel("mlflow", _mlflow),
    "a tarball of it with a top folder": RealModel("mlflow", _packed(_mlflow, "model")),
}


class Row(NamedTuple):
    """Of the table of docs/local.md. Words may follow a reason: "MODEL_LOAD: `words`"."""

    files: str
    format: str
    local: str
    on_kserve: str


def documented() -> Iterator[Row]:
    """The table, row by row."""
    _, table = DOCS.read_text().split("|---|---|---|---|\n")
    for line in table.partition("\n\n")[0].splitlines():
        yield Row(*(cell.strip() for cell in line.split("|")[1:5]))
