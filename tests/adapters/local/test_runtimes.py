"""A model gets the serving runtime that fits it, if that is installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from server.adapters.local.runtimes.runtime_table import RuntimesInvalid
from server.adapters.local.runtimes.runtimes import LaunchContext, NoRuntime, Runtimes
from server.domain.service.inference_service import ModelFormat, ModelPredictor

# A stand-in for the serving environment: this Python has pytest, and no MLServer.
PYTHON = Path(sys.executable)

OWN = """
[[runtime]]
name = "{name}"
protocols = ["v2", "v1"]
command = ["{{python}}", "serve", "--on={{port}}", "--as", "{{server_name}}", "{{model}}"]
ready = "/v2/models/{{model_name}}/ready"
files."a.json" = {{ deep = ["{{implementation}}", 1, true], braces = "{{}}" }}

[[runtime.formats]]
name = "own"
implementation = "own.Model"
package = "{package}"
"""


def asking(name: str, version: str = "", **named: str) -> ModelPredictor:
    return ModelPredictor(ModelFormat(name, version), **named)


async def refused(runtimes: Runtimes, model: ModelPredictor, python: Path = PYTHON) -> NoRuntime:
    with pytest.raises(NoRuntime) as caught:
        await runtimes.select(model, python)
    return caught.value


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """An operator's file of runtimes."""
    file = tmp_path / "runtimes.toml"
    file.write_text(OWN.format(name="own-server", package="pytest>=9"))
    return file


@pytest.fixture
def context(tmp_path: Path) -> LaunchContext:
    model = tmp_path / "model" / "iris.joblib"
    return LaunchContext(
        PYTHON, tmp_path / "run", 8123, "team/iris/3/n0nce", "iris", model, ("-v",)
    )


@pytest.mark.parametrize("name", ["sklearn", "xgboost", "lightgbm", "mlflow", "huggingface"])
async def test_each_format_names_the_package_that_is_absent_and_how_it_is_installed(
    name: str,
) -> None:
    failed = await refused(Runtimes.load(), asking(name))
    assert f"lacks the package mlserver-{name}==" in failed.message
    assert f"{PYTHON} -m pip install mlserver-{name}==" in failed.remedy


async def test_a_serving_environment_that_is_not_there_is_made_by_make_serving() -> None:
    failed = await refused(Runtimes.load(), asking("sklearn"), Path("/absent/bin/python"))
    assert "/absent/bin/python does not start" in failed.message
    assert "make serving" in failed.remedy


async def test_what_is_not_offered_is_refused_with_what_is() -> None:
    runtimes = Runtimes.load()
    for model, message, offered in (
        (asking("onnx"), "the format onnx", "huggingface, lightgbm, mlflow, sklearn, xgboost"),
        (asking("sklearn", "7"), "the version 7", "0, 1"),
        (asking("sklearn", runtime="triton"), "the name triton", "kserve-mlserver"),
        (asking("sklearn", protocol_version="v1"), "the protocol_version v1", "v2"),
    ):
        failed = await refused(runtimes, model)
        assert message in failed.message
        assert offered in failed.remedy


async def test_a_package_that_is_installed_after_a_refusal_is_found(
    own: Path, tmp_path: Path
) -> None:
    runtimes = Runtimes.load(own)
    later = tmp_path / "environment" / "python"
    await refused(runtimes, asking("own"), later)
    later.parent.mkdir()
    later.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    later.chmod(0o755)
    assert (await runtimes.select(asking("own"), later)).name == "own-server"


async def test_a_runtime_of_the_operators_own_is_launched_as_the_file_says(
    own: Path, context: LaunchContext
) -> None:
    runtime = await Runtimes.load(own).select(asking("own", "any", protocol_version="v1"), PYTHON)
    launch = runtime.launch(context)
    serve = ("serve", "--on=8123", "--as", "team/iris/3/n0nce", str(context.model), "-v")
    assert launch.command == (str(PYTHON), *serve)
    assert launch.ready_path == "/v2/models/iris/ready"
    assert json.loads(launch.files["a.json"]) == {"deep": ["own.Model", 1, True], "braces": "{}"}


async def test_a_runtime_of_the_operators_own_takes_the_place_of_ours_by_name(own: Path) -> None:
    own.write_text(OWN.format(name="kserve-mlserver", package=""))
    runtimes = Runtimes.load(own)
    assert (await runtimes.select(asking("own"), PYTHON)).name == "kserve-mlserver"
    assert "use one of own;" in (await refused(runtimes, asking("sklearn"))).remedy


async def test_mlserver_serves_one_model_on_one_port_of_this_machine(
    own: Path, context: LaunchContext
) -> None:
    built_in = Path(sys.modules[Runtimes.__module__].__file__).with_name("runtimes.toml")
    own.write_text(built_in.read_text().replace('"mlserver-sklearn==1.7.1"', '"pytest"'))
    launch = (await Runtimes.load(own).select(asking("sklearn"), PYTHON)).launch(context)
    settings = json.loads(launch.files["settings.json"])
    assert settings["host"] == "127.0.0.1"
    assert settings["http_port"] == "8123"
    assert settings["server_name"] == "team/iris/3/n0nce"
    assert (settings["grpc_port"], settings["parallel_workers"]) == (0, 0)
    assert launch.env == {
        "MLSERVER_MODEL_NAME": "iris",
        "MLSERVER_MODEL_IMPLEMENTATION": "mlserver_sklearn.SKLearnModel",
        "MLSERVER_MODEL_URI": str(context.model),
    }
    assert not launch.links


@pytest.mark.parametrize(
    ("replace", "by", "says"),
    [
        ("{{port}}", "{{prot}}", "runtime.0.command: {prot} is no placeholder"),
        ("ready =", "raedy =", "runtime.0.ready: Field required"),
        ("protocols =", "protocols", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_where_it_is_wrong(
    own: Path, replace: str, by: str, says: str
) -> None:
    own.write_text(OWN.replace(replace, by).format(name="own-server", package=""))
    with pytest.raises(RuntimesInvalid, match=f"{own}.*") as caught:
        Runtimes.load(own)
    assert says in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimesInvalid, match="No such file"):
        Runtimes.load(tmp_path / "absent.toml")
