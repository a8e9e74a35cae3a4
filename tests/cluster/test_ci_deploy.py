"""ci/deploy.sh as CI runs it: in bash and dash at their strictest, with grpcurl and without jq."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from lab.port_blocks import own_block
from server.domain.errors import ErrorReason
from server.domain.rollout.status import InferenceServiceStatus as Status
from server.domain.rollout.status import State
from tests.adapters.local.file_server import file_server
from tests.adapters.local.load import load
from tests.adapters.local.server_process import kill, server
from tests.api.requests import NAMESPACE, READY, deploy, eventually, failed, get, key
from tests.api.test_errors import error_of
from tests.api.test_tls_document import make_certificate
from tests.api.token_files import entry, identity, token_of
from tests.client.tls_ports import tls_ports
from tests.patience import PATIENCE_SECONDS
from tests.serving import Served, serving, settings
from tests.transcript import blocks

from .cutting_proxy import cutting_proxy
from .deploy_script import SCRIPT, SHELLS, TOOLS, Run, Script, deploy_script

SECRET = "hunter2"
ROOT = SCRIPT.parents[1]
BRISKLY = ("-connect-timeout", "1")


@pytest.fixture
def script(built_grpcurl: Path, tmp_path: Path) -> Iterator[Script]:
    with deploy_script(built_grpcurl, tmp_path) as script:
        yield script


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(settings()) as served:
        served.wait_until_synced()
        yield served


@pytest.fixture
def stub(served: Served) -> Iterator[ModelServiceStub]:
    with grpc.insecure_channel(served.address) as channel:
        yield ModelServiceStub(channel)


@pytest.fixture
def open_rollouts(served: Served) -> Iterator[None]:
    """Rollouts do not become ready by themselves."""
    served.memory.ready_after = None
    yield
    served.memory.ready_after = timedelta(0)


def request(name: str, image: str = "example.org/model:1") -> dict[str, Any]:
    return {"name": name, "spec": {"container": {"image": image}}}


def make_ready(served: Served, name: str) -> None:
    served.inside(served.memory.set_status, key(name), Status(State.READY))


def in_both_shells(
    script: Script, address: str, service: str, *options: str, **others: Any
) -> list[Run]:
    """One run in each shell, at the same time, each for a service of its own."""
    return [
        script.run(shell, address, request(f"{service}-{shell}"), *options, **others)
        for shell in SHELLS
    ]


def test_the_warnings_about_a_deploy_are_printed(script: Script, served: Served) -> None:
    for shell in SHELLS:
        body = request(f"warned-{shell}")
        body["spec"]["scaling"] = {"min_replicas": 0, "max_replicas": 2}
        run = script.run(shell, served.address, body, "--request-id", f"warned-{shell}")
        assert run.code() == 0
        warnings = [line for line in run.err if line.startswith("deploy.sh: warning: ")]
        assert len(warnings) == 1
        assert warnings[0].startswith("deploy.sh: warning: spec.scaling.min_replicas: 0 ")


def test_a_server_that_is_away_at_first_and_is_killed_later_is_waited_for(
    script: Script, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{own_block().next()}"
    with file_server() as files:
        files.files["/model.json"] = b"{}"
        files.stuck.add("/model.json")
        model = {"format": {"name": "test"}, "storage_uri": files.url("/model.json")}
        runs = [
            script.run(
                shell,
                address,
                {"name": shell, "spec": {"model": model}},
                grpcurl=BRISKLY,
                CI_JOB_ID="7",
            )
            for shell in SHELLS
        ]
        for run in runs:
            run.until("deploy.sh: Deploy: Failed to dial", times=2)
        with server(tmp_path, MODELSERVICE_LISTEN=address) as running:
            for run in runs:
                run.until("downloading the model")
            kill(running)
        for run in runs:
            run.until("deploy.sh: WatchStatus: ")
        files.stuck.clear()
        with server(tmp_path, MODELSERVICE_LISTEN=address):
            for run in runs:
                assert run.code() == 0, run.errors
                assert run.out[0] == f"ACTION_CREATED  {NAMESPACE}/{run.name}"
                assert run.states[-1] == "READY"
                repeated = [a for a, b in zip(run.out, run.out[1:], strict=False) if a == b]
                assert repeated == []


def test_a_proxy_that_cuts_is_asked_again_and_there_is_one_rollout(
    script: Script, served: Served, stub: ModelServiceStub, open_rollouts: None
) -> None:
    with cutting_proxy(served.address) as proxy:
        proxy.cuts["Deploy"] = [StatusCode.INTERNAL, StatusCode.UNKNOWN]
        proxy.cuts["WatchStatus"] = [StatusCode.INTERNAL, StatusCode.UNKNOWN] * 2
        runs = in_both_shells(script, proxy.address, "cut", CI_JOB_ID="8")
        for run in runs:
            run.until("PENDING")
        eventually("every cut was made", lambda: not proxy.cuts["WatchStatus"])
        for run in runs:
            service = served.inside(served.memory.store.service, key(f"cut-{run.name}"))
            assert service.generation == 1
            make_ready(served, f"cut-{run.name}")
        for run in runs:
            assert run.code() == 0, run.errors
            assert run.out[0] == f"ACTION_CREATED  {NAMESPACE}/cut-{run.name}"
            assert run.states == ["PENDING", "READY"]
        assert proxy.passed.count("Deploy") == 4


def test_an_error_that_passes_is_waited_for(script: Script, served: Served) -> None:
    served.memory.fail_next_write(error_of(ErrorReason.CONCURRENT_WRITE, "others wrote"))
    run = script.run("dash", served.address, request("passing"), CI_JOB_ID="9")
    assert run.code() == 0, run.errors
    assert "deploy.sh: Deploy: others wrote; again in 1 s" in run.err


def test_a_bug_of_the_server_is_not_tried_again(script: Script, served: Served) -> None:
    served.memory.fail_next_write(error_of(ErrorReason.INTERNAL, "a bug"))
    run = script.run("dash", served.address, request("bug"), CI_JOB_ID="9")
    assert run.code() == 77
    assert run.err[-1] == "deploy.sh: exit 77: INTERNAL"


@pytest.mark.usefixtures("open_rollouts")
def test_a_failed_rollout_ends_with_73_its_reason_and_its_remedy(
    script: Script, served: Served, stub: ModelServiceStub
) -> None:
    for run in in_both_shells(script, served.address, "failing", CI_JOB_ID="1"):
        run.until("PENDING")
        rollout_id = get(stub, f"failing-{run.name}").rollout_id
        served.inside(served.memory.set_status, key(f"failing-{run.name}"), failed(rollout_id))
        assert run.code() == 73
        assert run.states == ["PENDING", "FAILED"]
        assert '"reason": "REASON_IMAGE_PULL"' in run.errors
        service = f"{NAMESPACE}/failing-{run.name}"
        assert run.err[-2:] == [
            f"deploy.sh: exit 73: ROLLOUT_FAILED, REASON_IMAGE_PULL ({service})",
            "deploy.sh: remedy: push it",
        ]


def ready_before(stub: ModelServiceStub, served: Served, name: str) -> None:
    """A service whose first revision is READY."""
    stub.Deploy(deploy(name))
    make_ready(served, name)


ROLLBACK = "--rollback-on-failure"
PROTOS = tuple(
    word
    for file in ("model_service", "rollout_service")
    for word in ("-import-path", str(ROOT / "proto"), "-proto", f"modelservice/v1/{file}.proto")
)
SECOND = "example.org/model:2"


@pytest.mark.usefixtures("open_rollouts")
def test_a_failed_rollout_is_rolled_back_and_ends_with_81(
    script: Script, served: Served, stub: ModelServiceStub
) -> None:
    runs = []
    for shell in SHELLS:
        ready_before(stub, served, f"back-{shell}")
        body = request(f"back-{shell}", SECOND)
        runs.append(script.run(shell, served.address, body, ROLLBACK, CI_JOB_ID="1"))
    for run in runs:
        name = f"back-{run.name}"
        run.until("PENDING")
        served.inside(served.memory.set_status, key(name), failed(get(stub, name).rollout_id))
        run.until("PENDING", times=2)
        make_ready(served, name)
        assert run.code() == 81, run.errors
        service = f"{NAMESPACE}/{name}"
        updated = f"ACTION_UPDATED  {service}"
        assert [line for line in run.out if line == updated] == [updated] * 2
        assert run.out[-1].startswith("READY")
        said = [line for line in run.err if line.startswith("deploy.sh: ")]
        assert said == [
            f"deploy.sh: ROLLOUT_FAILED, REASON_IMAGE_PULL ({service}); rolling it back",
            f"deploy.sh: {service} is rolled back to revision 1, and is ready",
            f"deploy.sh: exit 81: ROLLOUT_FAILED, REASON_IMAGE_PULL ({service})",
            "deploy.sh: remedy: push it",
        ]
        assert '"reason": "REASON_IMAGE_PULL"' in run.errors
        assert get(stub, name).spec.container.image == "example.org/model:1"


@pytest.mark.usefixtures("open_rollouts")
def test_with_the_protos_instead_of_reflection_a_failed_rollout_is_rolled_back(
    script: Script, served: Served, stub: ModelServiceStub
) -> None:
    ready_before(stub, served, "described")
    body = request("described", SECOND)
    run = script.run("dash", served.address, body, ROLLBACK, grpcurl=PROTOS, CI_JOB_ID="1")
    run.until("PENDING")
    rollout_id = get(stub, "described").rollout_id
    served.inside(served.memory.set_status, key("described"), failed(rollout_id))
    run.until("PENDING", times=2)
    make_ready(served, "described")
    assert run.code() == 81, run.errors
    service = f"{NAMESPACE}/described"
    assert run.err[-3:] == [
        f"deploy.sh: {service} is rolled back to revision 1, and is ready",
        # Nothing describes google.rpc.ErrorInfo.
        f"deploy.sh: exit 81: REASON_IMAGE_PULL ({service})",
        "deploy.sh: remedy: push it",
    ]


@pytest.mark.usefixtures("open_rollouts")
def test_a_failed_rollout_without_a_ready_revision_ends_with_73_and_says_so(
    script: Script, served: Served, stub: ModelServiceStub
) -> None:
    for run in in_both_shells(script, served.address, "first", ROLLBACK, CI_JOB_ID="1"):
        run.until("PENDING")
        rollout_id = get(stub, f"first-{run.name}").rollout_id
        served.inside(served.memory.set_status, key(f"first-{run.name}"), failed(rollout_id))
        assert run.code() == 73
        service = f"{NAMESPACE}/first-{run.name}"
        assert run.err[-3:] == [
            "deploy.sh: not rolled back: NO_READY_REVISION",
            f"deploy.sh: exit 73: ROLLOUT_FAILED, REASON_IMAGE_PULL ({service})",
            "deploy.sh: remedy: push it",
        ]


@pytest.mark.usefixtures("open_rollouts")
def test_a_rollback_that_fails_too_ends_with_73_and_both_causes(
    script: Script, served: Served, stub: ModelServiceStub
) -> None:
    ready_before(stub, served, "twice")
    run = script.run("dash", served.address, request("twice", SECOND), ROLLBACK, CI_JOB_ID="1")
    for times in (1, 2):
        run.until("PENDING", times=times)
        status = failed(get(stub, "twice").rollout_id)
        served.inside(served.memory.set_status, key("twice"), status)
    assert run.code() == 73
    assert run.err[-3:] == [
        "deploy.sh: the rollback is not ready: ROLLOUT_FAILED, REASON_IMAGE_PULL",
        f"deploy.sh: exit 73: ROLLOUT_FAILED, REASON_IMAGE_PULL ({NAMESPACE}/twice)",
        "deploy.sh: remedy: push it",
    ]


@pytest.mark.usefixtures("open_rollouts")
def test_the_rollout_of_somebody_else_is_not_rolled_back(
    script: Script, served: Served, stub: ModelServiceStub
) -> None:
    ready_before(stub, served, "theirs")
    with cutting_proxy(served.address) as proxy:
        proxy.held["Rollback"] = held = threading.Event()
        run = script.run("dash", proxy.address, request("theirs", SECOND), ROLLBACK, CI_JOB_ID="1")
        run.until("PENDING")
        served.inside(
            served.memory.set_status, key("theirs"), failed(get(stub, "theirs").rollout_id)
        )
        eventually("it is to be rolled back", lambda: "Rollback" in proxy.passed)
        newer = stub.Deploy(deploy("theirs", image="example.org/model:3"))
        held.set()
        assert run.code() == 73
    assert "deploy.sh: not rolled back: ROLLOUT_SUPERSEDED" in run.err
    assert get(stub, "theirs").rollout_id == newer.rollout_id


@pytest.mark.usefixtures("open_rollouts")
def test_a_rollback_that_is_interrupted_says_so_and_goes_on(
    script: Script, served: Served, stub: ModelServiceStub
) -> None:
    ready_before(stub, served, "halfway")
    run = script.run("bash", served.address, request("halfway", SECOND), ROLLBACK, CI_JOB_ID="1")
    run.until("PENDING")
    served.inside(served.memory.set_status, key("halfway"), failed(get(stub, "halfway").rollout_id))
    run.until("PENDING", times=2)
    run.interrupt()
    assert run.code() == 130
    service = f"{NAMESPACE}/halfway"
    assert run.err[-1] == f"deploy.sh: stopped watching; the rollback of {service} goes on"


async def test_on_the_local_cluster_a_bad_version_is_rolled_back_and_not_one_request_fails(
    script: Script, tmp_path: Path
) -> None:
    def body(model: str) -> dict[str, Any]:
        predictor = {"format": {"name": "test"}, "storage_uri": str(tmp_path / model)}
        return {"name": "iris", "spec": {"model": predictor}}

    def deployed(model: str, request_id: str) -> Run:
        return script.run(
            "dash", running.running.address, body(model), ROLLBACK, "--request-id", request_id
        )

    (tmp_path / "good").write_text("{}")
    (tmp_path / "bad").write_text('{"exit": 3}')
    with server(tmp_path) as running:
        good = deployed("good", "r-1")
        assert await asyncio.to_thread(good.code) == 0, good.errors
        async with load(get(running.stub, "iris").status.url) as under:
            await under.goes_on()
            bad = deployed("bad", "r-2")
            assert await asyncio.to_thread(bad.code) == 81, bad.errors
            await under.goes_on()
        assert under.failed == []
        service = get(running.stub, "iris")
    assert (
        bad.err[-2] == f"deploy.sh: exit 81: ROLLOUT_FAILED, REASON_MODEL_LOAD ({NAMESPACE}/iris)"
    )
    assert bad.err[-1].startswith("deploy.sh: remedy: ")
    assert service.status.state == READY
    assert service.spec.model.storage_uri == str(tmp_path / "good")


@pytest.mark.usefixtures("open_rollouts")
def test_a_superseded_rollout_ends_with_74(
    script: Script, served: Served, stub: ModelServiceStub
) -> None:
    for run in in_both_shells(script, served.address, "replaced", CI_JOB_ID="1"):
        run.until("PENDING")
        stub.Deploy(deploy(f"replaced-{run.name}", image="example.org/model:2"))
        assert run.code() == 74
        service = f"{NAMESPACE}/replaced-{run.name}"
        assert run.err[-1] == f"deploy.sh: exit 74: ROLLOUT_SUPERSEDED ({service})"


@pytest.mark.usefixtures("open_rollouts")
def test_a_rollout_that_is_not_decided_in_time_ends_with_68(script: Script, served: Served) -> None:
    runs = in_both_shells(script, served.address, "late", "--timeout", "5", CI_JOB_ID="1")
    for run in runs:
        assert run.code() == 68
        assert "PENDING" in run.states
        assert "the same command with --request-id gitlab-1 goes on" in run.err[-1]


# A Deploy is answered, and a watch never decided. Each look at the clock takes 50 s.
UNDECIDED = {
    "grpcurl": """
case $* in
*/Deploy) cat "$ANSWER" ;;
*) echo '{"@type": "google.rpc.RetryInfo", "domain": "modelservice"}' >&2; exit 78 ;;
esac
""",
    "date": 'read -r now <"$CLOCK"; echo $((now + 50)) | tee "$CLOCK"',
    "sleep": "",
}


# As `sh` is on some systems, beside the two shells of the other tests.
SHELLS_AND_SH = {**SHELLS, "sh": ("bash", "--posix")}


def undecided(
    shell: str, service: dict[str, Any], options: tuple[str, ...], tmp_path: Path
) -> tuple[Run, int]:
    """Run the script until it gives up; return for how long its clock has run, too."""
    clock = tmp_path / "clock"
    clock.write_text("1000\n")
    run = with_programs(UNDECIDED, shell, service, options, tmp_path, CLOCK=str(clock))
    run.code()
    return run, int(clock.read_text()) - 1000


def with_programs(
    programs: dict[str, str],
    shell: str,
    service: dict[str, Any],
    options: tuple[str, ...],
    tmp_path: Path,
    **env: str,
) -> Run:
    """Start the script with shell scripts as some of its programs; ANSWER is that of its Deploy."""
    path, answer = tmp_path / "bin", tmp_path / "answer"
    path.mkdir()
    answer.write_text(json.dumps({"service": service, "rollout_id": "u/1"}, indent=2))
    command = SHELLS_AND_SH[shell]
    for tool in (*TOOLS, "sh", "tee", "touch", command[0]):
        found = shutil.which(tool)
        assert found
        (path / tool).symlink_to(found)
    for tool, body in programs.items():
        (path / tool).unlink(missing_ok=True)
        (path / tool).write_text(f"#!/bin/sh\n{body}\n")
        (path / tool).chmod(0o755)
    words = [*command, SCRIPT, "--request-id", "r", *options, "localhost:1", "-"]
    return Run(shell, words, "{}", path, {"ANSWER": str(answer), **env})


@pytest.mark.parametrize("shell", SHELLS_AND_SH)
@pytest.mark.parametrize(
    ("spec", "options", "seconds"),
    [
        ({}, (), 720),
        ({}, ("--timeout", "0"), 720),
        ({"ready_timeout": "900s"}, (), 1020),
        ({"readyTimeout": "900s"}, (), 1020),
        ({"env": {}, "ready_timeout": "900.500s", "scaling": {}}, (), 1020),
        ({"ready_timeout": "0.500s"}, (), 120),
        ({"ready_timeout": "900s"}, ("--timeout", "500"), 500),
    ],
)
def test_by_default_a_rollout_has_the_time_in_which_it_fails_by_itself(
    shell: str, spec: dict[str, Any], options: tuple[str, ...], seconds: int, tmp_path: Path
) -> None:
    run, passed = undecided(shell, {"spec": spec}, options, tmp_path)
    assert run.code() == 68, run.err
    assert f"deploy.sh: not decided after {seconds} s" in run.err
    assert seconds <= passed < seconds + 500


@pytest.mark.parametrize("shell", SHELLS_AND_SH)
@pytest.mark.parametrize("text", ["timeout[$(touch {})0]", "15m", "900s"])
@pytest.mark.parametrize("spec", [{}, {"ready_timeout": "300s"}], ids=["no spec", "a spec"])
def test_labels_and_annotations_named_like_a_field_of_the_spec_give_no_time(
    spec: dict[str, str], text: str, shell: str, tmp_path: Path
) -> None:
    others = dict.fromkeys(("ready_timeout", "readyTimeout"), text.format(tmp_path / "touched"))
    service = {"labels": others, "spec": spec, "annotations": others}
    run, _ = undecided(shell, service, (), tmp_path)
    assert not (tmp_path / "touched").exists()
    assert run.code() == 68, run.err
    seconds = 420 if spec else 720
    assert f"deploy.sh: not decided after {seconds} s" in run.err


@pytest.mark.parametrize("shell", SHELLS_AND_SH)
@pytest.mark.parametrize("text", ["timeout[$(touch {})0]", "timeout[$(touch {})0]s", "15m", "s"])
def test_a_time_that_is_none_is_not_taken(text: str, shell: str, tmp_path: Path) -> None:
    spec = {"ready_timeout": text.format(tmp_path / "touched")}
    run, _ = undecided(shell, {"spec": spec}, (), tmp_path)
    assert not (tmp_path / "touched").exists()
    assert run.code() == 68, run.err
    assert "deploy.sh: not decided after 720 s" in run.err


@pytest.mark.usefixtures("open_rollouts")
def test_ctrl_c_leaves_the_rollout_alone_and_the_same_command_watches_it_again(
    script: Script, served: Served, stub: ModelServiceStub
) -> None:
    runs = in_both_shells(script, served.address, "left", GITHUB_RUN_ID="5")
    for run in runs:
        run.until("PENDING")
        run.interrupt()
        assert run.code() == 130
        assert len(run.err) == 1, run.errors
        [said] = run.err
        assert f"the rollout of {NAMESPACE}/left-{run.name} goes on" in said
        assert "--request-id github-5-1" in said
    rollouts = {run.name: get(stub, f"left-{run.name}").rollout_id for run in runs}
    again = in_both_shells(script, served.address, "left", "--request-id", "github-5-1")
    for run in again:
        run.until("PENDING")
        make_ready(served, f"left-{run.name}")
        assert run.code() == 0, run.errors
        assert get(stub, f"left-{run.name}").rollout_id == rollouts[run.name]


MANY_MESSAGES = {
    "grpcurl": """\
case "$*" in
*Deploy*) exec cat "$ANSWER" ;;
esac
while :; do
    for state in PENDING PROGRESSING; do
        printf '{\\n  "service": {\\n    "status": {\\n      "state": "STATE_%s",\\n' "$state"
        printf '      "message": "it goes on"\\n    }\\n  }\\n}\\n'
    done
done"""
}


@pytest.mark.parametrize("shell", SHELLS_AND_SH)
def test_ctrl_c_among_many_messages_prints_no_error(shell: str, tmp_path: Path) -> None:
    run = with_programs(MANY_MESSAGES, shell, {}, (), tmp_path)
    run.until("PENDING")
    run.interrupt()
    assert run.code() == 130
    assert len(run.err) == 1, run.errors


@pytest.mark.usefixtures("open_rollouts")
def test_a_job_that_is_cancelled_ends_at_once_and_leaves_nothing_behind(
    script: Script, served: Served, tmp_path: Path
) -> None:
    for run in in_both_shells(script, served.address, "cancelled", CI_JOB_ID="1"):
        run.until("PENDING")
        run.process.terminate()
        assert run.code() == 143
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


@pytest.mark.parametrize(
    ("env", "request_id"),
    [
        ({"GITHUB_RUN_ID": "11", "GITHUB_RUN_ATTEMPT": "2"}, "github-11-2"),
        ({"CI_JOB_ID": "12"}, "gitlab-12"),
    ],
    ids=["github", "gitlab"],
)
def test_a_job_is_one_request_and_another_job_is_another(
    script: Script, served: Served, env: dict[str, str], request_id: str
) -> None:
    for shell in SHELLS:
        name = f"{request_id}-{shell}"
        assert script.run(shell, served.address, request(name), **env).code() == 0
        changed = request(name, "example.org/model:2")
        reused = script.run(shell, served.address, changed, "--request-id", request_id)
        assert reused.code() == 67
        assert reused.err[-1] == "deploy.sh: exit 67: REQUEST_ID_REUSED"
        another = script.run(shell, served.address, changed, "--request-id", f"{request_id}-b")
        assert another.code() == 0
        assert another.out[0].startswith("ACTION_UPDATED")


def test_wrong_usage_ends_with_2_before_anything_is_sent(script: Script, served: Served) -> None:
    job = {"CI_JOB_ID": "1"}
    wrong: list[tuple[str, tuple[str, ...], dict[str, str]]] = [
        ("--request-id is needed", (), {}),
        ("--request-id must be", ("--request-id", "a b"), {}),
        ("--request-id must be", ("--request-id", "a" * 65), {}),
        ("got seventeen", ("--timeout", "seventeen"), job),
        ("got 0600", ("--timeout", "0600"), job),
        ("must be true or false, got maybe", ("--rollback-on-failure=maybe",), job),
        ("there is no option --plaintext", ("--plaintext",), job),
        ("must be all", ("one-more",), job),
    ]
    for shell in SHELLS:
        for said, options, env in wrong:
            body = request(f"wrong-{shell}")
            run = script.run(shell, served.address, body, *options, **env)
            assert run.code() == 2
            assert said in run.errors
        run = script.run(shell, served.address, "name: wrong", **job)
        assert run.code() == 2
        assert "the request must be a JSON object" in run.errors
    script.without("grpcurl")
    for run in in_both_shells(script, served.address, "wrong", CI_JOB_ID="1"):
        assert run.code() == 2
        assert "grpcurl is needed and is not on the PATH" in run.errors
    names = {key.name for key in served.inside(lambda: list(served.memory.store))}
    assert not {name for name in names if name.startswith("wrong")}


def test_no_server_ends_with_1_after_the_patience_and_bad_json_at_once(
    script: Script, served: Served
) -> None:
    patience = ("--patience", "2")
    away = "127.0.0.1:9"
    runs = in_both_shells(script, away, "none", *patience, grpcurl=BRISKLY, CI_JOB_ID="1")
    for shell in SHELLS:
        bad = script.run(shell, served.address, '{"name": "iris", "specc": {}}', CI_JOB_ID="1")
        assert bad.code() == 1
        assert "no known field named specc" in bad.errors
    for run in runs:
        assert run.code() == 1
        assert "deploy.sh: no server has answered for 2 s" in run.err


def test_a_server_that_closes_each_connection_is_said_to_and_why_it_may(
    script: Script, tmp_path: Path
) -> None:
    folder = tmp_path / "ports"
    folder.mkdir()
    with tls_ports(folder) as ports:
        runs = [
            script.run("dash", ports.addresses["TLS"], request("iris"), *WAITS_2_S),
            script.start(
                "dash",
                [
                    *(str(shutil.which("dash")), SCRIPT, *WAITS_2_S),
                    *(ports.addresses["client certificates"], "-"),
                    *("--", "-cacert", folder / "ca.crt"),
                ],
                json.dumps(request("iris")),
            ),
        ]
        for run in runs:
            assert run.code() == 1
            [why] = [line for line in run.err if "it closes each connection" in line]
            assert "check -plaintext and -cacert" in why
            assert "client certificates only (-cert and -key)" in why


WAITS_2_S = ("--patience", "2", "--request-id", "r")


def test_with_the_protos_instead_of_reflection_names_are_in_camel_case_and_it_works(
    script: Script, served: Served
) -> None:
    protos = ("-import-path", str(ROOT / "proto"), "-proto", "modelservice/v1/model_service.proto")
    for run in in_both_shells(script, served.address, "camel", grpcurl=protos, CI_JOB_ID="1"):
        assert run.code() == 0, run.errors
        assert run.states[-1] == "READY"


@pytest.mark.usefixtures("open_rollouts")
def test_what_grpcurl_is_given_is_not_printed(script: Script, served: Served) -> None:
    header = ("-H", f"authorization: Bearer {SECRET}")
    for run in in_both_shells(script, served.address, "secret", grpcurl=header, CI_JOB_ID="1"):
        run.until("PENDING")
        run.interrupt()
        assert run.code() == 130
        assert SECRET not in f"{run.out} {run.err}"


def test_help_has_examples_and_the_exit_codes_of_the_document() -> None:
    for flags in SHELLS.values():
        done = subprocess.run([*flags, SCRIPT, "--help"], capture_output=True, text=True)
        assert done.returncode == 0
        assert "ci/deploy.sh modelservice.example:443 deploy.json" in done.stdout
    table = (ROOT / "docs/ci.md").read_text()
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| ")]
    documented = {code.strip() for codes in rows for code in codes.split(",")}
    helped = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert documented - {"exit"} <= helped
    assert os.access(SCRIPT, os.X_OK)


@pytest.mark.parametrize("heading", ["From a CI job", "Roll back on failure"])
def test_the_line_of_the_document(heading: str, tmp_path: Path, built_grpcurl: Path) -> None:
    [line] = blocks("docs/ci.md", heading, "bash")
    (tmp_path / "deploy.json").write_text(json.dumps(request("as-documented")))
    make_certificate(tmp_path)
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(entry("ci", namespaces={"*": "deployer"}))
    tls = {"tls_cert": str(tmp_path / "tls.crt"), "tls_key": str(tmp_path / "tls.key")}
    with serving(
        settings(serving=tls | {"listen": "localhost:0"}, identity=identity(tokens))
    ) as served:
        served.wait_until_synced()
        address = f"localhost:{served.port}"
        done = subprocess.run(
            [
                "sh",
                "-euc",
                line.replace("modelservice.modelservice:50051", address).replace(
                    "ci/deploy.sh", str(SCRIPT)
                ),
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            cwd=tmp_path,
            env={
                "PATH": f"{built_grpcurl.parent}:{os.environ['PATH']}",
                "CI_JOB_ID": "8",
                "TOKEN": token_of("ci"),
            },
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("READY")
