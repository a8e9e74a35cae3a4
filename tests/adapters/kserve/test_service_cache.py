"""What is held of the services, when the watch and the answers to writes tell it out of step."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.adapters.kserve.informers import service_cache
from server.adapters.kserve.informers.service_cache import ServiceCache
from server.adapters.kserve.objects import generation_of, uid_of
from server.domain.service.inference_service import ServiceKey

KEY = ServiceKey("team-a", "iris")


def an_object(
    uid: str = "u1", generation: int = 1, made: int = 0, name: str = KEY.name
) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": KEY.namespace,
            "name": name,
            "uid": uid,
            "generation": generation,
            "creationTimestamp": f"2026-01-01T00:{made // 60:02}:{made % 60:02}Z",
        }
    }


def test_an_event_older_than_a_writes_answer_is_dropped() -> None:
    held = ServiceCache()
    held.take_changed(an_object(generation=1))
    held.take_written(an_object(generation=2))

    assert held.take_changed(an_object(generation=1)) == set()
    assert generation_of(held.get(KEY) or {}) == 2


def test_an_answer_that_the_watch_has_overtaken_is_not_held() -> None:
    held = ServiceCache()
    held.take_changed(an_object(generation=3))

    assert held.take_written(an_object(generation=2)) == set()
    assert generation_of(held.get(KEY) or {}) == 3


def test_an_answer_about_a_service_that_is_already_gone_is_not_held() -> None:
    held = ServiceCache()
    held.take_changed(an_object())
    held.take_deleted(an_object("u1"))

    assert held.take_written(an_object(generation=2)) == set()
    assert held.get(KEY) is None


def test_an_event_about_a_service_whose_deletion_was_answered_is_dropped() -> None:
    held = ServiceCache()
    held.take_changed(an_object())

    assert held.take_deleted(an_object("u1")) == {KEY}
    assert held.take_changed(an_object(generation=2)) == set()
    assert held.take_deleted(an_object("u1")) == set()
    assert held.get(KEY) is None


def test_a_recreation_holds_the_new_uid_alone() -> None:
    held = ServiceCache()
    held.take_changed(an_object("u1"))
    held.take_deleted(an_object("u1"))
    held.take_changed(an_object("u2"))

    assert uid_of(held.get(KEY) or {}) == "u2"
    assert (held.key_of("u1"), held.key_of("u2")) == (None, KEY)


def test_a_service_deleted_and_recreated_while_away_is_known_by_its_uid_in_the_next_list() -> None:
    ends: list[str] = []
    held = ServiceCache(lambda: ends.append("u1"))
    held.take_changed(an_object("u1", generation=7))

    held.take_list("", [an_object("u2", generation=1)], held.writes_so_far())

    assert ends == ["u1"]
    assert uid_of(held.get(KEY) or {}) == "u2"
    assert held.take_changed(an_object("u1", generation=8)) == set()


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
    held.take_changed(an_object())

    held.take_list("team-b", [], held.writes_so_far())

    assert held.get(KEY) is not None


def test_what_is_kept_of_deleted_services_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_cache, "MAX_TOMBSTONES", 10)
    held = ServiceCache()
    for number in range(100):
        gone = an_object(f"u{number}", name=f"iris-{number}")
        held.take_changed(gone)
        held.take_deleted(gone)
    kept = [len(value) for value in vars(held).values() if isinstance(value, Sized)]
    assert max(kept) <= 10


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
    shown: dict[str, int] = field(default_factory=dict)
    shown_last: str = ""

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
            changed = {**meta, "generation": meta["generation"] + 1}
            self.history.append(("MODIFIED", {"metadata": changed}))
        if ours:
            self.answers.append(len(self.history) - 1)

    def mark_deleted(self, *, ours: bool) -> None:
        """Begin a deletion that a finalizer holds."""
        if self.present is not None and "deletionTimestamp" not in self.present["metadata"]:
            meta = {**self.present["metadata"], "deletionTimestamp": "2026-01-02T00:00:00Z"}
            meta["generation"] += 1
            self.history.append(("MODIFIED", {"metadata": meta}))
            if ours:
                self.answers.append(len(self.history) - 1)

    def delete(self, *, ours: bool) -> None:
        if self.present is not None:
            self.history.append(("DELETED", self.present))
            if ours:
                self.answers.append(len(self.history) - 1)

    def answer(self, which: int) -> None:
        if self.answers:
            position = self.answers.pop(which % len(self.answers))
            kind, found = self.history[position]
            if kind == "DELETED":
                self.held.take_deleted(found)
            else:
                self.held.take_written(found)
            self.floor = max(self.floor, position)

    def event(self) -> None:
        if self.list_began is None and self.watched < len(self.history):
            kind, found = self.history[self.watched]
            if kind == "DELETED":
                self.held.take_deleted(found)
            else:
                self.held.take_changed(found)
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

    def came_back(self) -> bool:
        """Whether what is held now was held before, and something newer after it."""
        held = self.held.get(KEY)
        uid, before = (uid_of(held) if held else ""), self.shown_last
        self.shown_last = uid
        if held is None:
            return False
        latest, self.shown[uid] = self.shown.get(uid, 0), generation_of(held)
        return generation_of(held) < latest or (bool(latest) and before != uid)

    def position_shown(self) -> int:
        """How far into the history that what is held belongs."""
        held = self.held.get(KEY)
        if held is None:
            ends = [i for i, (kind, _) in enumerate(self.history) if kind == "DELETED"]
            return max([self.watched, *ends])
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

    def finish_list(self) -> None:
        while self.list_began is not None:
            self.relist()


STEPS = {
    "write": lambda c, n: c.write(ours=True),
    "foreign write": lambda c, n: c.write(ours=False),
    "mark deleted": lambda c, n: c.mark_deleted(ours=True),
    "foreign mark": lambda c, n: c.mark_deleted(ours=False),
    "delete": lambda c, n: c.delete(ours=True),
    "foreign delete": lambda c, n: c.delete(ours=False),
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
        assert not cluster.came_back(), "a uid came back, or a generation"
        older = cluster.position_shown() < cluster.floor
        assert not older or cluster.held.has_unseen_write(0), "older than an answer already given"

    cluster.settle()

    assert cluster.held.get(KEY) == cluster.present
