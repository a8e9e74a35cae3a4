"""The demo, as a newcomer runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from demo import ROOT, SERVING_PYTHON
from demo.server_process import server_process
from demo.training import trained

PATIENCE_SECONDS = 120.0

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        not SERVING_PYTHON.exists(), reason="no .venv-serving to run model servers in: make serving"
    ),
]


@contextmanager
def demo(**environment: str) -> Iterator[subprocess.Popen[str]]:
    """The demo as a process, in a group of its own as on a terminal."""
    process = subprocess.Popen(
        [sys.executable, "-m", "demo"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What it says up to a line with this text; the test's own timeout bounds it."""
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f"it never says {text!r}: {said}")


def folder_of(said: str) -> Path:
    """Where it keeps everything."""
    return Path(re.search(r"saved as (.*)/", said)[1])


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every process that was started with something in that folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(folder) in f"{process.cmdline()} {process.environ()}":
                found.append(process)
    return found


def first_block(document: str, language: str) -> str:
    """The first block of code in a document in this language."""
    return (ROOT / document).read_text().split(f"```{language}\n")[1].partition("```\n")[0]


def essence(said: str) -> list[str]:
    """What is the same each time: not the numbers and names, nor what is seen on the way."""
    same = re.sub(r"demo-\w+|\d+", "N", said.removeprefix("$ make demo\n"))
    same = re.sub(r" +N\.N s ", " N.N s ", same)  # ten seconds take a column more
    return [line for line in same.splitlines() if "PROGRESSING" not in line and line]


def gone(folder: Path) -> bool:
    ends = time.monotonic() + PATIENCE_SECONDS
    while processes_of(folder):
        if time.monotonic() > ends:
            return False
        time.sleep(0.1)
    return not folder.exists()


def test_the_demo_deploys_predicts_fails_and_ends_clean() -> None:
    # Settings for a real cluster do not reach it.
    with demo(KSERVE_ENABLED="true", MODELSERVICE_LISTEN="127.0.0.1:1") as process:
        said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    states = re.findall(r"\d s  ([A-Z]+)", said)
    assert states[0] in ("PENDING", "PROGRESSING")
    assert [state for state in states if state not in ("PENDING", "PROGRESSING")] == [
        "READY",
        "DEGRADED",
    ]
    answers = re.findall(r"\(.*\) -> (\w+)", said)
    assert answers == ["setosa", "versicolor", "virginica", "virginica"]
    assert "FAILED_PRECONDITION, ROLLOUT_FAILED" in said
    assert re.search(r"reason +MODEL_LOAD", said)
    assert "| ValueError: EOF: reading array data" in said
    assert "\x1b" not in said, "colours in a pipe"
    assert gone(folder_of(said))
    shown = first_block("README.md", "console")
    assert essence(said) == essence(shown), "the README shows another demo"


@pytest.mark.parametrize("at", ["listens on", "loading the model", "-> setosa"])
def test_ctrl_c_ends_everything_that_it_started(at: str) -> None:
    with demo() as process:
        said = read_until(process, at)
        os.killpg(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    assert gone(folder_of(said))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_demo_alone_ends_everything_too(number: signal.Signals) -> None:
    with demo() as process:
        said = read_until(process, "-> setosa")
        process.send_signal(number)
        rest, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, rest
    assert gone(folder_of(said))


def test_the_document_shows_how_python_calls_it(tmp_path: Path) -> None:
    model = tmp_path / "iris.joblib"
    trained(model)
    code = first_block("docs/api.md", "python").replace(
        'f"{os.getcwd()}/build/demo/iris.joblib"', f'"{model}"'
    )
    with server_process(tmp_path) as server:
        calling = subprocess.run(
            [sys.executable, "-c", code.replace("localhost:50051", server.address())],
            env=os.environ | {"PYTHONPATH": str(ROOT / "generated")},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    assert calling.returncode == 0, calling.stderr
    assert calling.stdout.splitlines()[-1] == "['setosa']"
