"""ListRevisions and Rollback."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from grpc import StatusCode as Code
from modelservice.v1.inference_service_pb2 import Failure, InferenceServiceStatus, Scaling
from modelservice.v1.model_service_pb2 import DeleteRequest, DeployRequest, DeployResponse
from modelservice.v1.registry_pb2 import ModelDeployment
from modelservice.v1.registry_service_pb2 import ListModelDeploymentsRequest
from modelservice.v1.rollout_service_pb2 import (
    ListRevisionsRequest,
    Revision,
    RollbackRequest,
    StopRequest,
)

from server.domain.errors import FieldInvalid, FieldViolation
from server.domain.revisions.revision import MOST_REVISIONS
from server.domain.service.commands import STOP_ANNOTATION
from server.domain.service.inference_service import ContainerPredictor
from server.domain.service.inference_service import InferenceServiceSpec as Spec
from tests.refusals import refused
from tests.serving import InLoop

from .registry_project import ARCHIVED, Project
from .requests import READY, container, deploy, eventually, failed, get, key

UPDATED = DeployResponse.ACTION_UPDATED
UNCHANGED = DeployResponse.ACTION_UNCHANGED
STOPPED = InferenceServiceStatus.STATE_STOPPED
IMAGE = "example.org/model:{}"


class Service:
    """A service whose rollouts become READY or FAILED as a test says."""

    def __init__(self, stub: Any, rollouts: Any, memory: Any, name: str) -> None:
        self.stub, self.rollouts, self.memory, self.name = stub, rollouts, memory, name

    def good(self, version: int, **fields: Any) -> DeployResponse:
        answer = self.stub.Deploy(deploy(self.name, IMAGE.format(version), **fields))
        self.is_ready(answer)
        return answer

    def is_ready(self, answer: DeployResponse) -> None:
        def ready() -> bool:
            service = get(self.stub, self.name)
            return (service.status.state, service.rollout_id) == (READY, answer.rollout_id)

        eventually("it is ready", ready)

    def bad(self, version: int, **fields: Any) -> DeployResponse:
        before, self.memory.target.ready_after = self.memory.target.ready_after, None
        answer = self.stub.Deploy(deploy(self.name, IMAGE.format(version), **fields))
        self.memory.set_status(key(self.name), failed(answer.rollout_id))
        self.memory.target.ready_after = before
        return answer

    def history(self, **fields: Any) -> list[Revision]:
        request = ListRevisionsRequest(name=self.name, **fields)
        return list(self.rollouts.ListRevisions(request).revisions)

    def rollback(self, **fields: Any) -> DeployResponse:
        answer: DeployResponse = self.rollouts.Rollback(RollbackRequest(name=self.name, **fields))
        return answer

    def refused(self, code: Code, reason: str, **fields: Any) -> Any:
        request = RollbackRequest(name=self.name, **fields)
        return refused(code, reason, self.rollouts.Rollback, request)

    @property
    def image(self) -> str:
        return get(self.stub, self.name).spec.container.image


@pytest.fixture
def service(stub, rollouts, memory, name) -> Service:
    return Service(stub, rollouts, memory, name)


def outcomes(revisions: list[Revision]) -> list[str]:
    return [
        f"{r.revision} {r.spec.container.image[-1:]}"
        f" {Revision.Outcome.Name(r.outcome).removeprefix('OUTCOME_')}"
        for r in revisions
    ]


def test_a_rollback_goes_to_what_was_ready_and_not_to_what_was_before(service) -> None:
    service.good(1)
    service.bad(2)
    third = service.good(3)
    service.bad(4)
    back = service.rollback()
    assert (back.action, back.service.spec) == (UPDATED, third.service.spec)
    assert back.rollout_id == back.service.rollout_id
    assert back.HasField("view_age")
    service.is_ready(back)
    history = service.history()
    assert outcomes(history) == ["5 3 READY", "4 4 FAILED", "3 3 READY", "2 2 FAILED", "1 1 READY"]
    assert [r.rollback_of for r in history] == [3, 0, 0, 0, 0]
    assert [r.current for r in history] == [True, False, False, False, False]
    assert history[0].rollout_id == back.rollout_id
    again = service.rollback()
    assert (again.action, again.rollout_id) == (UNCHANGED, back.rollout_id)
    assert service.image == IMAGE.format(3)


def test_a_revision_has_what_was_asked_and_what_became_of_it(service) -> None:
    first = service.good(1, labels={"team": "vision"}, annotations={"note": "7"})
    second = service.bad(2)
    newest, oldest = service.history()
    assert oldest.spec == first.service.spec
    assert (dict(oldest.labels), dict(oldest.annotations)) == ({"team": "vision"}, {"note": "7"})
    assert oldest.ready_time.seconds >= oldest.create_time.seconds > 0
    assert not oldest.HasField("failure")
    assert newest.failure.reason == Failure.REASON_IMAGE_PULL
    assert newest.failure.rollout_id == newest.rollout_id == second.rollout_id
    assert not newest.HasField("ready_time")


def test_the_changes_against_the_revision_before_are_paths_and_values(service) -> None:
    service.good(1, labels={"team": "a", "old": "1"})
    env = {"A.B": 'x"y', "LONG": "x" * 1000}
    spec = container(IMAGE.format(2), env=env)
    spec.scaling.min_replicas = 2
    spec.request_timeout.seconds = 300
    service.stub.Deploy(DeployRequest(name=service.name, spec=spec, labels={"team": "b"}))
    newest, oldest = service.history()
    assert not oldest.changes
    changes = {c.path: (c.before, c.after) for c in newest.changes}
    long = changes.pop('spec.env["LONG"]')[1]
    assert len(long) == 256
    assert long.endswith("...")
    assert changes == {
        "spec.container.image": ('"example.org/model:1"', '"example.org/model:2"'),
        'spec.env["A.B"]': ("", '"x\\"y"'),
        "spec.scaling.min_replicas": ("", "2"),
        "spec.request_timeout": ("", '"300s"'),
        'labels["old"]': ('"1"', ""),
        'labels["team"]': ('"a"', '"b"'),
    }


def test_a_change_far_into_a_long_value_is_shown(service) -> None:
    for last in ("old", "new"):
        args = [f"--option-{n}=value" for n in range(40)] + [f"--last={last}"]
        spec = container(IMAGE.format(1), env={"LONG": "x" * 30_000 + last})
        spec.container.args.extend(args)
        service.stub.Deploy(DeployRequest(name=service.name, spec=spec))
    changes = {c.path: (c.before, c.after) for c in service.history()[0].changes}
    for path in ("spec.container.args", 'spec.env["LONG"]'):
        assert all(value.startswith("...") for value in changes[path])
        assert ["old" in changes[path][0], "new" in changes[path][1]] == [True, True]


def test_a_stop_is_no_change_of_a_revision(service) -> None:
    service.good(1, annotations={"note": "7"})
    service.good(2, annotations={"note": "7"})
    service.rollouts.Stop(StopRequest(name=service.name))
    newest = service.history()[0]
    assert newest.annotations[STOP_ANNOTATION] == "true"
    assert [c.path for c in newest.changes] == ["spec.container.image"]


def test_at_most_fifty_changes_are_listed(service) -> None:
    service.good(1)
    service.good(1, labels={f"label-{n}": "x" for n in range(40)})
    service.stub.Deploy(
        DeployRequest(
            name=service.name, spec=container(IMAGE.format(2), env={f"V{n}": "" for n in range(40)})
        )
    )
    assert len(service.history()[0].changes) == 50


def test_scaling_and_a_stop_alone_make_no_revision_and_a_restart_makes_one(service) -> None:
    first = service.good(1)
    scaled = service.stub.Deploy(
        DeployRequest(
            name=service.name,
            spec=container(IMAGE.format(1), scaling=Scaling(min_replicas=3)),
        )
    )
    service.rollouts.Stop(StopRequest(name=service.name))
    [only] = service.history()
    assert (only.revision, only.rollout_id) == (1, first.rollout_id)
    assert only.spec == scaled.service.spec
    assert only.annotations == {STOP_ANNOTATION: "true"}
    restarted = service.stub.Deploy(DeployRequest(name=service.name, restart=True))
    newest, _ = service.history()
    assert newest.rollout_id == restarted.rollout_id
    assert not newest.changes


def test_a_rollback_of_a_stopped_service_leaves_it_stopped(service) -> None:
    service.good(1)
    service.bad(2)
    service.rollouts.Stop(StopRequest(name=service.name))
    back = service.rollback()
    assert back.service.annotations == {STOP_ANNOTATION: "true"}
    assert service.image == IMAGE.format(1)
    eventually("it is stopped", lambda: get(service.stub, service.name).status.state == STOPPED)


def test_a_service_that_was_stopped_in_a_revision_is_not_stopped_by_going_back(service) -> None:
    service.good(1)
    service.rollouts.Stop(StopRequest(name=service.name))
    service.stub.Deploy(
        deploy(service.name, IMAGE.format(2), annotations={STOP_ANNOTATION: "false"})
    )
    assert service.rollback().service.annotations == {STOP_ANNOTATION: "false"}


def test_any_revision_with_a_content_can_be_named(service) -> None:
    service.good(1)
    service.bad(2)
    service.good(3)
    assert service.rollback(revision=2).action == UPDATED
    assert service.history()[0].rollback_of == 2
    assert service.rollback(revision=4).action == UNCHANGED
    assert service.rollback(revision=1).action == UPDATED
    assert service.image == IMAGE.format(1)


def test_after_a_rollback_to_a_bad_revision_the_next_one_goes_to_what_was_ready(
    service, memory
) -> None:
    service.good(1)
    service.bad(2)
    service.good(3)
    memory.target.ready_after = None
    named = service.rollback(revision=2)
    memory.set_status(key(service.name), failed(named.rollout_id))
    back = service.rollback()
    assert (back.action, service.image) == (UPDATED, IMAGE.format(3))
    assert service.history()[0].rollback_of == 3


def test_without_another_ready_revision_a_rollback_is_refused(service) -> None:
    service.refused(Code.NOT_FOUND, "SERVICE_NOT_FOUND")
    service.good(1)
    service.refused(Code.FAILED_PRECONDITION, "NO_READY_REVISION")
    # The same content again.
    service.stub.Deploy(DeployRequest(name=service.name, restart=True))
    service.refused(Code.FAILED_PRECONDITION, "NO_READY_REVISION")


def test_a_revision_that_there_is_not_is_refused(service) -> None:
    service.good(1)
    service.good(2)
    refusal = service.refused(Code.NOT_FOUND, "REVISION_NOT_FOUND", revision=7)
    assert "it has 2, 1" in refusal.message
    service.refused(Code.INVALID_ARGUMENT, "FIELD_INVALID", revision=-1)


def test_a_gap_is_listed_and_cannot_be_rolled_back_to(service, memory, grpc_server) -> None:
    service.good(1)
    service.good(2)
    service.bad(3)
    store = InLoop(grpc_server, memory.target.store)
    stored = memory.target.store.get(key(service.name))
    newest, second, first = stored.revisions
    gap = replace(second, content=None, outcome=None, gap=True)
    store.put(replace(stored, revisions=(newest, gap, first)))
    listed = service.history()
    assert [r.gap for r in listed] == [False, True, False]
    assert not listed[1].HasField("spec")
    assert not any(r.changes for r in listed)
    refusal = service.refused(Code.NOT_FOUND, "REVISION_NOT_FOUND", revision=2)
    assert "while no server ran" in refusal.message
    assert service.rollback().service.spec.container.image == IMAGE.format(1)


def test_a_dry_run_says_what_would_happen_and_writes_nothing(service) -> None:
    service.good(1)
    bad = service.bad(2)
    dry = service.rollback(validate_only=True)
    assert (dry.action, dry.rollout_id) == (UPDATED, "")
    assert dry.service.spec.container.image == IMAGE.format(1)
    assert get(service.stub, service.name).rollout_id == bad.rollout_id
    assert len(service.history()) == 2


def test_a_retry_with_the_same_request_id_returns_the_first_rollout(service) -> None:
    service.good(1)
    service.bad(2)
    first = service.rollback(request_id="job-1")
    service.good(3)
    again = service.rollback(request_id="job-1")
    assert (again.action, again.rollout_id) == (UPDATED, first.rollout_id)
    assert service.image == IMAGE.format(3)
    service.refused(Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED", request_id="job-1", revision=1)


def test_a_retry_returns_the_first_rollout_even_if_its_revision_was_deleted_since(service) -> None:
    service.good(1)
    service.good(2)
    named = service.rollback(revision=1, request_id="job-1")
    service.is_ready(named)
    for _ in range(MOST_REVISIONS):
        service.bad(3)
        service.bad(4)
    again = service.rollback(revision=1, request_id="job-1")
    assert (again.action, again.rollout_id) == (UPDATED, named.rollout_id)
    assert service.image == IMAGE.format(4)
    service.refused(Code.NOT_FOUND, "REVISION_NOT_FOUND", revision=1, request_id="job-2")
    service.refused(Code.NOT_FOUND, "REVISION_NOT_FOUND", revision=1)
    service.refused(Code.INVALID_ARGUMENT, "REQUEST_ID_REUSED", request_id="job-1", revision=9)


def test_a_retry_returns_the_first_rollout_even_if_no_revision_is_ready_any_more(
    service, memory, grpc_server
) -> None:
    service.good(1)
    service.bad(2)
    memory.target.ready_after = None
    first = service.rollback(request_id="job-1")
    service.bad(3)
    stored = memory.target.store.get(key(service.name))
    never_ready = tuple(r for r in stored.revisions if r.number != 1)
    InLoop(grpc_server, memory.target.store).put(replace(stored, revisions=never_ready))
    again = service.rollback(request_id="job-1")
    assert (again.action, again.rollout_id) == (UPDATED, first.rollout_id)
    service.refused(Code.FAILED_PRECONDITION, "NO_READY_REVISION", request_id="job-2")


def test_only_the_newest_rollout_and_the_given_etag_are_rolled_back(service) -> None:
    first = service.good(1)
    second = service.good(2)
    service.refused(Code.ABORTED, "ROLLOUT_SUPERSEDED", rollout_id=first.rollout_id)
    service.refused(Code.ABORTED, "ETAG_MISMATCH", etag=first.service.etag)
    service.refused(Code.INVALID_ARGUMENT, "FIELD_INVALID", rollout_id="what")
    assert service.rollback(rollout_id=second.rollout_id, etag=second.service.etag).rollout_id


def test_a_deploy_between_the_read_and_the_write_is_not_undone(
    service, memory, monkeypatch
) -> None:
    service.good(1)
    service.bad(2)
    apply, cluster = memory.target.apply, memory.target

    async def late(deploying: Any) -> Any:
        monkeypatch.setattr(cluster, "apply", apply)
        await apply(replace(deploying, spec=Spec(ContainerPredictor(IMAGE.format(9))), etag=""))
        return await apply(deploying)

    monkeypatch.setattr(cluster, "apply", late)
    service.refused(Code.ABORTED, "CONCURRENT_WRITE")
    assert service.image == IMAGE.format(9)


def test_a_spec_that_is_no_longer_valid_is_refused_with_its_path(service, monkeypatch) -> None:
    service.good(1)
    service.bad(2)

    def stricter(_: object) -> None:
        raise FieldInvalid([FieldViolation("spec.container.image", "must have a digest")])

    monkeypatch.setattr("server.control.deploy.check_deploy", stricter)
    refusal = service.refused(Code.INVALID_ARGUMENT, "FIELD_INVALID")
    assert refusal.problems == ["must have a digest"]


def test_a_service_that_is_being_deleted_is_not_rolled_back(service, memory) -> None:
    service.good(1)
    service.good(2)
    service.stub.Delete(DeleteRequest(name=service.name))
    service.refused(Code.FAILED_PRECONDITION, "SERVICE_DELETING")
    memory.finish_delete(key(service.name))
    request = ListRevisionsRequest(name=service.name)
    refused(Code.NOT_FOUND, "SERVICE_NOT_FOUND", service.rollouts.ListRevisions, request)
    service.good(5)
    assert outcomes(service.history()) == ["1 5 READY"]


def test_a_service_of_another_client_is_rolled_back_by_force_only(service, memory) -> None:
    memory.put_unmanaged(key(service.name), Spec(ContainerPredictor(IMAGE.format(1))))
    service.refused(Code.FAILED_PRECONDITION, "NOT_MANAGED", revision=1)
    assert not service.rollback(revision=1, force=True).service.unmanaged


def test_a_service_that_was_taken_over_is_rolled_back_to_what_it_was(service, memory) -> None:
    memory.put_unmanaged(key(service.name), Spec(ContainerPredictor(IMAGE.format(1))))
    forced = service.stub.Deploy(deploy(service.name, IMAGE.format(2), force=True))
    service.is_ready(forced)
    assert service.rollback().service.spec.container.image == IMAGE.format(1)


def test_a_rollback_leaves_keys_of_the_platform_out_and_warns(service, memory) -> None:
    tag = "serving.kserve.io/enable-tag-routing"
    theirs = Spec(ContainerPredictor(IMAGE.format(1)))
    memory.put_unmanaged(key(service.name), theirs, annotations={tag: "true", "note": "7"})
    service.is_ready(service.stub.Deploy(deploy(service.name, IMAGE.format(2), force=True)))
    back = service.rollback()
    assert (service.image, dict(back.service.annotations)) == (IMAGE.format(1), {"note": "7"})
    assert [w.field for w in back.warnings] == [f'annotations["{tag}"]']


def test_pages_go_from_the_newest_to_the_oldest(service) -> None:
    for version in range(1, 6):
        service.good(version)
    request = ListRevisionsRequest(name=service.name, page_size=2)
    numbers, changed = [], []
    while True:
        page = service.rollouts.ListRevisions(request)
        numbers += [r.revision for r in page.revisions]
        changed += [len(r.changes) for r in page.revisions]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert numbers == [5, 4, 3, 2, 1]
    assert changed == [1, 1, 1, 1, 0]


def test_a_page_token_is_of_its_service_alone(service, stub) -> None:
    for version in (1, 2):
        service.good(version)
        stub.Deploy(deploy(f"{service.name}-b", IMAGE.format(version)))
    page = service.rollouts.ListRevisions(ListRevisionsRequest(name=service.name, page_size=1))
    for name, token in ((f"{service.name}-b", page.next_page_token), (service.name, "what")):
        request = ListRevisionsRequest(name=name, page_token=token)
        refused(
            Code.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID", service.rollouts.ListRevisions, request
        )


def test_large_revisions_come_in_pages_below_the_limit_of_a_message(service) -> None:
    env = {f"V{n}": "x" * 30_000 for n in range(8)}
    for version in range(1, 11):
        spec = container(IMAGE.format(version), env=env)
        service.stub.Deploy(DeployRequest(name=service.name, spec=spec))
    page = service.rollouts.ListRevisions(ListRevisionsRequest(name=service.name))
    assert [r.revision for r in page.revisions] == [10, 9, 8, 7, 6, 5, 4, 3]
    rest = service.history(page_token=page.next_page_token)
    assert [r.revision for r in rest] == [2, 1]


def test_the_last_ten_are_kept_and_the_way_back(service) -> None:
    service.good(1)
    for _ in range(12):
        service.bad(2)
        service.bad(3)
    history = service.history()
    assert [r.revision for r in history] == [*range(25, 15, -1), 1]
    assert service.rollback().service.spec.container.image == IMAGE.format(1)


class Registered:
    """A registered model in two versions, of which the second failed."""

    def __init__(self, service: Service, project: Project) -> None:
        self.service, self.project = service, project
        project.model()
        project.environment(namespace="model-serving")
        for version in ("1", "2"):
            project.version(version, image=IMAGE.format(version))
        answer = service.stub.Deploy(project.deploy("1", name=service.name))
        service.is_ready(answer)
        service.memory.target.ready_after = None
        answer = service.stub.Deploy(project.deploy("2", name=service.name))
        service.memory.set_status(key(service.name), failed(answer.rollout_id))

    def records(self) -> list[ModelDeployment]:
        request = ListModelDeploymentsRequest(project=self.project.name)
        return list(self.project.stub.ListModelDeployments(request).deployments)


@pytest.fixture
def registered(service, project) -> Registered:
    return Registered(service, project)


def test_a_rollback_of_a_registered_model_is_a_deployment_of_that_version(registered) -> None:
    back = registered.service.rollback()
    assert back.service.spec.registered_model.version == "1"
    newest = registered.records()[0]
    assert (newest.id, newest.version) == (back.service.deployment_id, "1")
    assert newest.rollout_id == back.rollout_id
    assert len(registered.records()) == 3
    assert registered.service.history()[0].deployment_id == newest.id
    assert registered.service.rollback().action == UNCHANGED
    assert len(registered.records()) == 3


def test_a_rollback_has_the_defaults_that_its_environment_had_then(registered) -> None:
    first = registered.service.history()[-1]
    update = registered.project.environment_update("defaults", defaults={"env": {"LATER": "1"}})
    registered.project.stub.UpdateServingEnvironment(update)
    assert registered.service.rollback().service.spec == first.spec


def test_an_archived_version_is_rolled_back_to_by_force_only(registered) -> None:
    registered.project.update_version("state", state=ARCHIVED)
    refusal = registered.service.refused(Code.FAILED_PRECONDITION, "VERSION_ARCHIVED")
    assert "set force" in refusal.message
    assert registered.service.rollback(force=True).service.spec.registered_model.version == "1"
    assert registered.service.rollback().action == UNCHANGED
    refused(
        Code.FAILED_PRECONDITION,
        "VERSION_ARCHIVED",
        registered.service.stub.Deploy,
        registered.project.deploy("1", name=f"{registered.service.name}-b"),
    )
