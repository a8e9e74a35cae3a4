"""A rollout as it is kept in the cluster."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.adapters.kserve.informers.held_revision import HeldRevision
from server.adapters.kserve.manifests.annotations import start_stamp
from server.adapters.kserve.manifests.manifest import DesiredObject
from server.adapters.kserve.manifests.object_parser import parse_object
from server.adapters.kserve.names import OUTCOME_ANNOTATION
from server.adapters.kserve.revisions.rollout_record import (
    RolloutRecord,
    later_fields_of,
    manifest_of,
    parse_record,
    record_of,
    record_patch,
)
from server.domain.revisions.kept_content import LARGEST_CONTENT
from server.domain.revisions.revision import Revision, RevisionContent, RevisionOutcome
from server.domain.rollout.failures import failure_of
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import Component, FailureReason
from server.domain.service.inference_service import Scaling
from tests.adapters.kserve.storing import applied, edited
from tests.adapters.kserve.test_manifest import CONTAINER, KEY, MODEL
from tests.strategies import annotations, labels, specs

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TEXT = "Traceback: the password is hunter2"
CRASHED = replace(
    failure_of(FailureReason.CRASH_LOOP, f"it crashes: {TEXT}", first_seen_time=NOW),
    rollout_id=Rollout("u", 3).id,
    component=Component.PREDICTOR,
    pod="iris-1",
    container="kserve-container",
    exit_code=0,
    restart_count=7,
    log_lines=(TEXT,),
    container_text=TEXT,
)
_contents = st.builds(RevisionContent, specs(), labels, annotations)
_outcomes = st.sampled_from(
    [
        {},
        {"outcome": RevisionOutcome.READY, "ready_time": NOW},
        {"outcome": RevisionOutcome.FAILED, "failure": CRASHED},
        {"outcome": RevisionOutcome.SUPERSEDED},
    ]
)


def record(**fields: Any) -> RolloutRecord:
    revision = Revision(Rollout("u", 3), RevisionContent(MODEL), NOW)
    return RolloutRecord(replace(revision, **fields), 2**64 - 1)


def stored(kept: RolloutRecord) -> dict[str, Any]:
    """The ControllerRevision as the API server returns it."""
    obj: dict[str, Any] = json.loads(json.dumps(manifest_of(KEY, kept)))
    obj["metadata"] |= {"resourceVersion": "9", "creationTimestamp": "2031-01-01T00:00:00Z"}
    return obj


def as_kept(revision: Revision) -> Revision:
    """The revision without what is not kept of it."""
    if revision.failure is None:
        return revision
    failure = replace(revision.failure.with_container_text(""), log_lines=())
    return replace(revision, failure=failure)


@given(_contents, _outcomes, st.integers(0, 5), st.integers(0, 2))
def test_what_is_kept_of_a_rollout_is_read_as_it_was(
    content: RevisionContent, outcome: dict[str, Any], rollback_of: int, unseen_after: int
) -> None:
    revision = record(
        content=content,
        deployed_by="ann",
        deployment_id="d1",
        rollback_of=rollback_of,
        **outcome,
    ).revision
    kept = RolloutRecord(revision, 2**64 - 1, unseen_after)
    read = parse_record(stored(kept))
    assert read == replace(kept, revision=as_kept(revision), version="9")
    held = HeldRevision(stored(kept))
    assert (held.known, held.owner, held.service_uid) == (kept.known, KEY, "u")


def test_the_metadata_alone_has_all_but_the_content() -> None:
    kept = record(outcome=RevisionOutcome.FAILED, failure=CRASHED)
    metadata = {"metadata": stored(kept)["metadata"]}
    read = parse_record(metadata)
    assert read is not None
    assert read.revision.content is None
    assert read.known == kept.known


def test_no_text_of_a_container_is_kept() -> None:
    text = json.dumps(stored(record(outcome=RevisionOutcome.FAILED, failure=CRASHED)))
    assert "it crashes" in text
    assert "hunter2" not in text


def test_a_content_that_is_too_large_is_left_out_and_its_outcome_is_kept() -> None:
    env = {f"V{n}": "x" * 1000 for n in range(LARGEST_CONTENT // 1000)}
    large = record(
        content=RevisionContent(replace(MODEL, env=env)), outcome=RevisionOutcome.SUPERSEDED
    )
    obj = stored(large)
    assert len(json.dumps(obj)) < 10_000
    read = parse_record(obj)
    assert read is not None
    assert (read.revision.content, read.revision.outcome) == (None, RevisionOutcome.SUPERSEDED)


@given(_contents, _contents)
def test_a_revision_has_the_fields_that_a_later_write_changed(
    first: RevisionContent, later: RevisionContent
) -> None:
    scaled = replace(
        first.spec, scaling=later.spec.scaling, rollout_strategy=later.spec.rollout_strategy
    )
    obj = stored(record(content=first))
    kept = parse_record(obj)
    assert kept is not None
    text = later_fields_of(RevisionContent(scaled))
    patch = record_patch(replace(kept, later_fields=text))["metadata"]
    obj["metadata"]["annotations"] |= {k: v for k, v in patch["annotations"].items() if v}
    read = parse_record(obj)
    assert read is not None
    assert read.revision.content == replace(first, spec=scaled)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["spec", "labels", "container", "env"]), inner)
        ),
        max_leaves=9,
    ),
    st.text(max_size=9),
)
def test_whatever_others_write_is_read(data: Any, text: str) -> None:
    obj = stored(record(outcome=RevisionOutcome.FAILED, failure=CRASHED))
    for changed in (
        obj | {"data": {"spec": data, "labels": data, "rollbackOf": data, "createTime": data}},
        obj
        | {
            "metadata": obj["metadata"]
            | {"annotations": dict.fromkeys(obj["metadata"]["annotations"], text)}
        },
    ):
        read, held = parse_record(changed), HeldRevision(changed)
        assert read is not None
        assert held.known is not None
        assert read.generation == held.known.generation == 3
    obj["metadata"]["labels"] = {}
    assert parse_record(obj) is HeldRevision(obj).known is None


def test_the_patch_of_an_outcome_replaces_the_former_one_on_the_version_that_was_read() -> None:
    failed = parse_record(stored(record(outcome=RevisionOutcome.FAILED, failure=CRASHED)))
    assert failed is not None
    revision = replace(failed.revision, outcome=RevisionOutcome.READY, failure=None)
    patch = record_patch(replace(failed, revision=revision))["metadata"]
    assert patch["resourceVersion"] == "9"
    assert patch["annotations"][OUTCOME_ANNOTATION] == "READY"
    assert [key for key, text in patch["annotations"].items() if text is None] == [
        "modelservice.dev/ready-time",
        "modelservice.dev/failure",
        "modelservice.dev/later-fields",
        "modelservice.dev/seen-until",
    ]


def desired(**fields: Any) -> DesiredObject:
    return DesiredObject(KEY, CONTAINER, deployed_by="ann", **fields)


def seen(obj: dict[str, Any]) -> RolloutRecord:
    return record_of(parse_object(obj))


def test_a_rollout_is_read_from_the_object_alone() -> None:
    obj = applied(desired(rollback="[7,1]", deployment_id="d1"))
    obj["metadata"]["managedFields"][0]["time"] = "2030-01-01T00:00:00Z"
    revision = seen(obj).revision
    assert revision.create_time == NOW
    assert revision.content == RevisionContent(CONTAINER)
    assert (revision.deployed_by, revision.rollback_of) == ("ann", 7)


def test_an_edit_by_others_has_neither_the_user_nor_the_rollback_of_the_deploy_before() -> None:
    deployed = applied(desired(rollback="[7,1]"))
    change = {"spec": {"predictor": {"serviceAccountName": "other"}}}
    changed = edited(deployed, "kubectl-edit", change)
    changed["metadata"]["generation"] = 2
    for entry, second in zip(changed["metadata"]["managedFields"], (1, 2), strict=True):
        entry["time"] = f"2026-01-01T00:00:0{second}Z"
    record = seen(changed)
    assert record.content_hash != seen(deployed).content_hash
    assert (record.revision.deployed_by, record.revision.rollback_of) == ("", 0)


def test_scaling_is_of_the_same_revision_and_a_restart_is_not() -> None:
    first = seen(applied(desired())).content_hash
    scaled = desired(restart="")
    scaled = replace(scaled, spec=replace(CONTAINER, scaling=Scaling(2, 4)))
    assert seen(applied(scaled)).content_hash == first
    again = seen(applied(desired(restart="again"))).content_hash
    assert again != first
    for restart, content_hash in (("", first), ("again", again)):
        stamp = start_stamp(start_stamp(restart, "1"), "2")
        assert stamp != restart
        assert seen(applied(desired(restart=stamp))).content_hash == content_hash
    assert first < 2**64
