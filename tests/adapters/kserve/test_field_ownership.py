"""Long keys in managedFields are parsed, and not cached."""

from __future__ import annotations

import gc
import json
import tracemalloc

from server.adapters.kserve.manifests.field_ownership import items_by_key


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
