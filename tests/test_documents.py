"""The documents lead to what is there: their links, the paths and commands that they name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
import yaml
from modelservice.v1.model_service_pb2 import GetRequest
from modelservice.v1.model_service_pb2_grpc import ModelServiceStub

from server.domain.rollout import state_table
from server.domain.rollout.status import FailureReason
from tests.serving import serving, settings
from tests.transcript import section

ROOT = Path(__file__).parents[1]
_LISTED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
)
pytestmark = pytest.mark.skipif(_LISTED.returncode != 0, reason="this is no git checkout")
FILES = [ROOT / name for name in _LISTED.stdout.splitlines() if (ROOT / name).is_file()]
DOCUMENTS = [str(file.relative_to(ROOT)) for file in FILES if file.suffix == ".md"]
FOLDERS = {file.relative_to(ROOT).parts[0] for file in FILES} - set(DOCUMENTS)


def read(file: Path) -> str:
    """A file's text; empty where it has none."""
    try:
        return file.read_text()
    except UnicodeDecodeError:
        return ""


def prose(document: Path) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)


def code(document: Path) -> list[str]:
    """What stands in a document as code: each span of it, and each line of a block."""
    spans: list[str] = re.findall(r"`([^`\n]+)`", prose(document))
    blocks = re.findall(r"^```.*?\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)
    return [*spans, *(line for block in blocks for line in block.splitlines())]


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    seen, found = Counter[str](), set()
    for heading in re.findall(r"^#+ +(.*?) *#*$", prose(document), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def dead_links(document: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", prose(document)):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        there = (document.parent / path).resolve() if path else document
        if not (there.is_relative_to(ROOT) and there.exists()) or (
            anchor and there.suffix == ".md" and anchor not in anchors(there)
        ):
            yield target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_of_a_document_leads_to_a_file_and_a_heading_that_are_there(
    document: str,
) -> None:
    assert list(dead_links(ROOT / document)) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_a_document_names_is_there(document: str) -> None:
    named = {
        path.rstrip("/.:,")
        for text in code(ROOT / document)
        for path in re.findall(r"(?<![\w./:@$-])\.?\w[\w.-]*/[\w./-]*(?![\w./-]|:\w)", text)
    }
    ours = [path for path in named if path.split("/")[0] in FOLDERS]
    beside = (ROOT / document).parent
    assert [p for p in sorted(ours) if not ((ROOT / p).exists() or (beside / p).exists())] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_and_module_that_a_document_runs_is_there(document: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = code(ROOT / document)
    made = {t for line in lines for t in re.findall(r"\bmake ([a-z][a-z-]*)", line)}
    assert made - targets == set()
    run = {m for line in lines for m in re.findall(r"-m ((?:server|tests|lab|demo)\b[\w.]*)", line)}
    parts = [ROOT.joinpath(*module.split(".")) for module in run]
    assert [p for p in parts if not (p.is_dir() or p.with_suffix(".py").exists())] == []


def test_every_document_that_the_code_cites_is_there() -> None:
    cited = re.compile(r"(?<![\w./-])((?:docs/[\w./-]+|CONTRIBUTING|CHANGELOG)\.md)\b")
    dead = {
        f"{file.relative_to(ROOT)}: {path}"
        for file in FILES
        for path in cited.findall(read(file))
        if not (ROOT / path).exists()
    }
    assert dead == set()


def test_every_symbolic_link_leads_to_a_file_of_the_repository() -> None:
    links = [ROOT / name for name in _LISTED.stdout.splitlines() if (ROOT / name).is_symlink()]
    dead = [link for link in links if not (link.exists() and link.resolve().is_relative_to(ROOT))]
    assert dead == []


def test_no_file_that_is_ignored_is_committed() -> None:
    ignored = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(ignored, cwd=ROOT, capture_output=True, text=True).stdout == ""


def test_no_file_names_a_place_outside_of_the_repository() -> None:
    """Neither this checkout's own place and the home of who works in it, nor one above the root."""
    places = [re.escape(str(place)) for place in {ROOT, Path.home()} if len(place.parts) > 1]
    absolute = re.compile(rf"(?<![\w.~}}-])(?:{'|'.join(places)})(?![\w-])")
    upwards = re.compile(r"(?<![\w./-])(?:\.\./)+[\w.-]*")
    outside = set()
    for file in FILES:
        text, name = read(file), file.relative_to(ROOT)
        outside |= {f"{name}: {place}" for place in absolute.findall(text)}
        # Tests ask for such paths, to see them refused.
        above = upwards.findall(text) if name.parts[0] != "tests" else []
        there = {path: (file.parent / path).resolve() for path in above}
        outside |= {f"{name}: {p}" for p, to in there.items() if not to.is_relative_to(ROOT)}
    assert outside == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_shell_of_a_document_can_be_read_by_bash(document: str) -> None:
    text = (ROOT / document).read_text()
    scripts = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for script in scripts:
        checked = subprocess.run(
            ["bash", "-n"], input=script, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stderr


# Shell that CI cannot run, and why.
NOT_RUN = {
    "until Ctrl-C": "the program stays until it is interrupted; tests start the same one by itself",
    "remote": "it runs buf's remote plugins; tests/languages runs the same ones from this machine",
    "image": "it pushes an image to a registry; tests/node builds the image for real",
    "CI": "a target that CI itself runs, or one of the long runs by hand",
}


class Block(NamedTuple):
    """A fenced block: the line above it, its language, its code."""

    above: str
    language: str
    code: str


def fenced(document: str) -> Iterator[Block]:
    lines = iter(_text(document).splitlines())
    above = ""
    for line in lines:
        if line.startswith("```"):
            code = "\n".join(takewhile(lambda inner: not inner.startswith("```"), lines))
            yield Block(above, line.removeprefix("```"), code)
        above = line


def _text(document: str) -> str:
    return (ROOT / document).read_text()


def missing_test(test_id: str) -> str:
    """Why there is no test of this id; empty where there is one."""
    file, _, name = test_id.partition("::")
    if not (ROOT / file).is_file():
        return f"{test_id}: there is no such file"
    names = name.partition("[")[0].split("::")
    text = (ROOT / file).read_text()
    found = all(re.search(rf"^ *(?:async )?(?:def|class) {n}\b", text, re.M) for n in names)
    return "" if found else f"{test_id}: there is no such test"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_code_that_a_document_shows_names_the_test_that_runs_it_or_why_none_can(
    document: str,
) -> None:
    for block in fenced(document):
        if block.language not in ("bash", "sh", "console", "python"):
            assert not re.search(r"^\$ ", block.code, re.M), f"name its language:\n{block.code}"
            continue
        by = re.fullmatch(r"<!-- (?:run by (\S+)|not run: (.+)) -->", block.above)
        assert by, f"{document}: nothing above this names a test that runs it:\n{block.code}"
        test_id, reason = by.groups()
        if reason:
            assert reason in NOT_RUN, f"{document}: {reason!r} is no reason"
            continue
        assert missing_test(test_id) == ""
        # It reads the document, so that what it runs is what is shown.
        assert f'"{document}"' in _text(test_id.partition("::")[0]), (document, test_id)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_symbol_that_a_document_places_in_a_file_is_there(document: str) -> None:
    """As in: `SCALING_FIELDS` in [names.py](...)."""
    text = (ROOT / document).read_text()
    placed = re.findall(r"`(\w+)` +(?:in|of)\s+\[[^]]*\]\(([^)#]+\.(?:py|proto))\)", text)
    files = {file: read((ROOT / document).parent / file) for _, file in placed}
    absent = [f"{n}: {file}" for n, file in placed if not re.search(rf"\b{n}\b", files[file])]
    assert absent == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_test_that_a_document_names_is_there(document: str) -> None:
    named = re.findall(r"tests/[\w/]+\.py::\w+", (ROOT / document).read_text())
    assert [missing for test_id in named if (missing := missing_test(test_id))] == []


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_line_that_docs_kubeconfig_shows_is_what_the_server_says(tmp_path: Path) -> None:
    [shown] = blocks("docs/kubeconfig.md", "console")
    user = {"name": "ada", "user": {"auth-provider": {"name": "gcp"}}}
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
                "users": [user],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "ada"}}],
            }
        )
    )
    ended = subprocess.run(
        [sys.executable, "-m", "server"],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "KSERVE_ENABLED": "true",
            "KUBERNETES_KUBECONFIG": str(kubeconfig),
            "MODELSERVICE_LISTEN": "127.0.0.1:0",
            "PYTHONPATH": str(ROOT / "generated"),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr == shown.replace("/home/ada/.kube/config", str(kubeconfig))


def test_the_code_that_the_stubs_document_shows_deploys_and_reads_a_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    deploying, reading = blocks("generated/README.md", "python")
    with serving(settings()) as served:
        served.wait_until_synced()
        exec(deploying.replace("127.0.0.1:50051", served.address), {})
        assert capsys.readouterr().out.splitlines()
        names: dict[str, object] = {}
        exec(reading, names)
        with (
            grpc.insecure_channel(served.address) as channel,
            pytest.raises(grpc.RpcError) as raised,
        ):
            ModelServiceStub(channel).Get(GetRequest(name="absent"))
    why = names["why"]
    assert callable(why)
    assert why(raised.value) == ("SERVICE_NOT_FOUND", None)


def test_every_event_that_the_operations_document_lists_is_logged() -> None:
    table = section("docs/operations.md", "Logs").partition("| event |")[2]
    events = re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.M)))
    assert len(events) >= 7
    code = "".join(read(file) for file in FILES if file.is_relative_to(ROOT / "server"))
    assert [event for event in events if f'"{event}"' not in code] == []


def test_the_status_document_has_every_row_of_the_state_table_and_every_failure_reason() -> None:
    rows = {int((row.__doc__ or "").partition(".")[0]) for row in state_table.ROWS}
    rows.add(3)  # a write that is refused never becomes a state
    text = _text("docs/status.md")
    assert [int(n) for n in re.findall(r"^### (\d+)\. ", text, re.M)] == sorted(rows)
    assert [reason for reason in FailureReason if f"`{reason.value}`" not in text] == []


def test_no_comment_of_the_protos_has_more_than_100_columns() -> None:
    assert [
        f"{file.relative_to(ROOT)}:{number}"
        for file in FILES
        if file.suffix == ".proto"
        for number, line in enumerate(read(file).splitlines(), 1)
        if "//" in line and len(line) > 100
    ] == []
