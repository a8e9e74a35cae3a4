"""The rules of revisions, over any history of a service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import takewhile

from hypothesis import given
from hypothesis import strategies as st

from server.domain.revisions.kept_content import LARGEST_CONTENT, as_kept
from server.domain.revisions.revision import (
    Revision,
    RevisionContent,
    RevisionOutcome,
    last_ready,
    needs_storing,
    same_rollout_content,
    superseded,
    to_keep,
    with_status,
)
from server.domain.rollout.failures import failure_of
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import FailureReason, InferenceServiceStatus, State
from server.domain.service.commands import STOP_ANNOTATION
from server.domain.service.inference_service import (
    RECREATE,
    ContainerPredictor,
    InferenceServiceSpec,
    RolloutStrategy,
    Scaling,
)
from tests.strategies import annotations, labels, specs

UID = "uid"
READY, FAILED, SUPERSEDED = RevisionOutcome
NOW = datetime(2030, 1, 1, tzinfo=UTC)
OOM = failure_of(FailureReason.OUT_OF_MEMORY, "it was killed")


def content(image: str) -> RevisionContent:
    return RevisionContent(InferenceServiceSpec(ContainerPredictor(image)))


def revision(
    number: int, image: str, outcome: RevisionOutcome | None, rollback_of: int = 0
) -> Revision:
    return Revision(Rollout(UID, number), content(image), None, outcome, rollback_of=rollback_of)


def history(
    *rows: tuple[str, RevisionOutcome | None] | tuple[str, RevisionOutcome, int],
) -> list[Revision]:
    """Revisions of these contents and outcomes, given oldest first."""
    return [revision(n, *row) for n, row in enumerate(rows, 1)][::-1]


def number(chosen: Revision | None) -> int | None:
    return chosen and chosen.number


_outcomes = st.none() | st.sampled_from(RevisionOutcome)
_rows = st.tuples(st.sampled_from(["a", "b", "c", "d"]), _outcomes)
_contents = st.builds(RevisionContent, specs(), labels, annotations)


@st.composite
def _histories(draw: st.DrawFn) -> list[Revision]:
    rows = draw(st.lists(_rows, min_size=1, max_size=14))
    return [
        revision(n, *row, rollback_of=draw(st.sampled_from([0, 0, 0, n - 1])))
        for n, row in enumerate(rows, 1)
    ][::-1]


histories = _histories()


def test_a_rollback_goes_to_the_newest_that_was_ready_not_to_the_one_before() -> None:
    revisions = history(("1", READY), ("2", FAILED), ("3", READY), ("4", FAILED))
    assert number(last_ready(revisions)) == 3


def test_a_second_rollback_goes_no_further_back() -> None:
    after = history(("1", READY), ("2", FAILED), ("3", READY), ("4", FAILED), ("3", READY, 3))
    assert number(last_ready(after)) == 5
    restarted = [revision(6, "3", None), *after]
    assert number(last_ready(restarted)) == 6


def test_a_rollback_skips_what_equals_the_present() -> None:
    assert number(last_ready(history(("1", READY), ("2", READY), ("2", FAILED)))) == 1


def test_without_another_ready_revision_there_is_no_rollback() -> None:
    assert last_ready(history(("1", FAILED), ("2", READY))) is None
    assert last_ready([]) is None


def test_nothing_is_rolled_back_to_a_gap() -> None:
    gap = Revision(Rollout(UID, 2), None, None, READY, gap=True)
    assert number(last_ready([revision(3, "3", FAILED), gap, revision(1, "1", READY)])) == 1


@given(histories)
def test_a_rollback_ends_at_the_present_or_at_another_content_that_was_ready(
    revisions: Sequence[Revision],
) -> None:
    present, chosen = revisions[0], last_ready(revisions)
    if chosen is None or chosen is present:
        return
    assert chosen.outcome is READY
    assert not same_rollout_content(chosen.content, present.content)
    between = revisions[1 : revisions.index(chosen)]
    assert all(
        r.outcome is not READY or same_rollout_content(r.content, present.content) for r in between
    )


@given(
    histories,
    st.booleans(),
    st.lists(_outcomes, max_size=8),
    st.integers(1, 12),
)
def test_a_rollback_and_one_more_are_as_one(
    revisions: list[Revision],
    other_defaults: bool,
    restarts: list[RevisionOutcome | None],
    most: int,
) -> None:
    chosen = last_ready(revisions)
    if chosen is None or chosen is revisions[0]:
        return
    gone_to = content("a, with other defaults") if other_defaults else chosen.content
    for n, outcome in enumerate([None, *restarts]):
        back_to = 0 if n else chosen.number
        newest = Revision(Rollout(UID, 50 + n), gone_to, None, outcome, rollback_of=back_to)
        revisions = to_keep([newest, superseded(revisions[0]), *revisions[1:]], most)
        assert last_ready(revisions) is newest


def test_a_rollback_to_what_never_was_ready_is_left_by_the_next_one() -> None:
    named = history(("1", READY), ("2", FAILED), ("3", READY), ("2", FAILED, 2))
    assert number(last_ready(named)) == 3
    restarted = [revision(5, "2", None), *named]
    assert number(last_ready(restarted)) == 3


def test_a_rollback_that_fails_this_time_stands() -> None:
    assert number(last_ready(history(("1", READY), ("2", FAILED), ("1", FAILED, 1)))) == 3


@given(histories)
def test_a_rollback_ends_only_where_something_was_ready(revisions: list[Revision]) -> None:
    if chosen := last_ready(revisions):
        run = [chosen]
        if chosen is revisions[0]:
            run = list(takewhile(lambda r: r.content == chosen.content, revisions))
        good = {r.number for r in revisions if r.outcome is READY}
        alike = {r.number for r in revisions if r.content == chosen.content}
        assert good & (alike | {r.rollback_of for r in run})


def test_pruning_keeps_the_rollback_that_restarts_have_pushed_back() -> None:
    rolled_back = history(("1", READY), ("2", FAILED), ("3", READY), ("4", FAILED), ("3", READY, 3))
    restarted = [*history(*[("3", READY)] * 12)[:7], *rolled_back]
    assert last_ready(to_keep(restarted, 2)) is restarted[0]


def test_pruning_does_not_join_the_present_to_an_earlier_rollback() -> None:
    revisions = history(("3", READY), ("4", READY, 1), ("5", FAILED), ("4", FAILED), ("4", FAILED))
    assert number(last_ready(revisions)) == 1
    assert number(last_ready(to_keep(revisions, 2))) == 1


@given(histories, st.integers(1, 12))
def test_pruning_keeps_the_newest_and_every_way_back(revisions: list[Revision], most: int) -> None:
    kept = to_keep(revisions, most)
    assert kept[:most] == revisions[:most]
    assert len(kept) <= most + 4
    assert [r for r in revisions if r in kept] == kept
    assert last_ready(kept) == last_ready(revisions)
    ready = [r for r in revisions if r.outcome is READY]
    assert not ready or ready[0] in kept
    assert to_keep(kept, most) == kept


@given(
    st.lists(st.tuples(st.none() | st.sampled_from("abc"), _outcomes), min_size=1, max_size=20),
    st.integers(2, 4),
)
def test_pruning_after_every_write_changes_no_rollback(
    writes: list[tuple[str | None, RevisionOutcome | None]], most: int
) -> None:
    """A write without an image is a rollback."""
    full: list[Revision] = []
    kept: list[Revision] = []
    for n, (image, outcome) in enumerate(writes, 1):
        chosen = last_ready(full)
        if image is None and (chosen is None or chosen is full[0]):
            continue
        gone_to = content(image) if image else chosen and chosen.content
        back_to = 0 if image or chosen is None else chosen.number
        new = Revision(Rollout(UID, n), gone_to, None, outcome, rollback_of=back_to)
        full = [new, *map(superseded, full)]
        kept = to_keep([new, *map(superseded, kept)], most)
        assert last_ready(kept) == last_ready(full)


def test_pruning_keeps_a_way_back_for_what_is_deployed_again() -> None:
    revisions = history(("1", READY), ("2", READY), *[("3", FAILED)] * 10)
    again = [revision(13, "2", None), *to_keep(revisions, 10)]
    assert number(last_ready(to_keep(again, 10))) == 1


@given(_contents, st.sampled_from(["true", "false", None]))
def test_scaling_the_strategy_and_a_stop_alone_are_no_other_content(
    one: RevisionContent, stop: str | None
) -> None:
    scaled = replace(one.spec, scaling=Scaling(7, 9), rollout_strategy=RolloutStrategy(RECREATE))
    kept = {k: v for k, v in one.annotations.items() if k != STOP_ANNOTATION}
    stopped = kept | ({STOP_ANNOTATION: stop} if stop else {})
    assert same_rollout_content(one, replace(one, spec=scaled, annotations=stopped))


@given(_contents)
def test_everything_else_is_another_content(one: RevisionContent) -> None:
    assert not same_rollout_content(one, replace(one, labels={**one.labels, "new": "1"}))
    assert not same_rollout_content(one, replace(one, annotations={**one.annotations, "new": "1"}))
    env = {**one.spec.env, "NEW_VARIABLE": "1"}
    assert not same_rollout_content(one, replace(one, spec=replace(one.spec, env=env)))
    assert not same_rollout_content(one, None)


@given(_contents, _contents, st.sampled_from(["true", "false", None]))
def test_contents_are_of_one_revision_if_and_only_if_their_digests_are_the_same(
    one: RevisionContent, other: RevisionContent, stop: str | None
) -> None:
    scaled = replace(one.spec, scaling=Scaling(7, 9), rollout_strategy=RolloutStrategy(RECREATE))
    stopped = dict(one.annotations) | ({STOP_ANNOTATION: stop} if stop else {})
    labelled = replace(one, labels={**one.labels, "new": "1"})
    annotated = replace(one, annotations={**one.annotations, "new": "1"})
    for second in (other, RevisionContent(scaled, one.labels, stopped), labelled, annotated):
        digests = [
            as_kept(replace(revision(1, "1", None), content=c)).content_digest
            for c in (one, second)
        ]
        assert all(digests)
        assert (digests[0] == digests[1]) == same_rollout_content(one, second)


def test_a_content_that_is_too_large_is_not_kept_and_no_way_back() -> None:
    env = {f"V{n}": "x" * 1000 for n in range(LARGEST_CONTENT // 1000)}
    large = RevisionContent(replace(content("1").spec, env=env))
    kept = as_kept(replace(revision(1, "1", READY), content=large))
    assert (kept.content, kept.content_digest, kept.outcome) == (None, "", READY)
    assert last_ready([revision(2, "2", FAILED), kept]) is None


@given(histories, st.integers(1, 12))
def test_without_the_contents_their_digests_do(revisions: list[Revision], most: int) -> None:
    apart = [replace(as_kept(r), content=None) for r in revisions]
    assert number(last_ready(apart)) == number(last_ready(revisions))
    assert [r.number for r in to_keep(apart, most)] == [r.number for r in to_keep(revisions, most)]


_statuses = st.builds(
    InferenceServiceStatus,
    st.sampled_from(State),
    failure=st.none() | st.just(OOM) | st.just(replace(OOM, rollout_id=Rollout(UID, 1).id)),
    last_transition_time=st.just(NOW),
)


@given(st.lists(_statuses, max_size=8))
def test_ready_is_final_and_failed_may_become_ready(statuses: list[InferenceServiceStatus]) -> None:
    now = revision(1, "1", None)
    for status in statuses:
        before, now = now, with_status(now, now.rollout, status)
        if before.outcome is READY:
            assert now is before
        elif status.state is State.READY:
            assert (now.outcome, now.ready_time, now.failure) == (READY, NOW, None)
        elif before.outcome is FAILED:
            assert now.outcome is FAILED
        assert now.outcome is not SUPERSEDED
    assert superseded(now).outcome is (now.outcome or SUPERSEDED)


def test_an_older_rollout_that_serves_does_not_make_a_revision_ready() -> None:
    bad = replace(OOM, rollout_id=Rollout(UID, 2).id)
    degraded = InferenceServiceStatus(State.DEGRADED, serving=True, failure=bad)
    assert with_status(revision(2, "2", None), Rollout(UID, 2), degraded).outcome is FAILED
    blameless = replace(degraded, failure=OOM)
    assert with_status(revision(2, "2", None), Rollout(UID, 2), blameless).outcome is None


def test_only_an_outcome_another_reason_and_the_first_log_lines_are_stored() -> None:
    failed = replace(revision(1, "1", FAILED), failure=OOM)
    assert needs_storing(revision(1, "1", None), failed)
    assert not needs_storing(failed, replace(failed, failure=replace(OOM, restart_count=9)))
    assert needs_storing(failed, replace(failed, failure=replace(OOM, log_lines=("killed",))))
    assert needs_storing(failed, revision(1, "1", READY))
