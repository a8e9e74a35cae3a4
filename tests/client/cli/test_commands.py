"""What each command prints and its exit code, against the real application in this process."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
import yaml
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub
from modelservice_client import cli, rpcs

from lab.port_blocks import own_block
from server.api import call_log
from server.domain.rollout.status import InferenceServiceStatus as Status
from server.domain.rollout.status import State
from tests.api.requests import NAMESPACE, deploy, eventually, failed, get, key
from tests.cluster.cutting_proxy import cutting_proxy
from tests.patience import PATIENCE_SECONDS
from tests.serving import Served, serving, settings
from tests.transcript import transcript

from .running import modelctl

IMAGE = ("--image", "example.org/model:1")
SECOND = ("--image", "example.org/model:2")
ROLLBACK = "--rollback-on-failure"
LOG = ("Traceback:", "  \x1b[31mraise\x1b[0m [bold]x[/bold]", "::error::injected", "##[error]too")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("registry")
    before = structlog.get_config()
    # What the server logs is not to be among what modelctl prints.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    call_log.logger.cache_clear()
    with serving(settings(registry=f"sqlite:///{folder}/registry.db")) as served:
        served.wait_until_synced()
        yield served
    structlog.configure(**before)
    call_log.logger.cache_clear()


@pytest.fixture(autouse=True)
def at_the_server(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSERVICE_SERVER", served.address)


@pytest.fixture
def stub(served: Served) -> Iterator[ModelServiceStub]:
    with grpc.insecure_channel(served.address) as channel:
        yield ModelServiceStub(channel)


def fail(served: Served, stub: ModelServiceStub, name: str, **others: Any) -> str:
    """Let the newest rollout fail; its id."""
    rollout_id = get(stub, name).rollout_id
    status = failed(rollout_id, log_lines=LOG, exit_code=1, **others)
    served.inside(served.memory.set_status, key(name), status)
    return rollout_id


def delete(served: Served, name: str) -> None:
    """Delete a service, and let its pods go away."""
    run = modelctl("delete", name, "--no-wait")
    assert (run.exit_code, run.stdout) == (0, f"{NAMESPACE}/{name} is being deleted\n")
    served.inside(served.memory.finish_delete, key(name))


def test_a_deploy_waits_and_prints_the_result_alone_on_standard_output(name: str) -> None:
    run = modelctl("deploy", name, *IMAGE)
    assert run.exit_code == 0
    assert re.fullmatch(rf"{NAMESPACE}/{name} is ready after \d+\.\d s.*\n", run.stdout)
    lines = [line.split("s  ", 1)[1] for line in run.stderr.splitlines()]
    assert lines[0].split() == ["CREATED", f"{NAMESPACE}/{name}"]
    assert lines[-1].split() == ["READY"]


def test_a_result_is_printed_as_asked(name: str) -> None:
    full = f"{NAMESPACE}/{name}"
    assert modelctl("deploy", name, *IMAGE, "-o", "name").stdout == f"{full}\n"
    printed = json.loads(modelctl("get", full, "-o", "json").stdout)
    assert printed["spec"]["container"]["image"] == "example.org/model:1"
    assert yaml.safe_load(modelctl("get", name, "-o", "yaml").stdout) == printed
    head, row = modelctl("get", name).stdout.splitlines()
    assert head.split() == ["NAMESPACE", "NAME", "STATE", "READY", "AGE", "REASON", "URL"]
    assert row.split()[:3] == [NAMESPACE, name, "READY"]
    assert f"service      {full}" in modelctl("status", name).stdout


def test_what_get_prints_can_be_changed_and_deployed(name: str, tmp_path: Path) -> None:
    modelctl("deploy", name, *IMAGE)
    file = tmp_path / "service.yaml"
    file.write_text(modelctl("get", name, "-o", "yaml").stdout.replace("model:1", "model:2"))
    run = modelctl("deploy", "-f", str(file))
    assert (run.exit_code, "UPDATED" in run.stderr) == (0, True)
    # The etag of the file is that of before.
    again = modelctl("deploy", "-f", str(file), "--image", "example.org/model:3")
    assert again.exit_code == 74
    assert "ETAG_MISMATCH" in again.stderr


def test_flags_go_before_the_file_and_a_file_can_come_from_standard_input(name: str) -> None:
    request = {"name": name, "spec": {"container": {"image": "a:1"}, "env": {"A": "1", "B": "2"}}}
    flags = ("--image", "a:2", "--env", "B=3", "--replicas", "2", "--limit", "memory=4Gi")
    run = modelctl("deploy", "-f", "-", *flags, "-o", "json", stdin=json.dumps(request))
    assert json.loads(run.stdout)["spec"] == {
        "container": {"image": "a:2"},
        "env": {"A": "1", "B": "3"},
        "resources": {"limits": {"memory": "4Gi"}},
        "scaling": {"min_replicas": 2, "max_replicas": 2},
    }


def test_a_field_that_the_server_refuses_is_named_by_its_line(name: str, tmp_path: Path) -> None:
    file = tmp_path / "service.yaml"
    file.write_text(f"name: {name}\nspec:\n  container:\n    image: a b\n")
    run = modelctl("deploy", "-f", str(file))
    assert run.exit_code == 67
    assert "FIELD_INVALID" in run.stderr
    assert f"{file}:4: spec.container.image: must" in run.stderr
    # Each once.
    assert run.stderr.count("spec.container.image") == 1


WRONG = [
    (("deploy",), 2, "a name is needed"),
    (("deploy", "x"), 2, "give --format and --storage-uri, or --image, or --file"),
    (("deploy", "x", *IMAGE, "--format", "sklearn"), 2, "--image is a server of its own"),
    (("deploy", "x", "--format", "sklearn", "--port", "1"), 2, "--port needs --image"),
    (("deploy", "x", *IMAGE, "--replicas", "1", "--max-replicas", "2"), 2, "give it or them"),
    (
        ("deploy", "x", *IMAGE, "--rollout-strategy", "fast"),
        2,
        "--rollout-strategy must be rolling or recreate, got fast",
    ),
    (("deploy", "x", *IMAGE, "--env", "hunter2"), 2, "--env must be NAME=VALUE"),
    (("deploy", "x", *IMAGE, "--env", "A=1", "--env", "A=2"), 2, "must name A once"),
    (("deploy", "x", *IMAGE, "--secret-env", "A=b"), 2, "must be NAME=SECRET:KEY"),
    (("deploy", "x", *IMAGE, "--request-id", "a b"), 2, "--request-id must be 1 to 64"),
    (("deploy", "a/x", "-n", "b", *IMAGE), 2, "--namespace b contradicts a/x"),
    (("deploy", "-f", "absent.yaml"), 2, "absent.yaml: No such file"),
    (("deploy", "-f", "-"), 1, "standard input:1: nam: DeployRequest has no such field"),
    (("deploy", "x", "--imag", "a"), 2, "No such option"),
    (("list", "--state", "GOOD"), 2, "--state must be one of PENDING"),
    (("list", "-l", "a b c"), 67, "label_selector"),
    (("list", "--ca", "absent.pem"), 2, "error: --ca absent.pem: No such file or directory\n"),
    (("list", "--ca", "/dev/null"), 2, "error: --ca /dev/null must have certificates in PEM\n"),
    (("list", "--cert", "/dev/null", "--key", "/dev/null"), 2, "--cert /dev/null must have cert"),
    (("list", "--cert", "a.pem"), 2, "--cert and --key must be given both or neither"),
    (("list", "--plaintext", "--ca", "a.pem"), 2, "need TLS"),
    (("status", "absent"), 69, "SERVICE_NOT_FOUND"),
    (("status", "absent", "--watch"), 69, "SERVICE_NOT_FOUND"),
    (("delete", "absent"), 69, "SERVICE_NOT_FOUND"),
    (("restart", "absent"), 69, "SERVICE_NOT_FOUND"),
    (("history", "absent"), 69, "SERVICE_NOT_FOUND"),
    (("rollback", "absent"), 69, "SERVICE_NOT_FOUND"),
    (("deploy", "x", *IMAGE, ROLLBACK, "--no-wait"), 2, "--rollback-on-failure waits"),
    (("stop", "absent"), 69, "SERVICE_NOT_FOUND"),
    (("start", "absent"), 69, "SERVICE_NOT_FOUND"),
    (("stop", "x", "--request-id", "a b"), 2, "--request-id must be 1 to 64"),
]


@pytest.mark.parametrize(("words", "code", "error"), WRONG)
def test_what_is_wrong_has_its_exit_code_and_says_what(
    words: tuple[str, ...], code: int, error: str
) -> None:
    run = modelctl(*words, stdin="nam: x")
    assert run.exit_code == code, run.stderr
    assert error in run.stderr
    assert "hunter2" not in run.stderr
    assert run.stdout == ""


@pytest.mark.usefixtures("open_rollouts")
@pytest.mark.parametrize("words", [("status", "-w"), ("deploy", *IMAGE)])
def test_a_failed_rollout_ends_with_73_its_remedy_and_its_log(
    served: Served, stub: ModelServiceStub, name: str, words: tuple[str, ...]
) -> None:
    stub.Deploy(deploy(name))
    fail(served, stub, name, retrying=True)
    run = modelctl(words[0], name, *words[1:])
    assert run.exit_code == 73
    assert run.stdout == ""
    lines = [line.split() for line in run.stderr.splitlines()]
    assert ["error:", f"{NAMESPACE}/{name}", "failed:", "IMAGE_PULL"] in lines
    assert ["remedy", "push", "it"] in lines
    assert ["container", "pod-1/kserve-container"] in lines
    assert "retrying   yes: the cluster tries the same again; this command has ended" in run.stderr
    assert run.stderr.splitlines()[-4:] == [
        "  | Traceback:",
        "  |   raise [bold]x[/bold]",
        "  | ::error::injected",
        "  | ## [error]too",
    ]


@pytest.mark.usefixtures("open_rollouts")
def test_programs_get_the_state_of_a_failed_rollout(
    served: Served, stub: ModelServiceStub, name: str
) -> None:
    stub.Deploy(deploy(name))
    fail(served, stub, name)
    run = modelctl("status", name, "-w", "-o", "json")
    assert run.exit_code == 73
    assert json.loads(run.stdout)["status"]["failure"]["reason"] == "REASON_IMAGE_PULL"


@pytest.mark.usefixtures("open_rollouts")
def test_github_gets_an_annotation_and_groups_and_no_command_of_a_container(
    served: Served, stub: ModelServiceStub, name: str
) -> None:
    stub.Deploy(deploy(name))
    fail(served, stub, name)
    run = modelctl("deploy", name, *IMAGE, GITHUB_ACTIONS="true")
    commands = [line for line in run.stderr.splitlines() if line.lstrip().startswith("::")]
    title = f"{NAMESPACE}/{name} failed%3A IMAGE_PULL"
    assert commands == [
        f"::group::Deploy {name}",
        "::endgroup::",
        f"::error title={title}::{NAMESPACE}/{name} failed: IMAGE_PULL"
        "%0Athe image example.org/model:1 is not there%0Aremedy: push it",
        "::group::log of kserve-container",
        "::endgroup::",
    ]
    assert "##[" not in run.stderr
    assert "\x1b" not in run.stderr


@pytest.mark.usefixtures("open_rollouts")
def test_gitlab_gets_sections(served: Served, stub: ModelServiceStub, name: str) -> None:
    stub.Deploy(deploy(name))
    fail(served, stub, name)
    run = modelctl("deploy", name, *IMAGE, GITLAB_CI="true")
    start = re.compile(r"\x1b\[0Ksection_start:\d+:(\w+)\r\x1b\[0K(.+)")
    (first, title), (second, log) = start.findall(run.stderr)
    assert (title, log) == (f"Deploy {name}", "log of kserve-container")
    ends = re.findall(r"\x1b\[0Ksection_end:\d+:(\w+)\r\x1b\[0K\n", run.stderr)
    assert ends == [first, second]


@pytest.mark.usefixtures("open_rollouts")
def test_other_ends_of_a_rollout_have_their_codes(
    served: Served, stub: ModelServiceStub, name: str
) -> None:
    old = stub.Deploy(deploy(name)).rollout_id
    stub.Deploy(deploy(name, image="example.org/model:2"))
    run = modelctl("status", name, "-w", "--rollout-id", old)
    assert run.exit_code == 74
    # No state of the newer rollout is shown.
    assert run.stderr.startswith("error: ROLLOUT_SUPERSEDED")

    run = modelctl("status", name, "-w", "--timeout", "2")
    newest = get(stub, name).rollout_id
    assert run.exit_code == 68
    assert "error: not decided within the timeout of 2 s\n" in run.stderr
    goes_on = f"modelctl status {NAMESPACE}/{name} --watch --rollout-id {newest}"
    assert run.stderr.splitlines()[-1].strip() == goes_on

    served.inside(served.memory.set_status, key(name), Status(State.STOPPED))
    run = modelctl("status", name, "-w")
    assert (run.exit_code, "SERVICE_STOPPED" in run.stderr) == (73, True)

    delete(served, name)
    run = modelctl("status", name, "-w", "--rollout-id", newest)
    assert (run.exit_code, "ROLLOUT_GONE" in run.stderr) == (69, True)


def test_a_proxy_that_cuts_is_asked_again_and_there_is_one_rollout(
    served: Served, stub: ModelServiceStub, name: str
) -> None:
    with cutting_proxy(served.address) as proxy:
        proxy.cuts["Deploy"] = [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN]
        proxy.cuts["WatchStatus"] = [grpc.StatusCode.INTERNAL]
        run = modelctl("deploy", name, *IMAGE, "--server", proxy.address)
    assert run.exit_code == 0, run.stderr
    assert "RETRYING     Deploy was not answered: cut by the proxy" in run.stderr
    assert get(stub, name).generation == 1


@pytest.mark.parametrize(
    ("env", "request_id"),
    [
        ({"GITHUB_RUN_ID": "11", "GITHUB_RUN_ATTEMPT": "2"}, "github-11-2"),
        ({"GITHUB_RUN_ID": "12"}, "github-12-1"),
        ({"CI_JOB_ID": "13"}, "gitlab-13"),
    ],
)
def test_a_job_is_one_request(name: str, env: dict[str, str], request_id: str) -> None:
    assert modelctl("deploy", name, *IMAGE, **env).exit_code == 0
    changed = ("--image", "example.org/model:2")
    reused = modelctl("deploy", name, *changed, "--request-id", request_id)
    assert (reused.exit_code, "REQUEST_ID_REUSED" in reused.stderr) == (67, True)
    assert modelctl("deploy", name, *changed).exit_code == 0


@pytest.mark.parametrize("env", [{"GITHUB_RUN_ID": "14"}, {"CI_JOB_ID": "15"}])
def test_a_job_can_deploy_a_service_and_restart_it(name: str, env: dict[str, str]) -> None:
    deployed = modelctl("deploy", name, *IMAGE, "-o", "json", **env)
    restarts = [modelctl("restart", name, "-o", "json", **env) for _ in range(2)]
    rollouts = [json.loads(run.stdout)["rollout_id"] for run in (deployed, *restarts)]
    assert rollouts[0] != rollouts[1] == rollouts[2]


def test_a_deploy_can_be_checked_without_writing_and_without_waiting(name: str) -> None:
    run = modelctl("deploy", name, *IMAGE, "--validate-only")
    assert run.stdout == f"{NAMESPACE}/{name} would be created; nothing was written\n"
    assert run.stderr == ""
    assert modelctl("status", name).exit_code == 69
    run = modelctl("deploy", name, *IMAGE, "--no-wait")
    assert run.exit_code == 0
    assert f"service  {NAMESPACE}/{name}" in re.sub(" +", "  ", run.stdout)


def test_a_strategy_and_a_ready_timeout_come_from_a_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / "deploy.yaml"
    file.write_text(
        f"name: {name}\nspec:\n  container: {{image: example.org/model:1}}\n"
        "  ready_timeout: 900s\n"
        "  rollout_strategy: {type: TYPE_ROLLING, max_surge: '0', max_unavailable: 50%}\n"
    )
    assert modelctl("deploy", "-f", str(file)).exit_code == 0
    spec = json.loads(modelctl("get", name, "-o", "json").stdout)["spec"]
    assert spec["ready_timeout"] == "900s"
    rolling = {"type": "TYPE_ROLLING", "max_surge": "0", "max_unavailable": "50%"}
    assert spec["rollout_strategy"] == rolling
    file.write_text(file.read_text().replace("50%", "0%").replace("900s", "1.5s"))
    refused = modelctl("deploy", "-f", str(file))
    assert refused.exit_code != 0
    assert f"{file}:4" in refused.stderr
    assert "spec.ready_timeout" in refused.stderr
    assert f"{file}:5" in refused.stderr
    assert "spec.rollout_strategy.max_unavailable" in refused.stderr


def test_a_strategy_and_a_ready_timeout_come_from_flags_before_the_file(name: str) -> None:
    rolling = {"type": "TYPE_ROLLING", "max_surge": "0", "max_unavailable": "50%"}
    spec = {"container": {"image": "a:1"}, "ready_timeout": "60s", "rollout_strategy": rolling}

    def deployed(strategy: str) -> dict[str, object]:
        flags = ("--ready-timeout", "900", "--rollout-strategy", strategy, "-o", "json")
        request = json.dumps({"name": name, "spec": spec})
        printed = json.loads(modelctl("deploy", "-f", "-", *flags, stdin=request).stdout)["spec"]
        assert printed["ready_timeout"] == "900s"
        found: dict[str, object] = printed["rollout_strategy"]
        return found

    assert deployed("rolling") == rolling
    assert deployed("recreate") == {"type": "TYPE_RECREATE"}


def test_a_warning_is_printed_on_standard_error(name: str) -> None:
    for words in (("--validate-only",), ("-o", "name")):
        run = modelctl("deploy", name, *IMAGE, "--min-replicas", "0", *words)
        assert run.exit_code == 0
        [line] = [line for line in run.stderr.splitlines() if "WARNING" in line]
        assert "spec.scaling.min_replicas: 0 means 1 in Standard mode" in line
        assert "WARNING" not in run.stdout


def test_a_list_is_of_a_namespace_or_of_all(name: str) -> None:
    modelctl("deploy", f"there/{name}", *IMAGE, "--label", f"only={name}")
    assert name not in modelctl("list").stdout
    everywhere = modelctl("list", "-A", "-l", f"only={name}", "-o", "name")
    assert everywhere.stdout == f"there/{name}\n"
    in_namespace = modelctl("list", "-n", "there", "--state", "ready", "-o", "json")
    assert name in [service["name"] for service in json.loads(in_namespace.stdout)]
    nothing = modelctl("list", "-n", "nothing-here")
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (0, "", "none\n")


def test_a_service_is_restarted_and_deleted(served: Served, name: str) -> None:
    modelctl("deploy", name, *IMAGE)
    run = modelctl("restart", name)
    assert (run.exit_code, "RESTARTED" in run.stderr) == (0, True)
    file = json.dumps({"name": name, "restart": True})
    run = modelctl("deploy", "-f", "-", stdin=file)
    assert (run.exit_code, "RESTARTED" in run.stderr) == (0, True)
    would = modelctl("delete", name, "--validate-only")
    assert would.stdout == f"{NAMESPACE}/{name} would be deleted; nothing was written\n"
    late = modelctl("delete", name, "--timeout", "1")
    assert late.exit_code == 68
    assert late.stderr.splitlines()[-1].strip() == f"modelctl status {NAMESPACE}/{name}"
    delete(served, name)
    assert modelctl("delete", name, "--allow-missing").exit_code == 0


def test_a_service_is_stopped_and_started(name: str) -> None:
    modelctl("deploy", name, *IMAGE)
    full = f"{NAMESPACE}/{name}"
    would = modelctl("stop", name, "--validate-only")
    assert (would.stdout, would.stderr) == (f"{full} would be stopped; nothing was written\n", "")
    run = modelctl("stop", name)
    assert run.exit_code == 0, run.stderr
    assert re.fullmatch(rf"{full} is stopped after \d+\.\d s\n", run.stdout)
    assert ("UPDATED" in run.stderr, "STOPPED" in run.stderr) == (True, True)
    again = modelctl("stop", name, "-o", "json")
    assert "UNCHANGED" in again.stderr
    assert json.loads(again.stdout)["status"]["state"] == "STATE_STOPPED"
    assert modelctl("start", name, "--no-wait", "-o", "name").stdout == f"{full}\n"
    run = modelctl("start", name)
    assert (run.exit_code, "UNCHANGED" in run.stderr) == (0, True)
    assert re.fullmatch(rf"{full} is ready after \d+\.\d s: http\S+\n", run.stdout)


def test_a_stop_of_another_rollout_is_refused(name: str) -> None:
    deployed = json.loads(modelctl("deploy", name, *IMAGE, "-o", "json").stdout)["rollout_id"]
    modelctl("restart", name)
    run = modelctl("stop", name, "--rollout-id", deployed)
    assert (run.exit_code, "ROLLOUT_SUPERSEDED" in run.stderr) == (74, True)


def begun(*words: str) -> Future[Any]:
    """A command that runs in a thread."""
    pool = ThreadPoolExecutor(1)
    run = pool.submit(modelctl, *words)
    pool.shutdown(wait=False)
    return run


@pytest.mark.usefixtures("open_rollouts")
def test_a_stop_whose_server_goes_away_says_how_to_look(served: Served, name: str) -> None:
    modelctl("deploy", name, *IMAGE, "--no-wait")
    with cutting_proxy(served.address) as proxy:
        stopping = begun("stop", name, "--server", proxy.address, "--patience", "1")
        eventually("it is awaited", lambda: "WatchStatus" in proxy.passed)
    run = stopping.result(PATIENCE_SECONDS)
    assert run.exit_code == 78
    goes_on, command = run.stderr.splitlines()[-2:]
    assert goes_on == f"{NAMESPACE}/{name} goes on being stopped. See what remains with:"
    assert command.startswith(f"  modelctl status {NAMESPACE}/{name} --server ")


class Deploying:
    """`modelctl deploy --rollback-on-failure` of a second image, in a thread, whose rollout and its
    rollback end as a test says."""

    def __init__(self, served: Served, stub: ModelServiceStub, name: str, *words: str) -> None:
        self._served, self._stub, self.name = served, stub, name
        self._before = get(stub, name)
        self._run = begun("deploy", name, *SECOND, ROLLBACK, *words)

    def rollout(self, before: str = "") -> str:
        """The rollout of the service, once it is another one than before."""
        before = before or self._before.rollout_id
        eventually("another rollout", lambda: get(self._stub, self.name).rollout_id != before)
        return str(get(self._stub, self.name).rollout_id)

    def fail(self) -> str:
        """Let the rollout of the command fail; its id."""
        self.rollout()
        return fail(self._served, self._stub, self.name)

    def end(self) -> Any:
        """The result of the command."""
        return self._run.result(PATIENCE_SECONDS)


def make_ready(served: Served, name: str) -> None:
    served.inside(served.memory.set_status, key(name), Status(State.READY))


@pytest.fixture
def deployed(served: Served, stub: ModelServiceStub, name: str, open_rollouts: None) -> str:
    """A service whose first revision is READY. Its later rollouts end as a test says."""
    first = deploy(name)
    first.spec.scaling.min_replicas = 0
    stub.Deploy(first)
    make_ready(served, name)
    return f"{NAMESPACE}/{name}"


def test_a_failed_rollout_is_rolled_back_and_ends_with_81(
    served: Served, stub: ModelServiceStub, name: str, deployed: str
) -> None:
    deploying = Deploying(served, stub, name, "-o", "json")
    failed_rollout = deploying.fail()
    deploying.rollout(failed_rollout)
    make_ready(served, name)
    run = deploying.end()
    assert run.exit_code == 81, run.stderr
    words = [line.split()[2] for line in run.stderr.splitlines() if re.match(r" +\d+\.\d s", line)]
    assert (words[0], words[-1]) == ("UPDATED", "READY")
    assert words[words.index("FAILED") :][:2] == ["FAILED", "ROLLBACK"]
    lines = [re.sub(" +", " ", line) for line in run.stderr.splitlines()]
    assert f"error: {deployed} failed: IMAGE_PULL" in lines
    assert "remedy push it" in lines
    assert "rollback done: revision 1 serves again" in lines
    # Of the rollback alone.
    assert "".join(lines).count("WARNING spec.scaling.min_replicas: 0 means 1") == 1
    restored = json.loads(run.stdout)
    assert restored["spec"]["container"]["image"] == "example.org/model:1"
    assert restored["status"]["state"] == "STATE_READY"


def test_the_rollout_of_somebody_else_is_not_rolled_back(
    served: Served, stub: ModelServiceStub, name: str, deployed: str
) -> None:
    with cutting_proxy(served.address) as proxy:
        proxy.held["Rollback"] = held = threading.Event()
        deploying = Deploying(served, stub, name, "--server", proxy.address)
        deploying.fail()
        eventually("it is to be rolled back", lambda: "Rollback" in proxy.passed)
        newer = stub.Deploy(deploy(name, image="example.org/model:3"))
        held.set()
        run = deploying.end()
    assert run.exit_code == 73
    assert re.search(r"^rollback   none: ROLLOUT_SUPERSEDED: ", run.stderr, re.M)
    assert get(stub, name).rollout_id == newer.rollout_id


def test_a_rollback_whose_answer_is_lost_is_one_rollout(
    served: Served, stub: ModelServiceStub, name: str, deployed: str
) -> None:
    with cutting_proxy(served.address) as proxy:
        proxy.cuts["Rollback"] = [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN]
        deploying = Deploying(served, stub, name, "--server", proxy.address)
        deploying.fail()
        eventually("it was sent three times", lambda: proxy.passed.count("Rollback") == 3)
        make_ready(served, name)
        assert deploying.end().exit_code == 81
    assert get(stub, name).generation == 3


def test_a_rollback_that_fails_too_ends_with_73_and_both_causes(
    served: Served, stub: ModelServiceStub, name: str, deployed: str
) -> None:
    deploying = Deploying(served, stub, name)
    failed_rollout = deploying.fail()
    deploying.rollout(failed_rollout)
    fail(served, stub, name)
    run = deploying.end()
    assert run.exit_code == 73
    assert f"error: {deployed} failed: IMAGE_PULL" in run.stderr
    assert re.search(
        r"^rollback   failed too: IMAGE_PULL: the image .* is not there$", run.stderr, re.M
    )


def test_a_rollback_that_is_not_decided_says_how_to_go_on(
    served: Served, stub: ModelServiceStub, name: str, deployed: str
) -> None:
    with cutting_proxy(served.address) as proxy:
        at = ("--server", proxy.address, "--patience", "1")
        deploying = Deploying(served, stub, name, *at)
        failed_rollout = deploying.fail()
        back = deploying.rollout(failed_rollout)
        eventually("it is awaited", lambda: proxy.passed.count("WatchStatus") >= 2)
    run = deploying.end()
    assert run.exit_code == 73
    assert f"error: {deployed} failed: IMAGE_PULL" in run.stderr
    assert re.search(r"^rollback +not decided: .* no server has answered ", run.stderr, re.M)
    goes_on, command = run.stderr.splitlines()[-2:]
    assert goes_on == f"The rollback of {deployed} goes on. Watch it with:"
    assert command.startswith(f"  modelctl status {deployed} --watch --rollout-id {back} --server ")


@pytest.mark.usefixtures("open_rollouts")
def test_a_first_rollout_that_fails_has_nothing_to_go_back_to(
    served: Served, stub: ModelServiceStub, name: str
) -> None:
    stub.Deploy(deploy(name))
    fail(served, stub, name)
    run = modelctl("deploy", name, *IMAGE, ROLLBACK, GITHUB_ACTIONS="true")
    assert run.exit_code == 73
    assert re.search(r"^rollback   none: NO_READY_REVISION: ", run.stderr, re.M)
    assert "%0Arollback: none: NO_READY_REVISION: " in run.stderr
    assert "modelctl rollback" not in run.stderr


def test_a_rollout_that_is_superseded_or_stopped_is_not_rolled_back(
    served: Served, stub: ModelServiceStub, name: str, deployed: str
) -> None:
    ends = {
        "74": lambda: stub.Deploy(deploy(name, image="example.org/model:3")),
        "73": lambda: served.inside(served.memory.set_status, key(name), Status(State.STOPPED)),
    }
    for code, end in ends.items():
        with cutting_proxy(served.address) as proxy:
            deploying = Deploying(served, stub, name, "--server", proxy.address)
            deploying.rollout()
            eventually("it is awaited", lambda passed=proxy.passed: "WatchStatus" in passed)
            end()
            assert deploying.end().exit_code == int(code)
            assert "Rollback" not in proxy.passed


def test_history_lists_revisions_and_rollback_goes_to_one_of_them(name: str) -> None:
    modelctl("deploy", name, *IMAGE, "--env", "A=hunter2")
    modelctl("deploy", name, *SECOND, "--env", "A=hunter3", "--label", "team=vision")
    run = modelctl("rollback", name)
    assert run.exit_code == 0, run.stderr
    where = rf"{NAMESPACE}/{name} is back at revision 1 and is ready after \d+\.\d s: http\S+\n"
    assert re.fullmatch(where, run.stdout)
    head, *rows = modelctl("history", name).stdout.splitlines()
    assert head.split() == ["REVISION", "OUTCOME", "REASON", "AGE", "BY", "CHANGES"]
    assert [row.split()[:2] for row in rows] == [["3", "READY"], ["2", "READY"], ["1", "READY"]]
    assert 'spec.container.image="example.org/model:2"' in rows[1]
    assert 'labels["team"]="vision"' in rows[1]
    assert "rollback of 1; " in rows[0]
    assert 'labels["team"] removed' in rows[0]
    # It may be a secret.
    assert "hunter" not in "".join(rows)
    assert 'spec.env["A"] changed' in rows[1]
    assert modelctl("history", name, "-o", "name").stdout == "3\n2\n1\n"
    listed = json.loads(modelctl("history", name, "-o", "json").stdout)
    assert [revision.get("rollback_of") for revision in listed] == ["1", None, None]
    again = modelctl("rollback", name)
    assert (again.exit_code, "UNCHANGED" in again.stderr) == (0, True)
    would = modelctl("rollback", name, "--revision", "2", "--validate-only")
    assert would.stdout == f"{NAMESPACE}/{name} would be rolled back; nothing was written\n"
    assert modelctl("rollback", name, "--revision", "2", "--no-wait").exit_code == 0
    absent = modelctl("rollback", name, "--revision", "77")
    assert (absent.exit_code, "REVISION_NOT_FOUND" in absent.stderr) == (69, True)


def test_the_history_names_no_cause_of_a_gap_that_it_does_not_know(
    name: str, served: Served
) -> None:
    for number in (1, 2):
        assert modelctl("deploy", name, "--image", f"example.org/model:{number}").exit_code == 0

    def forget_the_first() -> None:
        stored = served.memory.store.get(key(name))
        newest, first = stored.revisions
        gap = replace(first, content=None, outcome=None, gap=True)
        served.memory.store.put(replace(stored, revisions=(newest, gap)))

    served.inside(forget_the_first)
    # No server saw it, or the API server refused its revision.
    line = modelctl("history", name).stdout.splitlines()[2]
    assert line.endswith("  not known: it was overwritten before its revision was stored")


def test_a_row_of_the_history_has_five_changes_and_the_number_of_the_others(name: str) -> None:
    modelctl("deploy", name, *IMAGE)
    modelctl("deploy", name, *IMAGE, *(word for n in range(8) for word in ("--env", f"A{n}={n}")))
    row = modelctl("history", name).stdout.splitlines()[1]
    assert row.count("spec.env[") == 5
    assert row.endswith("; and 3 more: -o yaml")


@pytest.mark.parametrize("env", [{"GITHUB_RUN_ID": "16"}, {"CI_JOB_ID": "17"}])
def test_a_job_can_stop_a_service_and_start_it(name: str, env: dict[str, str]) -> None:
    modelctl("deploy", name, *IMAGE, **env)
    runs = [modelctl(verb, name, "-o", "json", **env) for verb in ("stop", "stop", "start")]
    assert [run.exit_code for run in runs] == [0, 0, 0], [run.stderr for run in runs]
    states = [json.loads(run.stdout)["status"]["state"] for run in runs]
    assert states == ["STATE_STOPPED", "STATE_STOPPED", "STATE_READY"]


def test_a_registered_model_is_deployed_and_its_record_is_read(served: Served, name: str) -> None:
    registry = ("registry",)
    done = [
        modelctl(*registry, "model", "create", name, "scorer", "--description", "scores"),
        modelctl(*registry, "version", "create", name, "scorer", "1", "--image", "a:1"),
        modelctl(*registry, "version", "create", name, "scorer", "2", "--image", "a:2"),
        modelctl(*registry, "version", "archive", name, "scorer", "2"),
        modelctl(*registry, "model", "set-default", name, "scorer", "1"),
        modelctl(*registry, "environment", "create", name, "test", "-n", NAMESPACE),
        modelctl(*registry, "deploy", name, "scorer", "test", "--name", name, "--env", "A=1"),
    ]
    assert [run.exit_code for run in done] == [0] * 7, [run.stderr for run in done]
    deployment = json.loads(modelctl("get", name, "-o", "json").stdout)["deployment_id"]
    listed = modelctl(*registry, "deployment", "list", name, "--model", "scorer", "-o", "name")
    assert listed.stdout == f"{name}/{deployment}\n"
    record = ("registry", "deployment", "get", name, deployment, "-o", "json")
    assert json.loads(modelctl(*record).stdout)["version"] == "1"
    rows = modelctl(*registry, "version", "list", name, "scorer").stdout.splitlines()
    assert [row.split()[:2] for row in rows[1:]] == [["2", "ARCHIVED"], ["1", "READY"]]
    used = modelctl(*registry, "model", "delete", name, "scorer")
    assert (used.exit_code, "IN_USE" in used.stderr) == (73, True)
    delete(served, name)
    eventually(
        "its record ends",
        lambda: json.loads(modelctl(*record).stdout)["state"] == "STATE_UNDEPLOYED",
    )
    ends = [
        modelctl(*registry, "version", "ready", name, "scorer", "2"),
        modelctl(*registry, "version", "get", name, "scorer", "2", "-o", "yaml"),
        modelctl(*registry, "version", "delete", name, "scorer", "2"),
        modelctl(*registry, "model", "get", name, "scorer"),
        modelctl(*registry, "model", "list", name),
        modelctl(*registry, "environment", "get", name, "test"),
        modelctl(*registry, "environment", "list", name),
        modelctl(*registry, "environment", "delete", name, "test"),
        modelctl(*registry, "model", "delete", name, "scorer"),
    ]
    assert [run.exit_code for run in ends] == [0] * 9, [run.stderr for run in ends]


def test_what_is_in_the_registry_can_be_changed_by_flags_and_by_a_file(
    name: str, tmp_path: Path
) -> None:
    def registry(*words: str) -> Any:
        run = modelctl("registry", *words, "-o", "json")
        assert run.exit_code == 0, run.stderr
        return json.loads(run.stdout)

    def edited(kind: str, words: tuple[str, ...], **changes: Any) -> str:
        file = tmp_path / f"{kind}.yaml"
        file.write_text(yaml.safe_dump(registry(kind, "get", *words) | changes))
        return str(file)

    model, version = (name, "scorer"), (name, "scorer", "1")
    registry("model", "create", *model, "--description", "first", "--label", "a=1")
    registry("version", "create", *version, "--image", "a:1", "--pending")
    changed = registry("version", "update", *version, "--storage-uri", "gs://b", "--format", "onnx")
    assert (changed["storage_uri"], changed["format"]) == ("gs://b", {"name": "onnx"})
    assert "image" not in registry("version", "ready", *version)
    changed = registry("model", "update", *model, "--default-version", "1", "--label", "b=2")
    assert (changed["default_version"], changed["labels"]) == ("1", {"b": "2"})
    assert changed["description"] == "first"
    assert "description" not in registry("model", "update", *model, "--description", "")

    file = edited("model", model, description="by file", labels={})
    assert registry("model", "update", *model, "-f", file)["description"] == "by file"
    assert "labels" not in registry("model", "get", *model)
    stale = modelctl("registry", "model", "update", *model, "-f", file, "--description", "late")
    assert (stale.exit_code, "ETAG_MISMATCH" in stale.stderr) == (74, True)
    file = edited("version", version, metadata={"auc": 0.9, "layers": [1, {"deep": None}]})
    assert registry("version", "update", *version, "-f", file)["metadata"] == {
        "auc": 0.9,
        "layers": [1.0, {"deep": None}],
    }

    place = (name, "test")
    made = registry("environment", "create", *place, "-n", NAMESPACE, "--limit", "memory=1Gi")
    assert made["defaults"] == {"resources": {"limits": {"memory": "1Gi"}}}
    made = registry("environment", "update", *place, "--replicas", "2", "--etag", made["etag"])
    assert made["defaults"] == {"scaling": {"min_replicas": 2, "max_replicas": 2}}
    file = edited("environment", place, defaults={"env": {"A": "1"}})
    assert registry("environment", "update", *place, "-f", file)["defaults"] == {"env": {"A": "1"}}

    nothing = modelctl("registry", "environment", "update", *place)
    assert (nothing.exit_code, "nothing to change" in nothing.stderr) == (2, True)
    other = modelctl("registry", "environment", "update", name, "other", "-f", file)
    assert (other.exit_code, "name must be other, got test in" in other.stderr) == (2, True)


def test_the_update_of_the_document(name: str, tmp_path: Path) -> None:
    modelctl("registry", "environment", "create", name, "staging")
    file = tmp_path / "staging.yaml"
    # docs/modelctl.md
    for step in transcript("docs/modelctl.md", "The registry"):
        command, _, redirected = step.command.partition(" > ")
        words = command.replace("fraud", name).replace("staging.yaml", str(file)).split()
        run = modelctl(*words[1:])
        assert run.exit_code == 0, run.stderr
        if redirected:
            file.write_text(run.stdout)


def test_every_rpc_has_a_command() -> None:
    source = "".join(file.read_text() for file in Path(cli.__file__).parent.glob("*.py"))
    through_the_client = {"DEPLOY", "GET", "DELETE", "WATCH_STATUS"}
    through_the_client |= {"LIST_REVISIONS", "ROLLBACK", "STOP", "START"}
    named = set(re.findall(r"rpcs\.([A-Z_]+)", source)) | through_the_client
    assert {name for name, rpc in vars(rpcs).items() if isinstance(rpc, rpcs.Rpc)} == named


def test_doctor_judges_what_the_server_offers_and_names_what_it_does_not() -> None:
    run = modelctl("doctor", "-o", "json")
    assert run.exit_code == 0
    checks = {check["name"]: check for check in json.loads(run.stdout)}
    judged = {name for name, check in checks.items() if check["result"] == "ok"}
    assert judged == {"connection", "health", "cluster", "registry", "services"}
    for name in ("version", "identity", "rights"):
        assert checks[name]["detail"].startswith("unknown: the API has no call for it yet")
    assert checks["server"]["detail"].endswith("from MODELSERVICE_SERVER")
    assert "off, since the server is on this machine" in checks["tls"]["detail"]


def test_doctor_says_whether_a_token_or_a_right_is_missing(tmp_path: Path) -> None:
    users = tmp_path / "tokens.toml"
    digest = hashlib.sha256(b"a" * 43).hexdigest()
    users.write_text(
        f'[[user]]\nname = "ci"\nsha256 = ["{digest}"]\nnamespaces = {{ theirs = "viewer" }}\n'
    )
    token = tmp_path / "token"
    token.write_text("a" * 43)
    identity = {"auth": "tokens", "tokens_file": str(users)}

    def failed_check(*words: str) -> tuple[int, str]:
        run = modelctl("doctor", "--server", guarded.address, *words)
        rows = [line.split() for line in run.stdout.splitlines()]
        return run.exit_code, " ".join(row[0] for row in rows if "FAILED" in row)

    with serving(settings(identity=identity)) as guarded:
        guarded.wait_until_synced()
        assert failed_check() == (80, "identity")
        with_token = ("--token-file", str(token))
        assert failed_check(*with_token, "-n", NAMESPACE) == (71, "rights")
        assert failed_check(*with_token, "-n", "theirs") == (0, "")


@pytest.mark.parametrize(
    "words", [("list",), ("doctor",), ("deploy", "x", *IMAGE), ("restart", "x")]
)
def test_no_connection_ends_with_1(words: tuple[str, ...]) -> None:
    absent = f"127.0.0.1:{own_block().next()}"
    run = modelctl(*words, "--server", absent, "--patience", "0")
    assert run.exit_code == 1
    assert f"error: no server answers at {absent}: connection refused\n" in run.stderr
    assert "remedy  Check the address, and that the server runs there.\n" in run.stderr
    # Nothing was sent.
    assert "done" not in run.stderr
    assert "--request-id" not in run.stderr


@pytest.mark.parametrize("words", [("deploy", *IMAGE), ("restart",), ("stop",)])
def test_a_request_that_was_sent_and_not_answered_may_have_been_done(
    served: Served, name: str, words: tuple[str, ...]
) -> None:
    modelctl("deploy", name, *IMAGE)
    with cutting_proxy(served.address) as proxy:
        proxy.cuts["Stop" if words == ("stop",) else "Deploy"] = [grpc.StatusCode.INTERNAL]
        at = ("--server", proxy.address, "--patience", "0", "--request-id", "r-1")
        run = modelctl(words[0], name, *words[1:], *at)
    assert run.exit_code == 1
    assert run.stderr.splitlines()[-2:] == [
        "An attempt was sent and not answered, and may have been done.",
        "If the request was done, the same command takes it up again with --request-id r-1",
    ]


TIMED = [
    ("deploy", "x", *IMAGE),
    ("restart", "x"),
    ("rollback", "x"),
    ("stop", "x"),
    ("start", "x"),
    ("delete", "x"),
    ("status", "x", "--watch"),
    ("status", "x", "--watch", "--rollout-id", "r"),
]


@pytest.mark.parametrize("words", TIMED)
def test_a_timeout_ends_with_68_also_where_no_server_has_ever_answered(
    words: tuple[str, ...],
) -> None:
    absent = f"127.0.0.1:{own_block().next()}"
    run = modelctl(*words, "--server", absent, "--timeout", "2")
    assert run.exit_code == 68
    [error] = [line for line in run.stderr.splitlines() if line.startswith("error:")]
    assert error.startswith("error: not decided within the timeout of 2 s; no server answers ")
    assert error.endswith(": connection refused")


def test_a_server_that_answers_and_cannot_serve_yet_is_no_lost_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("modelservice_client.cli.doctor._SECONDS", 0.5)
    with serving(settings(), synced=False) as unsynced:
        at = ("--server", unsynced.address)
        status = modelctl("status", "x", "--watch", *at, "--timeout", "0.5")
        doctor = modelctl("doctor", *at)
    assert status.exit_code == 68
    assert re.search(
        r"^error: not decided within the timeout of 0.5 s; [A-Z_]+: ", status.stderr, re.M
    )
    assert doctor.exit_code == 78
    checks = {line.split()[0]: line.split()[1] for line in doctor.stdout.splitlines()}
    assert (checks["connection"], checks["services"]) == ("ok", "FAILED")


def test_a_connection_that_can_never_work_says_how_to_make_one(served: Served) -> None:
    run = modelctl("list", "--tls")
    assert run.exit_code == 1
    assert f"no server answers at {served.address}: it does not use TLS\n" in run.stderr
    assert "remedy  Give --plaintext, or another port.\n" in run.stderr
