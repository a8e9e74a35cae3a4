"""`python -m tests.transcripts BEFORE[,BEFORE...] AFTER`: what callers see otherwise than before.

Each is a folder of tests/transcripts/recording.py. What differs from run to run (ids, times,
ports, paths) is levelled. Of a test every pair of request and response, and of request and status,
is compared, however often it came and in whichever order, and services and deployments in them
field by field: polls and watches depend on timing. A pair must be one that the test had in a folder
BEFORE; those that only another test had are counted, and no test may lose a field of its objects.
A test that was renamed is compared with all those that have no counterpart. Random examples are
others when a test is edited, in a server that others before have changed: those that were drawn
before too must be as valid.

Where only texts for people differ, they are listed; any other difference is a failure: exit code 1.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

_OBJECTS = {"service", "services", "deployment", "deployments"}
_TEXTS = {"message", "error_message", "remedy"}
_PASSING_VALUES = (
    "uid|id|etag|token|time|age|after|before|pod|restart_count|latest_revision"
    "|latest_ready_generation|(desired|ready|updated)_replicas"
)
_IDS = re.compile(rf"(.*_)?({_PASSING_VALUES})$|pushback$")
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
_MODULE = re.compile(r"/\w+\.py::")
_DEADLINE = re.compile(r', \["\d+\.\w+"\]')  # of a call of a cluster's port
_RENAMED = "renamed tests"
_OBJECT = "an object of the responses"
_PASSING = {"delete_time", "ready_time", "end_time"}
_EVENTS = ("/WatchStatus", "/feed")  # of which any may be passed over
_LONGEST_SHOWN = 400
_MANY = 5


@dataclass
class Test:
    """What one test saw: for each pair, without its texts, the texts that it had."""

    drawn: bool = False
    calls: int = 0
    pairs: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    verdicts: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)

    def add(self, call: Mapping[str, Any]) -> None:
        """Take a call's pairs."""
        self.calls += 1
        request = _DEADLINE.sub("", json.dumps(level(call["requests"]), sort_keys=True))
        left = call["status"]["code"] in ("OPEN", "CANCELLED")  # before or after the test's end
        status = {"code": "LEFT"} if left else call["status"]
        self.verdicts.add(f"{call['method']} {request}\n  -> {_verdict(status)}")
        for outcome in (status, *call["responses"]):
            objects: list[Any] = []
            self._add(f"{call['method']} {request}", _without_objects(outcome, objects))
            for part in _parts(objects):
                self._add(_OBJECT, part)
            if not call["method"].endswith(_EVENTS):
                self.fields.update(*objects)

    def _add(self, what: str, outcome: Any) -> None:
        texts: list[str] = []
        shape = json.dumps(level(outcome, texts), sort_keys=True)
        self.pairs[f"{what}\n  -> {shape}"].update(texts)

    @cached_property
    def requests(self) -> set[str]:
        """All requests of all pairs."""
        return set(map(_request, self.pairs))

    @cached_property
    def texts(self) -> set[str]:
        """All texts of all pairs."""
        return set().union(*self.pairs.values())

    def join(self, other: Test) -> None:
        """Take another's pairs."""
        self.calls += other.calls
        self.verdicts |= other.verdicts
        self.fields |= other.fields
        for pair, texts in other.pairs.items():
            self.pairs[pair] |= texts


@dataclass
class Difference:
    """Of one test: pairs that are new, and which of the same request it had instead; fields that
    its objects had; pairs that only other tests had, and of requests that none made; and what is
    said otherwise, as before, after.
    """

    test: str
    new: set[str] = field(default_factory=set)
    missed: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)
    unasked: set[str] = field(default_factory=set)
    texts: dict[str, tuple[set[str], set[str]]] = field(default_factory=dict)


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


def _parts(objects: Iterable[Mapping[str, Any]]) -> Iterator[Any]:
    """Each object's fields one by one, since they come one by one; its state with its failure; of
    KServe's conditions the types."""
    for item in objects:
        status = item.get("status", {})
        if status:
            yield {key: status.get(key) for key in ("state", "failure", "message")}
        yield from ({"condition": condition["type"]} for condition in status.get("conditions", []))
        for key, value in [*item.items(), *status.items()]:
            if key not in ("status", "state", "failure", "message", "conditions"):
                yield from ({key: v} for v in (value if isinstance(value, list) else [value]))


def _level_field(key: str, value: Any, parent: Mapping[str, Any], texts: list[str] | None) -> Any:
    told = key in _TEXTS or (key == "description" and "field" in parent)
    if told and isinstance(value, str) and texts is not None:
        texts.append(re.sub(r"\d+(\.\d+)?", "N", _level_text(value)))
        return "TEXT"
    if key == "field_violations" and len(value) > _MANY:  # as many as fit, in a map's random order
        return "many"
    if _IDS.match(key) and isinstance(value, str | int) and value:
        return f"<{key}>"
    return level(value, texts)


def _level_text(text: str) -> str:
    for pattern, replacement in _LEVELLED:
        text = pattern.sub(replacement, text)
    return text


def _verdict(status: Mapping[str, Any]) -> str:
    invalid = any(detail.get("reason") == "FIELD_INVALID" for detail in status.get("details", []))
    return "FIELD_INVALID" if invalid else "valid"


def read(folder: Path) -> dict[str, Test]:
    """The tests of a folder; by the folders that they are in, since modules are renamed."""
    tests: dict[str, Test] = {}
    for file in sorted(folder.glob("*.jsonl")):
        head, *calls = map(json.loads, file.read_text().splitlines())
        if head.get("failed"):
            print(f"left out, for it failed in {folder.name}: {head['test']}")
            continue
        name = _MODULE.sub("::", head["test"])
        test = tests.setdefault(name, Test(drawn=head["drawn"]))
        for call in calls:
            test.add(call)
    if not tests:
        sys.exit(f"{folder}: no transcripts are there")
    return tests


def together(tests: Iterable[Test]) -> Test:
    """What any of the tests saw, but for random examples."""
    joined = Test()
    for test in tests:
        if not test.drawn:
            joined.join(test)
    return joined


def differences(
    before: Sequence[Mapping[str, Test]], after: Mapping[str, Test]
) -> Iterator[Difference]:
    """What each test saw otherwise."""
    known = set().union(*before)
    everything = together(test for run in before for test in run.values())
    # A cluster's feed still has what random examples left behind.
    for test in after.values():
        if test.drawn:
            everything.pairs |= test.pairs
    for name in sorted(known & after.keys()):
        if after[name].drawn:
            verdicts = set().union(*(run[name].verdicts for run in before if name in run))
            again = set(map(_request, verdicts))
            new = after[name].verdicts - verdicts
            yield Difference(name, {verdict for verdict in new if _request(verdict) in again})
        else:
            runs = [run[name] for run in before if name in run]
            yield _compared(name, runs, after[name], everything)
    runs = [together(run[name] for name in run.keys() - after.keys()) for run in before]
    renamed = together(after[name] for name in after.keys() - known)
    yield _compared(_RENAMED, runs, renamed, everything)


def _compared(name: str, runs: Sequence[Test], after: Test, everything: Test) -> Difference:
    before = together(runs)
    found = Difference(name)
    for pair in after.pairs.keys() - before.pairs.keys():
        if pair in everything.pairs:
            found.moved.add(pair)
        else:
            (found.new if _request(pair) in everything.requests else found.unasked).add(pair)
    for pair, texts in after.pairs.items():
        if pair in everything.pairs and (said := texts - everything.texts):
            found.texts[pair] = (before.pairs[pair] - texts, said)
    if after.pairs and name != _RENAMED:
        found.lost = set.intersection(*(run.fields for run in runs)) - after.fields - _PASSING
    asked = set(map(_request, found.new)) - {_OBJECT}
    found.missed = {p for p in before.pairs.keys() - after.pairs.keys() if _request(p) in asked}
    return found


def _request(pair: str) -> str:
    return pair.partition("\n")[0]


def main(before_folders: str, after_folder: str) -> int:
    """Print every difference and a summary; 1 where anything but texts differs."""
    before = [read(Path(folder)) for folder in before_folders.split(",")]
    after = read(Path(after_folder))
    found = list(differences(before, after))
    for difference in found:
        for pair in sorted(difference.new):
            print(f"OTHERWISE {difference.test}\n  {pair}")
        for pair in sorted(difference.missed):
            print(f"(before, {difference.test}\n  {pair})")
        for lost in sorted(difference.lost):
            print(f"OTHERWISE {difference.test}\n  no object has the field {lost} any more")
    changed: dict[str, str] = {}
    for difference in found:
        for had, said in difference.texts.values():
            changed.setdefault(f"- {_shown(had)}\n+ {_shown(said)}", difference.test)
    for change, name in changed.items():
        print(f"text, first in {name}\n{change}")
    names = set().union(*before)
    otherwise = sum(len(d.new) + len(d.lost) for d in found)
    print(
        f"tests: {len(after)}, of them of random examples: {sum(t.drawn for t in after.values())};"
        f" only before: {len(names - after.keys())}, only after: {len(after.keys() - names)}\n"
        f"calls: {sum(test.calls for test in after.values())};"
        f" different pairs: {sum(len(test.pairs) for test in after.values())}\n"
        f"pairs whose texts differ: {sum(len(d.texts) for d in found)}\n"
        f"pairs that only other tests had before: {sum(len(d.moved) for d in found)},"
        f" of requests that no test made before: {sum(len(d.unasked) for d in found)}\n"
        f"pairs that differ otherwise: {otherwise}"
    )
    return 1 if otherwise else 0


def _shown(texts: set[str]) -> str:
    return " / ".join(sorted(text[:_LONGEST_SHOWN] for text in texts))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
