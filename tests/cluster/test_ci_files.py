"""The files of ci/ for GitHub, GitLab and Tekton, run as these systems run them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from lab import builds
from tests.api.requests import NAMESPACE, failed, key
from tests.outage import BAD, GOOD, outage
from tests.serving import Served, serving, settings
from tests.transcript import blocks

from .ci_platforms import CI, PLATFORMS, Job
from .deploy_script import SCRIPT, Run, Script, deploy_script
from .requirements import say_to

OPTIONS = ["-plaintext", "-H", "x-caller: a CI job", "-connect-timeout", "1"]


@pytest.fixture
def script(built_grpcurl: Path, tmp_path: Path) -> Iterator[Script]:
    with deploy_script(built_grpcurl, tmp_path) as script:
        script.with_tool("sh")
        yield script


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(settings()) as served:
        served.wait_until_synced()
        yield served


class Outcome(NamedTuple):
    """How a run ended, with NAME as its service's name."""

    code: int
    deployed: str
    state: str
    said: list[str]


def checkout(folder: Path, name: str, request: dict[str, object]) -> Path:
    """The checkout of a job: the request, and the script where it is copied."""
    checkout = folder / name
    (checkout / "ci").mkdir(parents=True)
    shutil.copy(SCRIPT, checkout / "ci/deploy.sh")
    (checkout / "deploy.json").write_text(json.dumps(request))
    return checkout


def started(script: Script, name: str, job: Job, folder: Path) -> Run:
    return script.start(name, job.command, job.stdin, folder, **job.env)


def outcome(run: Run) -> Outcome:
    code = run.code()
    # GitLab's runner prints each line of the script first.
    out = [line for line in run.out if not line.startswith("$ ")]
    # How often each tries again depends on when the server comes back.
    said = [e for e in run.err if e.startswith("deploy.sh: ") and "; again in " not in e]
    deployed, *said = [line.replace(run.name, "NAME") for line in (out[0], *said)]
    return Outcome(code, deployed, out[-1].split()[0], said)


def test_each_waits_out_an_outage_and_ends_like_the_script_itself(
    script: Script, tmp_path: Path
) -> None:
    with outage(tmp_path) as server:
        runs: dict[str, dict[str, Run]] = {GOOD: {}, BAD: {}}
        for model, of_model in runs.items():
            for platform, play in PLATFORMS.items():
                name = f"{platform}-{Path(model).stem}"
                folder = checkout(tmp_path, name, server.request(name, model))
                inputs = {"server": server.address, "patience": "300"}
                job = play(inputs, OPTIONS, folder)
                of_model[platform] = started(script, name, job, folder)
            name = f"direct-{Path(model).stem}"
            of_model["direct"] = script.run(
                "dash",
                server.address,
                server.request(name, model),
                *("--patience", "300"),
                CI_JOB_ID="1",
            )
            of_model["direct"].name = name
        for run in [*runs[GOOD].values(), *runs[BAD].values()]:
            run.until("downloading the model")
        server.happen()
        good = {platform: outcome(run) for platform, run in runs[GOOD].items()}
        bad = {platform: outcome(run) for platform, run in runs[BAD].items()}
    assert good == dict.fromkeys(good, good["direct"])
    assert bad == dict.fromkeys(bad, bad["direct"])
    assert good["direct"][:1] + good["direct"][2:] == (
        0,
        "READY",
        [f"deploy.sh: {NAMESPACE}/NAME is ready"],
    )
    assert (bad["direct"].code, bad["direct"].state) == (73, "FAILED")
    reason, remedy = bad["direct"].said
    assert reason.startswith("deploy.sh: exit 73: ROLLOUT_FAILED, REASON_"), reason
    assert remedy.startswith("deploy.sh: remedy: "), remedy


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_request_id_is_the_jobs(
    platform: str, script: Script, served: Served, tmp_path: Path
) -> None:
    request = {"name": platform, "spec": {"container": {"image": "example.org/model:1"}}}
    folder = checkout(tmp_path, platform, request)
    job = PLATFORMS[platform]({"server": served.address}, OPTIONS, folder)
    assert started(script, platform, job, folder).code() == 0
    request["spec"] = {"container": {"image": "example.org/model:2"}}
    reused = script.run("dash", served.address, request, "--request-id", job.request_id)
    assert reused.code() == 67
    assert reused.err[-1] == "deploy.sh: exit 67: REQUEST_ID_REUSED"


@pytest.fixture
def open_rollouts(served: Served) -> Iterator[None]:
    """Rollouts do not become ready by themselves."""
    served.memory.ready_after = None
    yield
    served.memory.ready_after = timedelta(0)


@pytest.mark.usefixtures("open_rollouts")
@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_failed_rollout_is_rolled_back_where_the_input_asks_for_it(
    platform: str, script: Script, served: Served, tmp_path: Path
) -> None:
    name = f"undone-{platform}"
    request = {"name": name, "spec": {"container": {"image": "example.org/model:1"}}}
    folder = checkout(tmp_path, name, request)
    inputs = {"server": served.address, "rollback-on-failure": "true"}
    run = started(script, name, PLATFORMS[platform](inputs, OPTIONS, folder), folder)
    run.until("PENDING")
    rollout_id = served.inside(served.memory.store.service, key(name)).rollout.id
    served.inside(served.memory.set_status, key(name), failed(rollout_id))
    assert run.code() == 73
    assert "deploy.sh: not rolled back: NO_READY_REVISION" in run.err


@pytest.fixture(scope="module")
def check_jsonschema(request: pytest.FixtureRequest) -> Path:
    """The program, with the schemas that it comes with."""
    lock = Path(__file__).with_name("check_jsonschema.lock")
    uv = Path(sys.executable).with_name("uv")

    def install(folder: Path) -> None:
        say = say_to(request.config)
        venv = [uv, "venv", "--quiet", "--relocatable", "--python"]
        builds.run_build([*venv, sys.executable, folder], "venv", folder, say)
        options = ["--quiet", "--python", folder, "--require-hashes", "--requirement", lock]
        builds.run_build([uv, "pip", "install", *options], "check-jsonschema", folder, say)

    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    name = f"check-jsonschema-{digest}/venv"
    return builds.built_once(name, install, say_to(request.config)) / "bin/check-jsonschema"


@pytest.mark.parametrize(
    ("schema", "file"),
    [("github-actions", "github/action.yml"), ("gitlab-ci", "gitlab/deploy.yml")],
)
def test_github_and_gitlab_accept_it(
    schema: str, file: str, check_jsonschema: Path, tmp_path: Path
) -> None:
    documents = []
    for number, text in enumerate((CI / file).read_text().split("\n---\n")):
        documents.append(tmp_path / f"{number}.yml")
        documents[-1].write_text(text)
    transform = ["--data-transform", "gitlab-ci"] if schema == "gitlab-ci" else []
    command = [check_jsonschema, "--builtin-schema", f"vendor.{schema}", *transform]
    done = subprocess.run([*command, *documents], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


TEKTON = Path(__file__).with_name("tekton_task.schema.json")
WRONG_TASKS = {
    "a field of v1beta1": ("    - name: deploy\n", "    - name: deploy\n      resources: {}\n"),
    "a param without a name": ("    - name: server\n      type", "    - type"),
    "a number as the default": ('default: "60"', "default: 60"),
    "a text as a list": ("default: []", 'default: ""'),
    "a version of before": ("tekton.dev/v1", "tekton.dev/v1beta1"),
}


def checked_task(check_jsonschema: Path, task: str, folder: Path) -> int:
    file = folder / "task.yaml"
    file.write_text(task)
    command = [check_jsonschema, "--schemafile", TEKTON, file]
    return subprocess.run(command, capture_output=True).returncode


def test_tekton_accepts_the_fields_of_the_task(check_jsonschema: Path, tmp_path: Path) -> None:
    task = (CI / "tekton/task.yaml").read_text()
    assert checked_task(check_jsonschema, task, tmp_path) == 0
    for what, (right, wrong) in WRONG_TASKS.items():
        assert right in task, what
        assert checked_task(check_jsonschema, task.replace(right, wrong, 1), tmp_path) == 1, what


def test_every_variable_of_the_task_is_declared() -> None:
    """Tekton's webhook refuses a Task with another one."""
    spec = yaml.safe_load((CI / "tekton/task.yaml").read_text())["spec"]
    lists = {param["name"] for param in spec["params"] if param["type"] == "array"}
    declared = {f"params.{param['name']}" for param in spec["params"]} - {
        f"params.{name}" for name in lists
    }
    declared |= {f"params.{name}[*]" for name in lists}
    declared |= {f"workspaces.{workspace['name']}.path" for workspace in spec["workspaces"]}
    used = set(re.findall(r"\$\((.*?)\)", yaml.safe_dump(spec["steps"], width=10_000)))
    assert used == declared | {"context.taskRun.uid"}
    # A list stands for arguments, and only as a whole one.
    [step] = spec["steps"]
    assert [f"$(params.{name}[*])" for name in lists] == step["args"]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_an_input_is_never_code(platform: str, script: Script, tmp_path: Path) -> None:
    # GitLab itself breaks off where an input ends a YAML string.
    quote = "" if platform.startswith("gitlab") else '"'
    code = f"{quote}'; : >pwned; $(: >pwned) `: >pwned`"
    folder = checkout(tmp_path, platform, {})
    inputs = dict.fromkeys(("server", "request", "timeout", "patience"), code)
    options = [] if platform.startswith("gitlab") else [code]
    run = started(script, platform, PLATFORMS[platform](inputs, options, folder), folder)
    assert run.code() == 2, (run.out, run.err)
    assert run.err[-1].startswith(
        f"deploy.sh: --timeout and --patience must be whole seconds, got {code};"
    )
    inputs = {"server": "127.0.0.1:9", "rollback-on-failure": code}
    run = started(script, platform, PLATFORMS[platform](inputs, [], folder), folder)
    assert run.code() == 2, (run.out, run.err)
    assert f"--rollback-on-failure must be true or false, got {code};" in run.err[-1]
    assert not (folder / "pwned").exists()


def test_the_document_gives_inputs_that_each_has() -> None:
    github, gitlab, tekton = (
        yaml.safe_load(text)
        for heading in ("GitHub Actions", "GitLab CI", "Tekton")
        for text in blocks("docs/ci.md", heading, "yaml")
    )
    action = yaml.safe_load((CI / "github/action.yml").read_text())
    assert github[1]["with"].keys() <= action["inputs"].keys()
    [included] = gitlab["include"]
    header, _ = yaml.safe_load_all((CI.parent / included["file"]).read_text())
    inputs = header["spec"]["inputs"]
    assert included["inputs"].keys() <= inputs.keys()
    assert inputs["job"]["default"] in gitlab
    task = yaml.safe_load((CI / "tekton/task.yaml").read_text())
    assert tekton["taskRef"]["name"] == task["metadata"]["name"]
    for kind in ("params", "workspaces"):
        declared = {one["name"] for one in task["spec"][kind]}
        assert {one["name"] for one in tekton[kind]} <= declared
