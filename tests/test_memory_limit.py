"""The memory limit of this process is its cgroup's, or of one around it, in either version."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from server.memory_limit import memory_limit

MIB = 2**20


@pytest.mark.parametrize(
    ("cgroup", "files", "limit"),
    [
        ("0::/", {"memory.max": "1073741824\n"}, 1024),
        ("0::/a/b", {"a/memory.max": "67108864\n", "a/b/memory.max": "max\n"}, 64),
        ("0::/a/b", {"a/memory.max": "134217728\n", "a/b/memory.max": "67108864\n"}, 64),
        ("0::/not/to/be/seen", {"memory.max": "67108864\n"}, 64),
        (
            "5:cpu:/a\n4:memory:/a",
            {"memory/a/memory.limit_in_bytes": "67108864\n", "memory.max": "1\n"},
            64,
        ),
        ("4:memory:/docker/x\n0::/", {"memory/memory.limit_in_bytes": "67108864\n"}, 64),
        ("4:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ("0::/", {"memory.max": "max\n"}, None),
        ("0::/", {}, None),
        (None, {}, None),
    ],
)
def test_the_lowest_limit_holds_else_the_machines_memory(
    tmp_path: Path, cgroup: str | None, files: dict[str, str], limit: int | None
) -> None:
    if cgroup is not None:
        _write(tmp_path / "proc/self/cgroup", f"{cgroup}\n")
    for name, text in files.items():
        _write(tmp_path / "sys/fs/cgroup" / name, text)
    expected = psutil.virtual_memory().total if limit is None else limit * MIB
    assert memory_limit(tmp_path) == expected


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
