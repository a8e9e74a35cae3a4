"""`python -m tests.transcripts BEFORE[,BEFORE...] AFTER`: what callers see otherwise than before.

Each is a folder of tests/transcripts/recording.py. What differs from run to run (ids, times,
ports, paths) is levelled. Of a test every pair of request and response, and of request and status,
is compared, however often it came and in whichever order: polls and watches depend on timing. Of
several folders BEFORE one pair is missed where all have it, and new where none has. A test that
was renamed is compared with all those that have no counterpart. Of random examples, which are
others when a test is edited, each code and reason must be one that its method had before.

Where only texts for people differ, they are listed; any other difference is a failure: exit code 1.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_OBJECTS = {"service", "services", "deployment", "deployments"}
_TEXTS = {"message", "error_message", "remedy"}
_IDS = re.compile(r"(.*_)?(uid|id|etag|token|time|age|after|before)$|pushback$")
_LEVELLED = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.\d]*(Z|\+00:00)?", "TIME"),
        (r"/tmp/[\w./-]+", "PATH"),
        (r"\btest-[0-9a-f]{10}\b", "NAMESPACE"),
        (r"\b(svc|team|project|place|env)-\d+", "COUNTED"),
        (r"(?<=:)\d{4,5}\b", "PORT"),
        (r"\b[0-9a-f]{8,64}\b", "HEX"),
        (r"\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b", "ULID"),
        (r"-[a-z0-9]{8,10}-[a-z0-9]{5}\b", "-POD"),
    )
]
_LONGEST_SHOWN = 400


@dataclass
class Test:
    """What one test saw: for each pair, without its texts, the texts that it had."""

    drawn: bool = False
    calls: int = 0
    pairs: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    ends: set[str] = field(default_factory=set)

    def add(self, call: Mapping[str, Any]) -> None:
        """Take a call's pairs."""
        self.calls += 1
        request = json.dumps(level(call["requests"]), sort_keys=True)
        left = call["status"]["code"] in ("OPEN", "CANCELLED")  # before or after the test's end
        status = {"code": "LEFT"} if left else call["status"]
        self.ends.add(f"{call['method']}: {_reasons(status)}")
        for outcome in (status, *call["responses"]):
            objects: list[Any] = []
            self._add(f"{call['method']} {request}", _without_objects(outcome, objects))
            for item in objects:
                self._add("an object of the responses", item)

    def _add(self, what: str, outcome: Any) -> None:
        texts: list[str] = []
        shape = json.dumps(level(outcome, texts), sort_keys=True)
        self.pairs[f"{what}\n  -> {shape}"].add(" | ".join(texts))

    def join(self, other: Test) -> None:
        """Take another's pairs."""
        self.calls += other.calls
        self.ends |= other.ends
        for pair, texts in other.pairs.items():
            self.pairs[pair] |= texts


@dataclass
class Difference:
    """Of one test."""

    test: str
    missed: set[str]
    new: set[str]
    texts: dict[str, tuple[set[str], set[str]]]


def level(value: Any, texts: list[str] | None = None) -> Any:
    """The value without what differs from run to run; texts for people go to `texts`."""
    if isinstance(value, list):
        return [level(inner, texts) for inner in value]
    if isinstance(value, dict):
        return {key: _level_field(key, value[key], value, texts) for key in sorted(value)}
    return _level_text(value) if isinstance(value, str) else value


def _without_objects(outcome: Any, objects: list[Any]) -> Any:
    """The outcome without its services and deployments, which go to `objects`: how these are when
    they are read is a matter of time."""
    if isinstance(outcome, list):  # of a cluster's port
        return [_without_objects(value, objects) for value in outcome]
    if not isinstance(outcome, dict) or "generation" in outcome:
        objects += [outcome] if isinstance(outcome, dict) else []
        return "1 object" if isinstance(outcome, dict) else outcome
    rest = dict(outcome)
    for key in _OBJECTS & outcome.keys():
        found = outcome[key] if isinstance(outcome[key], list) else [outcome[key]]
        objects += found
        rest[key] = f"{len(found)} objects"
    return rest


def _level_field(key: str, value: Any, parent: Mapping[str, Any], texts: list[str] | None) -> Any:
    told = key in _TEXTS or (key == "description" and "field" in parent)
    if told and isinstance(value, str) and texts is not None:
        texts.append(re.sub(r"\d+(\.\d+)?", "N", _level_text(value)))
        return "TEXT"
    if _IDS.match(key) and isinstance(value, str) and value:
        return f"<{key}>"
    return level(value, texts)


def _level_text(text: str) -> str:
    for pattern, replacement in _LEVELLED:
        text = pattern.sub(replacement, text)
    return text


def _reasons(status: Mapping[str, Any]) -> str:
    details = status.get("details", [])
    return json.dumps([status["code"], *(d.get("reason") or d["@type"] for d in details)])


def read(folder: Path) -> dict[str, Test]:
    """The tests of a folder."""
    tests: dict[str, Test] = {}
    for file in sorted(folder.glob("*.jsonl")):
        head, *calls = map(json.loads, file.read_text().splitlines())
        if head.get("failed"):
            print(f"left out, for it failed in {folder.name}: {head['test']}")
            continue
        test = tests[head["test"]] = Test(drawn=head["drawn"])
        for call in calls:
            test.add(call)
    if not tests:
        sys.exit(f"{folder}: no transcripts are there")
    return tests


def differences(
    before: Sequence[Mapping[str, Test]], after: Mapping[str, Test]
) -> Iterator[Difference]:
    """Every test that saw something else."""
    known = set().union(*before)
    ends = set().union(*(test.ends for run in before for test in run.values()))
    for test in sorted(known & after.keys()):
        if after[test].drawn:
            if new := after[test].ends - ends:
                yield Difference(test, set(), new, {})
        else:
            yield from _compared(test, [run[test] for run in before if test in run], after[test])
    if alone := after.keys() - known:
        gone = [_together(run, run.keys() - after.keys()) for run in before]
        yield from _compared("renamed tests", gone, _together(after, alone))


def _together(tests: Mapping[str, Test], names: Iterable[str]) -> Test:
    joined = Test()
    for name in names:
        if not tests[name].drawn:
            joined.join(tests[name])
    return joined


def _compared(test: str, before: Sequence[Test], after: Test) -> Iterator[Difference]:
    pairs = [run.pairs.keys() for run in before]
    missed = set(pairs[0]).intersection(*pairs) - after.pairs.keys()
    new = after.pairs.keys() - set().union(*pairs)
    texts = {}
    for pair in after.pairs.keys() - new:
        had = set().union(*(run.pairs[pair] for run in before if pair in run.pairs))
        if after.pairs[pair] - had:
            texts[pair] = (had, after.pairs[pair])
    if missed or new or texts:
        yield Difference(test, missed, new, texts)


def main(before_folders: str, after_folder: str) -> int:
    """Print every difference and a summary; 1 where anything but texts differs."""
    before = [read(Path(folder)) for folder in before_folders.split(",")]
    after = read(Path(after_folder))
    found = list(differences(before, after))
    for difference in found:
        for mark, pairs in (("missed", difference.missed), ("new", difference.new)):
            for pair in sorted(pairs):
                print(f"OTHERWISE {difference.test}\n  {mark}: {pair}")
    changed: dict[str, str] = {}
    for difference in found:
        for had, has in difference.texts.values():
            changed.setdefault(f"- {_shown(had)}\n+ {_shown(has - had)}", difference.test)
    for change, test in changed.items():
        print(f"text, first in {test}\n{change}")
    drawn = [name for name, test in after.items() if test.drawn]
    otherwise = [d for d in found if d.missed or d.new]
    print(
        f"tests: {len(after)}, of random examples, compared by codes and reasons: {len(drawn)};"
        f" only before: {len(set().union(*before) - after.keys())},"
        f" only after: {len(after.keys() - set().union(*before))}\n"
        f"calls: {sum(test.calls for test in after.values())};"
        f" different pairs of request and outcome: {sum(len(t.pairs) for t in after.values())}\n"
        f"pairs whose texts differ: {sum(len(d.texts) for d in found)}\n"
        f"pairs that differ otherwise: {sum(len(d.missed | d.new) for d in otherwise)}"
        f" in {len(otherwise)} tests"
    )
    return 1 if otherwise else 0


def _shown(texts: set[str]) -> str:
    return " / ".join(sorted(text[:_LONGEST_SHOWN] for text in texts))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
