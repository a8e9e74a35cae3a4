"""Whatever a caller without rights asks, it learns nothing of what is there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import hypothesis
import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st
from modelservice.v1 import model_service_pb2 as pb
from modelservice.v1 import registry_service_pb2 as registry_pb

from server.domain.errors import ErrorReason
from tests.patience import PATIENCE_SECONDS
from tests.refusals import refusal_of
from tests.serving import Served, serving, settings

from .generated_requests import METHODS, REQUESTS, Request
from .registry_project import Project
from .requests import container, watching
from .token_files import Client, entry, identity, token_of

# Of each kind of request: over 1,000 in all, and over 10,000 by `make soak`.
EXAMPLES = 4 * hypothesis.settings.default.max_examples // 10
# Of requests that are wrong anywhere and for everybody.
REASONS = {ErrorReason.PERMISSION_DENIED.value, ErrorReason.FIELD_INVALID.value}


class Answer(NamedTuple):
    """All that a caller gets of a call that failed."""

    code: grpc.StatusCode
    message: str
    metadata: tuple[Any, ...]


@dataclass
class World:
    """A server that `nobody` has no rights on, and the tokens that it has given to others.

    `touched` has the tasks that used the cluster or the registry.
    """

    served: Served
    channel: grpc.Channel
    tokens: dict[str, list[str]] = field(default_factory=dict)
    touched: list[str] = field(default_factory=list)

    def fill(self) -> None:
        """Make what the generated requests name, and note its tokens."""
        root = Client.of(self.channel, "root")
        project = Project(root.registry, "p")
        etags, pages, ids = [], [], []
        for name in ("a", "b"):
            etags += [project.model(name).etag, project.environment(name, namespace="team-a").etag]
            etags += [project.version(number, name).etag for number in ("1", "2")]
        for namespace in ("", "team-a"):
            for name in ("a", "b"):
                request = pb.DeployRequest(
                    namespace=namespace, name=name, spec=container(), request_id=f"of-{name}"
                )
                deployed = root.models.Deploy(request)
                etags.append(deployed.service.etag)
                ids.append(deployed.rollout_id)
        for namespace in ("-", "", "team-a"):
            page = root.models.List(pb.ListRequest(namespace=namespace, page_size=1))
            pages.append(page.next_page_token)
        listed = registry_pb.ListRegisteredModelsRequest(project="p", page_size=1)
        pages.append(root.registry.ListRegisteredModels(listed).next_page_token)
        resumes = []
        for target in ({"namespace": "-"}, {"namespace": "team-a"}, {"name": "a"}):
            with watching(root.models, **target) as stream:
                resumes.append(stream.next().resume_token)
        self.tokens = {
            "etag": etags,
            "page_token": pages,
            "resume_token": resumes,
            "rollout_id": ids,
            "request_id": ["of-a", "of-b"],
        }

    def note_uses(self) -> None:
        """Note each use of the cluster and of the registry from here on."""
        for target, methods in (
            (self.served.memory, ("apply", "delete", "read")),
            (self.served.registry, ("read", "write")),
        ):
            for method in methods:
                setattr(target, method, self._noting(getattr(target, method)))

    def _noting(self, method: Any) -> Any:
        async def noted(*arguments: Any, **named: Any) -> Any:
            task = asyncio.current_task()
            assert task
            self.touched.append(task.get_name())
            return await method(*arguments, **named)

        return noted

    def answer(self, request: Request) -> Answer | str:
        path = f"/{METHODS[request.method].containing_service.full_name}/{request.method}"
        options = {
            "timeout": PATIENCE_SECONDS,
            "metadata": [("authorization", f"Bearer {token_of('nobody')}")],
        }
        try:
            if request.method == "WatchStatus":
                stream = self.channel.unary_stream(path)(request.content, **options)
                first = next(stream, None)
                stream.cancel()
                return f"the stream began with {first!r}"
            return f"OK {self.channel.unary_unary(path)(request.content, **options)!r}"
        except grpc.RpcError as error:
            refusal = refusal_of(error, request.content)
            assert refusal.reason in REASONS, refusal
            return Answer(error.code(), error.details(), tuple(error.trailing_metadata()))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, World]]:
    """A server that has what requests name, and one that has nothing."""
    folder = tmp_path_factory.mktemp("rights")
    with started(folder, "full") as full, started(folder, "empty") as empty:
        full.fill()
        for world in (full, empty):
            world.note_uses()
        yield full, empty


@contextmanager
def started(folder: Path, name: str) -> Iterator[World]:
    """A world for the length of a block."""
    file = folder / f"{name}.toml"
    everything = {"namespaces": {"*": "admin"}, "projects": {"*": "admin"}}
    file.write_text(entry("root", **everything) + entry("nobody"))
    made = settings(registry=f"sqlite:///{folder}/{name}.db", identity=identity(file))
    with serving(made) as served, grpc.insecure_channel(served.address) as channel:
        served.wait_until_synced()
        yield World(served, channel)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", REQUESTS)
@hypothesis.settings(
    max_examples=EXAMPLES,
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
)
@given(data=st.data())
def test_no_request_without_rights_succeeds_or_shows_what_is_there(
    worlds: tuple[World, World], kind: str, data: st.DataObject
) -> None:
    full, empty = worlds
    request = data.draw(REQUESTS[kind])
    request = request._replace(content=with_tokens(data, request, full.tokens))
    answers = full.answer(request), empty.answer(request)
    assert isinstance(answers[0], Answer), answers
    assert answers[0] == answers[1]
    # No lookup takes a time: the deployment recorder alone uses the registry, by itself.
    assert set(full.touched) <= {"deployment recorder"}


def with_tokens(data: st.DataObject, request: Request, tokens: dict[str, list[str]]) -> bytes:
    """The request, perhaps with tokens that the server has given to others."""
    kind: type[Message] = METHODS[request.method].input_type._concrete_class
    message = kind()
    with suppress(DecodeError):
        message.MergeFromString(request.content)
        for name in sorted(tokens.keys() & message.DESCRIPTOR.fields_by_name.keys()):
            if data.draw(st.booleans()):
                setattr(message, name, data.draw(st.sampled_from(tokens[name])))
        return message.SerializeToString()
    return request.content
