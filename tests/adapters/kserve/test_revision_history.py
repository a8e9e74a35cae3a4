"""Which generations are revisions, and what is known to be missing."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from server.adapters.kserve.revisions.history import history_of, new_revision
from server.adapters.kserve.revisions.rollout_record import RolloutRecord
from server.domain.revisions.revision import Revision, RevisionContent, RevisionOutcome
from server.domain.rollout.rollout_id import Rollout
from tests.adapters.kserve.test_manifest import MODEL

READY, SUPERSEDED = RevisionOutcome.READY, RevisionOutcome.SUPERSEDED
MOST = 10


def record(
    generation: int, content: int, unseen_after: int = 0, outcome: RevisionOutcome | None = None
) -> RolloutRecord:
    revision = Revision(Rollout("u", generation), RevisionContent(MODEL), outcome=outcome)
    return RolloutRecord(revision, content, unseen_after)


def shown(history: list[Revision]) -> list[tuple[int, bool]]:
    return [(revision.number, revision.gap) for revision in history]


def test_the_first_rollout_that_is_seen_begins_the_history() -> None:
    assert new_revision([], record(7, 1)) == record(7, 1)


def test_a_generation_with_the_content_of_the_revision_before_is_none() -> None:
    assert new_revision([record(3, 1)], record(9, 1)) is None
    assert new_revision([record(3, 1), record(4, 2)], record(5, 1)) == record(5, 1)


def test_a_generation_that_is_stored_is_not_stored_again() -> None:
    assert new_revision([record(3, 1)], record(3, 2)) is None


def test_generations_that_nobody_saw_are_noted_if_the_content_has_changed() -> None:
    assert new_revision([record(3, 1)], record(6, 2)) == record(6, 2, unseen_after=3)

    def seen_until(generation: int) -> RolloutRecord:
        return replace(record(3, 1), seen_until=generation)

    # 4 and 5 were changes of scaling.
    assert new_revision([seen_until(5)], record(6, 2)) == record(6, 2)
    assert new_revision([seen_until(4)], record(6, 2)) == record(6, 2, unseen_after=4)
    # What was seen of a later generation says nothing about this one.
    assert new_revision([seen_until(8)], record(6, 2)) == record(6, 2, unseen_after=3)


def test_what_nobody_saw_is_listed_as_gaps() -> None:
    history = history_of([record(1, 1), record(4, 2, unseen_after=1)], [record(4, 2)], MOST)
    assert shown(history) == [(4, False), (3, True), (2, True), (1, False)]
    assert [revision.content is None for revision in history] == [False, True, True, False]


def test_what_another_replica_stored_meanwhile_is_no_gap() -> None:
    stored = [record(1, 1), record(3, 3), record(4, 2, unseen_after=1)]
    history = history_of(stored, [record(4, 2)], MOST)
    assert shown(history) == [(4, False), (3, False), (1, False)]


def test_rollouts_that_are_not_stored_yet_are_shown() -> None:
    seen = [record(2, 2, outcome=READY), record(3, 2), record(4, 3)]
    history = history_of([record(1, 1)], seen, MOST)
    assert shown(history) == [(4, False), (2, False), (1, False)]
    assert [revision.outcome for revision in history] == [None, READY, SUPERSEDED]


def test_the_present_one_stays_that_of_its_content_after_scaling() -> None:
    history = history_of([record(1, 1, outcome=READY)], [record(5, 1)], MOST)
    assert shown(history) == [(1, False)]


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=30),
    st.sets(st.integers(1, 30)),
    st.integers(2, 10),
)
def test_no_content_is_missing_but_what_is_a_gap(
    contents: list[int], unseen: set[int], most: int
) -> None:
    """Generations of these contents; others follow what servers saw of them."""
    generations = list(enumerate(contents, 1))
    stored: list[RolloutRecord] = []
    for generation, content in generations:
        if generation in unseen and generation < len(contents):
            continue
        if new := new_revision(stored, record(generation, content)):
            stored.append(new)
        else:
            stored[-1] = replace(stored[-1], seen_until=generation)
    history = history_of(stored, [record(len(contents), contents[-1])], 40)
    numbers = [revision.number for revision in history]
    assert numbers == sorted(set(numbers), reverse=True)
    listed = {revision.number: revision.gap for revision in history}
    assert all(generation in unseen for generation, gap in listed.items() if gap)
    before = None
    for generation, content in generations:
        if generation not in unseen and before is not None and generation - 1 not in unseen:
            assert (content != before) <= (generation in listed)
        before = content
    short = history_of(stored, [record(len(contents), contents[-1])], most)
    assert len(short) <= most + 4
    assert [r.number for r in short[:most]] == numbers[:most]
