"""What is held of the services, when the watch and the answers to writes tell it out of step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.adapters.kserve.informers.service_cache import ServiceCache
from server.adapters.kserve.objects import generation_of, uid_of
from server.domain.service.inference_service import ServiceKey

KEY = ServiceKey("team-a", "iris")


def an_object(uid: str = "u1", generation: int = 1, made: int = 0) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": KEY.namespace,
            "name": KEY.name,
            "uid": uid,
            "generation": generation,
            "creationTimestamp": f"2026-01-01T00:{made // 60:02}:{made % 60:02}Z",
        }
    }


def test_an_event_older_than_a_writes_answer_is_dropped() -> None:
    held = ServiceCache()
    held.take_event(an_object(generation=1), deleted=False)
    held.take_written(an_object(generation=2))

    assert held.take_event(an_object(generation=1), deleted=False) == set()
    assert generation_of(held.get(KEY) or {}) == 2


def test_an_answer_that_the_watch_has_overtaken_is_not_held_but_has_its_key_told_again() -> None:
    held = ServiceCache()
    held.take_event(an_object(generation=3), deleted=False)

    assert held.take_written(an_object(generation=2)) == {KEY}
    assert generation_of(held.get(KEY) or {}) == 3


def test_an_answer_about_a_service_that_is_already_gone_departs_at_once() -> None:
    held = ServiceCache()
    held.take_event(an_object(), deleted=False)
    held.take_event(an_object(), deleted=True)
    held.pop_deleted(KEY)

    assert held.take_written(an_object(generation=2)) == {KEY}
    assert held.get(KEY) is None
    assert held.pop_deleted(KEY) == ["u1"]


def test_a_recreation_departs_the_old_uid_and_holds_the_new_one() -> None:
    held = ServiceCache()
    held.take_event(an_object("u1"), deleted=False)
    held.take_event(an_object("u1"), deleted=True)
    held.take_event(an_object("u2"), deleted=False)

    assert held.pop_deleted(KEY) == ["u1"]
    assert uid_of(held.get(KEY) or {}) == "u2"
    assert (held.key_of("u1"), held.key_of("u2")) == (None, KEY)


def test_a_service_deleted_and_recreated_while_away_is_told_by_its_uid_in_the_next_list() -> None:
    held = ServiceCache()
    held.take_event(an_object("u1", generation=7), deleted=False)

    held.take_list("", [an_object("u2", generation=1)], held.writes_so_far())

    assert held.pop_deleted(KEY) == ["u1"]
    assert uid_of(held.get(KEY) or {}) == "u2"


def test_a_list_asked_for_before_our_creation_does_not_take_it_back() -> None:
    held = ServiceCache()
    began = held.writes_so_far()
    held.take_written(an_object())

    assert held.take_list("", [], began) == set()
    assert held.get(KEY) is not None


def test_a_list_asked_for_after_our_creation_does() -> None:
    held = ServiceCache()
    held.take_written(an_object())

    assert held.take_list("", [], held.writes_so_far()) == {KEY}
    assert held.get(KEY) is None


def test_a_list_of_one_namespace_says_nothing_of_another() -> None:
    held = ServiceCache()
    held.take_event(an_object(), deleted=False)

    held.take_list("team-b", [], held.writes_so_far())

    assert held.get(KEY) is not None


@dataclass
class Cluster:
    """One key's true history, and a watch, lists and answers that tell of it in their own time."""

    held: ServiceCache = field(default_factory=ServiceCache)
    history: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    watched: int = 0
    floor: int = -1
    list_began: int | None = None
    listed: int | None = None
    shown: set[str] = field(default_factory=set)
    departed: list[str] = field(default_factory=list)

    @property
    def present(self) -> dict[str, Any] | None:
        kind, last = self.history[-1] if self.history else ("DELETED", {})
        return None if kind == "DELETED" else last

    def write(self, *, ours: bool) -> None:
        if self.present is None:
            made = len(self.history)
            self.history.append(("ADDED", an_object(f"u{made}", 1, made)))
        else:
            meta = self.present["metadata"]
            made = int(meta["uid"][1:])
            self.history.append(("MODIFIED", an_object(meta["uid"], meta["generation"] + 1, made)))
        if ours:
            self.answers.append(len(self.history) - 1)

    def delete(self) -> None:
        if self.present is not None:
            self.history.append(("DELETED", self.present))

    def answer(self, which: int) -> None:
        if self.answers:
            position = self.answers.pop(which % len(self.answers))
            self.held.take_written(self.history[position][1])
            self.floor = max(self.floor, position)

    def event(self) -> None:
        if self.list_began is None and self.watched < len(self.history):
            kind, found = self.history[self.watched]
            self.held.take_event(found, deleted=kind == "DELETED")
            self.watched += 1

    def relist(self) -> None:
        """Take the next step of a list: ask for it, have it read, take its answer."""
        if self.list_began is None:
            self.list_began = self.held.writes_so_far()
        elif self.listed is None:
            self.listed = len(self.history)
        else:
            kind, last = self.history[self.listed - 1] if self.listed else ("DELETED", {})
            self.held.take_list("", [] if kind == "DELETED" else [last], self.list_began)
            self.watched, self.list_began, self.listed = self.listed, None, None

    def note_what_is_shown(self) -> None:
        self.departed += self.held.pop_deleted(KEY)
        held = self.held.get(KEY)
        if held:
            self.shown.add(uid_of(held))

    def position_shown(self) -> int:
        """How far into the history that what is held belongs."""
        held = self.held.get(KEY)
        if held is None:
            return self.watched
        return max(i for i, (kind, o) in enumerate(self.history) if o == held and kind != "DELETED")

    def settle(self) -> None:
        while self.answers:
            self.answer(0)
        self.finish_list()
        while self.watched < len(self.history):
            self.event()
        if self.held.has_unseen_write(0):
            self.relist()
            self.finish_list()
        self.note_what_is_shown()

    def finish_list(self) -> None:
        while self.list_began is not None:
            self.relist()


STEPS = {
    "write": lambda c, n: c.write(ours=True),
    "foreign write": lambda c, n: c.write(ours=False),
    "delete": lambda c, n: c.delete(),
    "answer": lambda c, n: c.answer(n),
    "event": lambda c, n: c.event(),
    "relist": lambda c, n: c.relist(),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 3)), max_size=40))
def test_whatever_the_order_nothing_goes_back_and_the_end_is_the_truth(
    steps: list[tuple[str, int]],
) -> None:
    cluster = Cluster()
    for name, number in steps:
        STEPS[name](cluster, number)
        cluster.note_what_is_shown()
        older = cluster.position_shown() < cluster.floor
        assert not older or cluster.held.has_unseen_write(0), "older than an answer already given"

    cluster.settle()

    assert cluster.held.get(KEY) == cluster.present
    gone = cluster.shown - ({uid_of(cluster.present)} if cluster.present else set())
    assert gone <= set(cluster.departed), "a uid that was shown and is gone was not told"
