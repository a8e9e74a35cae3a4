"""The files of a model server are written in a thread, whatever becomes of who waits for it."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path
from typing import Any

import pytest

from server.adapters.local.rollouts import model_server_run
from server.adapters.local.runtimes.runtimes import Launch

LAUNCH = Launch(command=(), files={}, links={}, env={}, ready_path="", loaded="")


async def test_an_error_after_its_caller_has_given_up_is_no_noise_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def fail(launch: Launch, folder: Path) -> None:
        begun.set()
        go_on.wait(60)
        raise OSError("no space left")

    monkeypatch.setattr(model_server_run, "_write", fail)
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    writing = asyncio.create_task(model_server_run._written(LAUNCH, tmp_path))
    await asyncio.to_thread(begun.wait, 60)
    writing.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    del writing
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []
