"""What reading managedFields takes: of time and of memory."""

from __future__ import annotations

import gc
import json
import sys
import tracemalloc
from types import FrameType

from server.adapters.kserve.manifests.field_ownership import items_by_key, project


def test_long_keys_of_items_are_not_kept() -> None:
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for n in range(100):
        name = f"{n}{'x' * 100_000}"
        read = items_by_key({f"k:{json.dumps({'name': name})}": {}})
        assert list(read) == [(("name", name),)]
        del read, name
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 1_000_000


def test_ten_times_the_variables_take_ten_times_the_calls() -> None:
    calls_to_project(1000)  # the keys of items are parsed once
    assert calls_to_project(1000) < 12 * calls_to_project(100)


def calls_to_project(variables: int) -> int:
    env = [{"name": f"SETTING_{n}", "value": str(n)} for n in range(variables)]
    fields = {f"k:{json.dumps({'name': item['name']})}": {"f:name": {}} for item in env}
    calls = 0

    def count(_frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        assert len(project(env, fields)) == variables
    finally:
        sys.setprofile(before)
    return calls
