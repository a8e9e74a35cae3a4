"""pytest-grpc's channel and stub over the real application, and hypothesis' profiles."""

from __future__ import annotations

import gc
import itertools
import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import grpc
import hypothesis
import pytest
import structlog
from grpc_health.v1 import health_pb2_grpc
from modelservice.v1 import model_service_pb2_grpc

from tests.loop_steps import LONGEST_SECONDS, LoopSteps, Step
from tests.serving import InLoop, Served, serving, settings

hypothesis.settings.register_profile("local", deadline=None)
# The same examples in every run; `make soak` draws others, ten times as many.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("soak", deadline=None, max_examples=1000, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")

pytest_plugins = ["tests.registry_store"]
if os.environ.get("TRANSCRIPTS"):
    pytest_plugins.append("tests.transcripts.recording")

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def grpc_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Instead of pytest-grpc's own, which serves synchronous servicers only; with a registry."""
    folder = tmp_path_factory.mktemp("registry")
    with serving(settings(registry=f"sqlite:///{folder}/registry.db")) as served:
        served.wait_until_synced()
        yield served


@pytest.fixture(scope="module")
def grpc_addr(grpc_server: Served) -> str:
    return grpc_server.address


@pytest.fixture(scope="module")
def grpc_stub_cls() -> Any:
    return model_service_pb2_grpc.ModelServiceStub


@pytest.fixture
def stub(grpc_stub: Any) -> model_service_pb2_grpc.ModelServiceStub:
    """ModelService, as its callers have it."""
    stub: model_service_pb2_grpc.ModelServiceStub = grpc_stub
    return stub


@pytest.fixture
def health(grpc_channel: grpc.Channel) -> Any:
    """grpc.health.v1 of the same server."""
    return health_pb2_grpc.HealthStub(grpc_channel)


@pytest.fixture
def memory(grpc_server: Served) -> Iterator[InLoop]:
    """The MemoryCluster behind the stub, called in its own loop; after the test as before."""
    cluster = InLoop(grpc_server, grpc_server.memory)
    yield cluster
    grpc_server.memory.ready_after = timedelta(0)
    cluster.back()
    cluster.release_feed()


@pytest.fixture
def name() -> str:
    """The name of a service that no other test has."""
    return f"svc-{next(_numbers)}"


_steps = LoopSteps()
_longest_of_all = Step(0.0, "none")


@pytest.fixture(scope="session", autouse=True)
def loop_steps() -> Iterator[LoopSteps]:
    with _steps.installed():
        yield _steps


@pytest.fixture(autouse=True)
def no_step_keeps_the_loop(loop_steps: LoopSteps) -> Iterator[None]:
    """A step of the server's loop that takes longer than 100 ms of CPU time fails its test."""
    global _longest_of_all
    loop_steps.reset()
    yield
    longest = loop_steps.longest
    if longest.seconds > _longest_of_all.seconds:
        _longest_of_all = longest
    assert longest.seconds <= LONGEST_SECONDS, f"a step of the event loop took {longest}"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect the tests without looking for garbage: nearly all that is made stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["longest_step"] = (
            _longest_of_all.seconds,
            _longest_of_all.callback,
            _longest_of_all.stack,
        )


class _WorkersSteps:
    """Takes over what the workers of pytest-xdist measured."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        global _longest_of_all
        theirs = Step(*getattr(node, "workeroutput", {}).get("longest_step", (0.0, "none", "")))
        if theirs.seconds > _longest_of_all.seconds:
            _longest_of_all = theirs


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_WorkersSteps())
    # structlog's own default draws tracebacks with rich, which takes 100 ms of the loop.
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])
    # A shell that inherits SIGINT as ignored cannot trap it: what tests start finds it as a
    # terminal leaves it, whatever these tests were started under.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"longest step of the event loop: {_longest_of_all}")
