"""CI systems as they run the files of ci/: each reads its YAML and starts the shell that it starts.

Sources: GitHub's workflow syntax (shell `bash`), GitLab Runner's shells/bash.go and GitLab's
Gitlab::Ci::Config::Interpolation::TextTemplate, Tekton's pkg/pod/script.go.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

CI = Path(__file__).parents[2] / "ci"
_BASH, _DASH = str(shutil.which("bash")), str(shutil.which("dash"))


class Job(NamedTuple):
    """What a system starts: in the folder with the checkout, with `stdin` and `env`."""

    command: list[str | Path]
    stdin: str
    env: dict[str, str]
    request_id: str


def github(inputs: Mapping[str, str], options: list[str], folder: Path) -> Job:
    """A step of a composite action."""
    action = yaml.safe_load((CI / "github/action.yml").read_text())
    values = _values(action["inputs"], inputs | {"grpcurl-options": "\n".join(options)})
    [step] = action["runs"]["steps"]

    def evaluated(text: str) -> str:
        return re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: values[found[1]], text)

    script = folder / "run.sh"
    script.write_text(evaluated(step["run"]))
    assert (action["runs"]["using"], step["shell"]) == ("composite", "bash")
    return Job(
        [_BASH, "--noprofile", "--norc", "-eo", "pipefail", script],
        "",
        {name: evaluated(text) for name, text in step["env"].items()}
        | {"GITHUB_ACTION_PATH": str(CI / "github")}
        | {"GITHUB_RUN_ID": "101", "GITHUB_RUN_ATTEMPT": "2"},
        "github-101-2",
    )


def gitlab(inputs: Mapping[str, str], options: list[str], folder: Path, shell: str = _BASH) -> Job:
    """A job in an image with bash."""
    header, body = (CI / "gitlab/deploy.yml").read_text().split("\n---\n")
    values = _values(yaml.safe_load(header)["spec"]["inputs"], inputs)
    text = re.sub(r"\$\[\[ inputs\.([\w-]+) \]\]", lambda found: values[found[1]], body)
    [job] = yaml.safe_load(text).values()
    lines = [f"export {name}={shlex.quote(value)}" for name, value in job["variables"].items()]
    for line in job["script"]:
        lines += [f"echo {shlex.quote(f'$ {line}')}", line]
    commands = shlex.quote("\n".join(lines))
    script = f"""\
trap exit 1 TERM

if set -o | grep pipefail > /dev/null; then set -o pipefail; fi; set -o errexit
set +o noclobber
: | eval {commands}
exit 0
"""
    env = {"CI_JOB_ID": "202", "GRPCURL_OPTIONS": "\n".join(options)}
    return Job([shell], script, env, "gitlab-202")


def gitlab_without_bash(inputs: Mapping[str, str], options: list[str], folder: Path) -> Job:
    """A job in an image whose only shell is POSIX's, as Alpine's."""
    return gitlab(inputs, options, folder, _DASH)


def tekton(inputs: Mapping[str, str], options: list[str], folder: Path) -> Job:
    """A step of a TaskRun."""
    spec = yaml.safe_load((CI / "tekton/task.yaml").read_text())["spec"]
    params = {param["name"]: param for param in spec["params"]}
    assert params.pop("grpcurl-options")["type"] == "array"
    values = {f"params.{name}": value for name, value in _values(params, inputs).items()}
    values |= {"context.taskRun.uid": "0f9b", "workspaces.source.path": str(folder)}
    [step] = spec["steps"]

    def replaced(text: str) -> str:
        return re.sub(r"\$\(([\w.-]+)\)", lambda found: values.get(found[1], found[0]), text)

    assert replaced(step["workingDir"]) == str(folder)
    assert step["args"] == ["$(params.grpcurl-options[*])"]
    script = folder / "script-0"
    script.write_text(replaced(step["script"]))
    script.chmod(0o755)
    env = {variable["name"]: replaced(variable["value"]) for variable in step["env"]}
    return Job([script, *options], "", env, "0f9b")


PLATFORMS = {
    "github": github,
    "gitlab": gitlab,
    "gitlab-sh": gitlab_without_bash,
    "tekton": tekton,
}


def _values(declared: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """All inputs: those that are given, and the defaults of the others."""
    assert given.keys() <= declared.keys()
    required = {name for name, of in declared.items() if "default" not in (of or {})}
    assert required <= given.keys()
    defaults = {name: of["default"] for name, of in declared.items() if "default" in of}
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in (defaults | dict(given)).items()
    }
