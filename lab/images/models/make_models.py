"""Make the folders that tests serve models from, below the folder given.

iris-v1 predicts the class of a flower (0, 1, 2) and iris-v2 ten more, so that an answer tells which
of them gave it. iris-corrupt is iris-v1 cut in half, and iris-nothing has no model file.
"""

import sys
from pathlib import Path

import joblib
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression


def main(folder: Path) -> None:
    """Write the folders."""
    flowers, classes = load_iris(return_X_y=True)
    for name, added in {"iris-v1": 0, "iris-v2": 10}.items():
        model = LogisticRegression(max_iter=1000).fit(flowers, classes + added)
        joblib.dump(model, _made(folder / name) / "model.joblib")
    whole = (folder / "iris-v1" / "model.joblib").read_bytes()
    (_made(folder / "iris-corrupt") / "model.joblib").write_bytes(whole[: len(whole) // 2])
    (_made(folder / "iris-nothing") / "README").write_text("The model file was forgotten.\n")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


main(Path(sys.argv[1]))
