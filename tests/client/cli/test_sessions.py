"""Sessions of modelctl as a process, against `python -m server` on the local cluster: in a pipe, on
a terminal, interrupted, and with a server that dies."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from rich.cells import cell_len

from lab.port_blocks import own_block
from tests.adapters.local.file_server import file_server
from tests.adapters.local.server_process import Server, kill, server
from tests.cluster.deploy_script import Run
from tests.patience import PATIENCE_SECONDS
from tests.transcript import transcript

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[3]
MODELCTL = [sys.executable, "-m", "modelservice_client.cli"]
SAYS = "Traceback (most recent call last):\n  \x1b[31mraise\x1b[0m ValueError\nValueError: " + (
    "the weights of encoder.layer.11.output end after 7 of 120 bytes " * 3
)
MODELS = {
    "good": {"load_seconds": 0.3},
    "broken": {"load_seconds": 0.3, "exit": 3, "says": SAYS},
    "stuck": {"load_seconds": 600},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models."""
    folder = tmp_path_factory.mktemp("models")
    for name, orders in MODELS.items():
        (folder / name).write_text(json.dumps(orders))
    return folder


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("server")) as running:
        yield running


def environment(address: str, home: Path) -> dict[str, str]:
    python_path = os.pathsep.join(str(ROOT / part) for part in ("generated", "client"))
    return {
        "PYTHONPATH": python_path,
        "XDG_CONFIG_HOME": str(home),
        "MODELSERVICE_SERVER": address,
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
    }


class Sessions:
    """Starts modelctl, and ends what still runs."""

    def __init__(self, models: Path, home: Path) -> None:
        self._models = models
        self._home = home
        self._runs: list[Run] = []

    def run(self, address: str, *words: str) -> Run:
        """Run a command in a pipe."""
        path = self._home / "bin"
        run = Run("modelctl", [*MODELCTL, *words], "", path, environment(address, self._home))
        self._runs.append(run)
        return run

    def deploy(self, address: str, name: str, model: str, *words: str) -> Run:
        """Deploy a model of the folder."""
        return self.run(address, "deploy", name, *self.model(model), *words)

    def model(self, model: str) -> list[str]:
        """The flags of a model."""
        return ["--format", "test", "--storage-uri", str(self._models / model)]

    def close(self) -> None:
        for run in self._runs:
            if run.process.poll() is None:
                os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait()


@pytest.fixture
def sessions(models: Path, tmp_path: Path) -> Iterator[Sessions]:
    sessions = Sessions(models, tmp_path)
    yield sessions
    sessions.close()


def states(run: Run) -> list[str]:
    """The first word of each line of the progress."""
    return [line.split()[2] for line in run.err if re.match(r" +\d+\.\d s  ", line)]


def test_a_good_deploy_in_a_pipe(running: Server, sessions: Sessions) -> None:
    run = sessions.deploy(running.running.address, "good", "good")
    assert run.code() == 0, run.errors
    assert states(run)[0] == "CREATED"
    assert states(run)[-1] == "READY"
    [line] = run.out
    assert re.fullmatch(r"model-serving/good is ready after \d+\.\d s: http://127.*", line)


def test_a_failed_deploy_in_a_pipe(running: Server, sessions: Sessions) -> None:
    run = sessions.deploy(running.running.address, "failing", "broken")
    assert run.code() == 73
    assert run.out == []
    assert states(run)[-1] == "FAILED"
    assert "error: model-serving/failing failed: MODEL_LOAD" in run.err
    assert "exit code  3" in run.err
    assert any(line.startswith("remedy     check that the model's files") for line in run.err)
    assert "  |   raise ValueError" in run.err
    # Nothing is cut or wrapped in a pipe.
    assert f"  | {SAYS.splitlines()[-1].strip()}" in run.err


def test_a_superseded_deploy_in_a_pipe(running: Server, sessions: Sessions) -> None:
    address = running.running.address
    run = sessions.deploy(address, "superseded", "stuck")
    run.until("PROGRESSING")
    assert sessions.deploy(address, "superseded", "good", "--no-wait").code() == 0
    assert run.code() == 74
    assert any(line.startswith("error: ROLLOUT_SUPERSEDED: ") for line in run.err)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_cancelled_deploy_leaves_the_rollout_alone_and_says_how_to_go_on(
    running: Server, sessions: Sessions, number: signal.Signals, code: int
) -> None:
    address, name = running.running.address, f"cancelled-{code}"
    run = sessions.deploy(address, name, "stuck")
    run.until("PROGRESSING")
    run.process.send_signal(number)
    assert run.code() == code
    word, said, command = run.err[-3:]
    assert word == "interrupted"
    assert said == f"The rollout of model-serving/{name} goes on. Watch it with:"
    again = sessions.run(address, *command.split()[1:])
    again.until("PROGRESSING")
    again.interrupt()
    assert again.code() == 130
    assert again.err[-2:] == [said, command]


def test_a_server_that_dies_and_comes_back_is_waited_for(
    sessions: Sessions, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{own_block().next()}"
    with file_server() as files:
        files.files["/model.json"] = b"{}"
        files.stuck.add("/model.json")
        model = ("--format", "test", "--storage-uri", files.url("/model.json"))
        run = sessions.run(address, "deploy", "survivor", *model)
        run.until("RETRYING")
        with server(tmp_path, MODELSERVICE_LISTEN=address) as running:
            run.until("downloading the model")
            retried = states(run).count("RETRYING")
            kill(running)
        run.until("RETRYING", times=retried + 1)
        files.stuck.clear()
        with server(tmp_path, MODELSERVICE_LISTEN=address):
            assert run.code() == 0, run.errors
            assert states(run).count("CREATED") == 1
            assert states(run)[-1] == "READY"
            deleted = sessions.run(address, "delete", "survivor")
            assert deleted.code() == 0, deleted.errors
            assert deleted.out == ["model-serving/survivor is deleted"]


def test_a_server_that_stays_away_ends_with_78_once_it_has_answered(
    sessions: Sessions, tmp_path: Path
) -> None:
    with server(tmp_path) as running:
        address = running.running.address
        run = sessions.deploy(address, "left", "stuck", "--patience", "1")
        run.until("loading the model")
        kill(running)
        assert run.code() == 78, run.errors
    assert "goes on. Watch it with:" in run.err[-2]


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(("model", "code"), [("good", 0), ("broken", 73)])
def test_no_line_of_a_terminal_is_wrapped_or_garbled(
    running: Server, sessions: Sessions, tmp_path: Path, columns: int, model: str, code: int
) -> None:
    name = f"{model}-{columns}"
    words = ["deploy", name, *sessions.model(model)]
    ended, printed = on_a_terminal(words, columns, environment(running.running.address, tmp_path))
    assert ended == code, printed
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed)
    lines = [line for line in re.split(r"[\r\n]+", drawn) if line]
    assert [line for line in lines if cell_len(line) > columns] == []
    assert [line for line in lines if not line.isprintable()] == []
    # The line that is drawn again and again, and the cursor that is given back.
    assert any(re.match(r"[\u2800-\u28ff]  [A-Z]+ +.*\d:\d\d  ", line) for line in lines), lines
    assert printed.rfind("\x1b[?25h") > printed.rfind("\x1b[?25l") >= 0
    if model == "good":
        assert lines[-1].startswith(f"model-serving/{name} is ready after")
    else:
        whole = " ".join(" ".join(line.split()) for line in lines)
        assert " ".join(SAYS.splitlines()[-1].split())[:60] in whole


def on_a_terminal(
    words: Sequence[str], columns: int, environment: dict[str, str]
) -> tuple[int, str]:
    """Run modelctl on a terminal of so many columns; its exit code and all that it wrote."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [*MODELCTL, *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"PATH": os.environ["PATH"]},
        start_new_session=True,
    )
    os.close(theirs)
    written = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal, suppress(OSError):
        # Linux ends the reading of a terminal that nobody has open any more with EIO.
        while some := terminal.read(65536):
            written += some
    return process.wait(PATIENCE_SECONDS), written.decode()


def test_the_session_of_the_document(running: Server, sessions: Sessions) -> None:
    """docs/modelctl.md, with another server and another model."""
    for step in transcript("docs/modelctl.md", "A first session"):
        words = step.command.split()
        assert words[0] == "modelctl"
        text = " ".join(words[1:])
        text = text.replace("localhost:50051", running.running.address)
        # A server knows no working directory of its callers.
        assert "--storage-uri" not in text or "--storage-uri $PWD/" in text
        text = re.sub(r"--format sklearn --storage-uri \S+", " ".join(sessions.model("good")), text)
        run = sessions.run("", *text.split())
        assert run.code() == 0, run.errors
        assert shape("\n".join(run.out)) == shape(step.shown), step.command


def shape(text: str) -> str:
    """A text without what differs from run to run."""
    text = re.sub(r"http://\S+", "URL", text)
    text = re.sub(r"\d+\.\d s", "SECONDS", text)
    text = re.sub(r"\b\d+[smhd]\b", "AGE", text)
    return re.sub(r" +", " ", text).strip()
