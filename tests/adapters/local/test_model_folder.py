"""What MLServer would misread of a model's folder is refused before it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.adapters.local.runtimes.model_folder import (
    MOST_SETTINGS_BYTES,
    MOST_SETTINGS_FILES,
    ModelUnfit,
    check_folder,
)
from server.adapters.local.runtimes.runtime_table import FormatRow

SETTINGS = "model-settings.json"
SKLEARN = FormatRow(
    name="sklearn",
    implementation="mlserver_sklearn.SKLearnModel",
    model_files=("model.joblib", "model.pkl"),
)


def write(folder: Path, settings: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = settings if isinstance(settings, str) else json.dumps(settings)
    (folder / SETTINGS).write_text(text)


def refused(folder: Path, name: str = "iris") -> ModelUnfit:
    with pytest.raises(ModelUnfit) as caught:
        check_folder(folder, name, SETTINGS, SKLEARN)
    return caught.value


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "must be a JSON object"),
        ('{"name": "' + "x" * MOST_SETTINGS_BYTES + '"}', f"more than {MOST_SETTINGS_BYTES} bytes"),
        ({"name": ["iris"]}, "but must name iris"),
        ({"parameters": {"environment_path": "/x"}}, "parameters.environment_path"),
        ({"parameters": {"uri": "."}}, "model.joblib, model.pkl"),
        ({"parameters": []}, "model.joblib, model.pkl"),
    ],
)
def test_settings_that_cannot_be_followed_are_named(
    settings: object, says: str, tmp_path: Path
) -> None:
    write(tmp_path / "deep" / "down", settings)
    assert says in str(refused(tmp_path))


def test_the_names_that_the_settings_have_are_offered(tmp_path: Path) -> None:
    for name in ("lily", "rose"):
        write(tmp_path / name, {"name": name, "implementation": "own.Model"})
    assert "set MLSERVER_MODEL_NAME in spec.env to one of lily, rose" in refused(tmp_path).remedy
    check_folder(tmp_path, "rose", SETTINGS, SKLEARN)


def test_settings_that_mlserver_does_not_find_do_not_count(tmp_path: Path) -> None:
    write(tmp_path / ".git", {"name": "lily", "implementation": "own.Model"})
    assert "must have a file of the format" in str(refused(tmp_path))


def test_settings_are_counted(tmp_path: Path) -> None:
    for n in range(MOST_SETTINGS_FILES + 1):
        write(tmp_path / str(n), {"name": "iris", "implementation": "own.Model"})
    assert f"more than {MOST_SETTINGS_FILES} files" in str(refused(tmp_path))


def test_a_folder_without_the_files_of_its_format_is_refused_with_its_content(
    tmp_path: Path,
) -> None:
    for n in range(9):
        (tmp_path / f"{n}.pkl").touch()
    unfit = refused(tmp_path)
    assert "0.pkl, 1.pkl, 2.pkl, 3.pkl, 4.pkl and 4 more" in unfit.message
    assert "model.joblib or model.pkl" in unfit.remedy
    (tmp_path / "model.pkl").touch()
    check_folder(tmp_path, "iris", SETTINGS, SKLEARN)
