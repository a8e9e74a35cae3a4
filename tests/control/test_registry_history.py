"""In whatever order things are registered, changed, deployed and deleted, the registry holds what a
simple model of it says, refuses what that refuses, and lists it newest first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from server.adapters.sql.factory import opened_registry
from server.control.call import Call
from server.domain.errors import AlreadyExists, EtagMismatch, FieldInvalid, ServiceError
from server.domain.registry.deployment import ModelDeployment
from server.domain.registry.registered import Registered, VersionState
from server.domain.registry.registry_errors import (
    EnvironmentNotFound,
    InUse,
    ModelNotFound,
    VersionArchived,
    VersionNotFound,
    VersionNotReady,
)
from server.ports import Registry
from tests.control.registry_control import Registering

# Each example is forty writes and what is read after each of them; to make a failing one shorter
# takes minutes, and it can be read as it is.
FEW = settings(
    max_examples=settings.default.max_examples // 20,
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],
)

READY = VersionState.READY
NOT_READY = {VersionState.PENDING: VersionNotReady, VersionState.ARCHIVED: VersionArchived}

# Few names, so that much happens to each; the other model and environment are seldom touched.
models = st.sampled_from(["fraud", "fraud", "fraud", "churn"])
versions = st.sampled_from(["1", "2"])
environments = st.sampled_from(["staging", "staging", "live"])
states = st.sampled_from(list(VersionState))
descriptions = st.sampled_from(["", "old", "new"])
# Of the etags that a caller may hold: none, the present one, one of before.
etags = st.sampled_from(["", "", "present", "present", "stale"])


@dataclass
class Model:
    """A model as it should be: its default, and its versions' states, oldest first."""

    default: str = ""
    description: str = ""
    versions: dict[str, VersionState] = field(default_factory=dict)


class History(RuleBasedStateMachine):
    """One caller after the other; `run` does what it is given in the registry's loop."""

    run: Callable[[Awaitable[Any]], Any]
    registry: Registry

    def __init__(self) -> None:
        super().__init__()
        self.control = Registering(self.registry)
        self.models: dict[str, Model] = {}
        self.environments: dict[str, str] = {}
        self.open: list[ModelDeployment] = []
        self.known: dict[object, Registered] = {}

    def outcome(self, call: Awaitable[Any]) -> Any:
        """What the call answers, or the kind of its refusal."""
        try:
            return self.run(call)
        except ServiceError as e:
            return type(e)

    def expect(self, call: Awaitable[Any], refusal: type[ServiceError] | None) -> bool:
        """Whether the call went through, which it does unless it is refused as it should be."""
        answer = self.outcome(call)
        if refusal:
            assert answer is refusal
            return False
        assert not isinstance(answer, type), answer
        return True

    def etag(self, key: object, which: str) -> str:
        now = self.known.get(key)
        return now.etag if which == "present" and now else which

    @initialize()
    def begin_with_something(self) -> None:
        """Little happens to what is not there."""
        for name in ("fraud", "churn"):
            self.register(name, "")
            self.add_version(name, "1", READY)
            self.add_version(name, "2", VersionState.PENDING)
            self.set_default(name, "1", "")
        self.make_environment("staging", "")

    @rule(name=models, description=descriptions)
    def register(self, name: str, description: str) -> None:
        made = self.control.new_model(name, description=description)
        if self.expect(made, AlreadyExists if name in self.models else None):
            self.models[name] = Model(description=description)

    @rule(name=models, version=versions, state=st.none() | states)
    def add_version(self, name: str, version: str, state: VersionState | None) -> None:
        known = self.models.get(name)
        refusal = None if known else ModelNotFound
        if known and version in known.versions:
            refusal = AlreadyExists
        if self.expect(self.control.new_version(version, model=name, state=state), refusal):
            assert known
            known.versions[version] = state or READY

    @rule(name=models, version=st.sampled_from(["", "1", "1", "2", "2"]), etag=etags)
    def set_default(self, name: str, version: str, etag: str) -> None:
        known, etag = self.models.get(name), self.etag(self.control.model(name), etag)
        refusal: type[ServiceError] | None = None
        if not known:
            refusal = ModelNotFound
        elif etag == "stale":
            refusal = EtagMismatch
        elif version not in ("", known.default):
            refusal = (
                NOT_READY.get(known.versions[version])
                if version in known.versions
                else VersionNotFound
            )
        call = self.control.change_model(
            "default_version", model=name, etag=etag, default_version=version
        )
        if self.expect(call, refusal):
            assert known
            known.default = version

    @rule(name=models, version=versions, state=states, description=descriptions, etag=etags)
    def change_version(
        self, name: str, version: str, state: VersionState, description: str, etag: str
    ) -> None:
        known, etag = self.models.get(name), self.etag(self.control.version(version, name), etag)
        refusal: type[ServiceError] | None = None
        if not known:
            refusal = ModelNotFound
        elif version not in known.versions:
            refusal = VersionNotFound
        elif etag == "stale":
            refusal = EtagMismatch
        elif state is VersionState.PENDING and known.versions[version] is not state:
            refusal = FieldInvalid
        call = self.control.change_version(
            version=version, model=name, etag=etag, state=state, description=description
        )
        if self.expect(call, refusal):
            assert known
            known.versions[version] = state
            if state is not READY and known.default == version:
                known.default = ""

    @rule(name=environments, description=descriptions)
    def make_environment(self, name: str, description: str) -> None:
        made = self.control.new_environment(name, description=description)
        if self.expect(made, AlreadyExists if name in self.environments else None):
            self.environments[name] = description

    @rule(name=models, version=versions, environment=environments)
    def deploy(self, name: str, version: str, environment: str) -> None:
        known = self.models.get(name)
        if known and version in known.versions and environment in self.environments:
            where = self.control.environment(environment)
            record = self.run(self.control.deployed(self.control.version(version, name), where))
            self.open.append(record)

    @rule(which=st.integers(0, 9))
    def undeploy(self, which: int) -> None:
        if self.open:
            self.run(self.control.undeployed(self.open.pop(which % len(self.open))))

    @precondition(lambda self: "fraud" in self.models)
    @rule(name=models)
    def delete_model(self, name: str) -> None:
        used = any(record.model == name for record in self.open)
        refusal = InUse if used else None
        call = self.control.models.delete(
            Call(), self.control.model(name), etag="", allow_missing=False
        )
        if self.expect(call, refusal if name in self.models else ModelNotFound):
            del self.models[name]

    @rule(name=models, version=versions, etag=etags)
    def delete_version(self, name: str, version: str, etag: str) -> None:
        known, key = self.models.get(name), self.control.version(version, name)
        etag = self.etag(key, etag)
        used = any((record.model, record.version) == (name, version) for record in self.open)
        refusal: type[ServiceError] | None = InUse if used else None
        if not known:
            refusal = ModelNotFound
        elif version not in known.versions:
            refusal = VersionNotFound
        elif etag == "stale":
            refusal = EtagMismatch
        call = self.control.versions.delete(Call(), key, etag=etag, allow_missing=False)
        if self.expect(call, refusal):
            assert known
            del known.versions[version]
            known.default = "" if known.default == version else known.default

    @precondition(lambda self: "staging" in self.environments)
    @rule(name=environments)
    def delete_environment(self, name: str) -> None:
        used = any(record.environment == name for record in self.open)
        refusal = InUse if used else None
        key = self.control.environment(name)
        call = self.control.environments.delete(Call(), key, etag="", allow_missing=False)
        if self.expect(call, refusal if name in self.environments else EnvironmentNotFound):
            del self.environments[name]

    @invariant()
    def is_what_the_model_says(self) -> None:
        self.run(self._compare())

    async def _compare(self) -> None:
        control, project = self.control, self.control.project
        expected = [(name, m.description, m.default) for name, m in self.models.items()]
        listed = self.checked((await control.models.list(Call(), project, 100, "")).items)
        assert [(m.key.name, m.description, m.default_version) for m in listed] == expected
        for model in listed:
            states = list(self.models[model.key.name].versions.items())
            found = self.checked((await control.versions.list(Call(), model.key, 100, "")).items)
            assert [(v.key.version, v.state) for v in found] == states
        places = self.checked((await control.environments.list(Call(), project, 100, "")).items)
        assert [(p.key.name, p.description) for p in places] == list(self.environments.items())

    def checked(self, listed: Sequence[Any]) -> list[Any]:
        """What is listed newest first, oldest first as here. The etag of each is another one
        exactly when it is not what it was."""
        for thing in listed:
            before = self.known.get(thing.key)
            if before and before.id == thing.id:
                assert (thing.etag == before.etag) == (thing == before)
                assert thing.update_time >= before.update_time
            self.known[thing.key] = thing
        return list(reversed(listed))


def test_the_registry_holds_what_came_of_every_history(patient_url: str) -> None:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        opening = opened_registry(patient_url)
        opened = runner.run(opening.__aenter__())

        class Histories(History):
            run = staticmethod(runner.run)
            registry = opened

        try:
            run_state_machine_as_test(Histories, settings=FEW)
        finally:
            runner.run(opening.__aexit__(None, None, None))
