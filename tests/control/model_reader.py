"""The reader of a watch that checks, message by message, that it is sent a history."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple


class Message(NamedTuple):
    """A message of a watch, whatever it came by.

    `type`: by its name. `key`, `uid`: of the service, if there is one. `order`: of two states of a
    service the later one never has the lower one. `state`: differs from state to state.
    """

    type: str
    token: str
    key: tuple[str, str] = ("", "")
    uid: str = ""
    order: int = 0
    state: Hashable = None


@dataclass
class ModelReader:
    """What a caller knows after each message, and the rules that each message has to keep.

    `watches_one`: the watch has one service; it resumes on any replica. `states_return`: a service
    may get a state again that it had, which a watch of many sends again. `token` is that of the
    last message: the next stream resumes from it.
    """

    watches_one: bool
    states_return: bool = False
    token: str = ""
    known: dict[tuple[str, str], Message] = field(default_factory=dict)
    _shown: dict[tuple[str, str], int] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)
    # The services since the stream began anew; None once it is synced.
    _opening: set[tuple[str, str]] | None = None

    def open(self) -> None:
        """A stream begins, from `token` if there is one."""
        self._opening = None
        if not self.token:
            self._begin_anew()

    def take(self, message: Message) -> None:
        """Apply a message."""
        self.token = message.token or self.token
        match message.type:
            case "RESET":
                assert not self.watches_one, "a watch of one service began anew"
                self._begin_anew()
            case "SYNCED":
                self._end_opening()
            case "SNAPSHOT":
                assert self._opening is not None, "a snapshot in the middle of a stream"
                self._learn(message)
            case "CHANGED":
                self._learn(message)
            case "DELETED" | "LEFT":
                self._drop(message)
            case other:
                assert other == "HEARTBEAT", other

    def _begin_anew(self) -> None:
        # Another replica may be behind, which a stream that begins anew does not exclude.
        self._opening = set()
        self._shown.clear()
        self._ended.clear()

    def _learn(self, message: Message) -> None:
        key = message.key
        assert message.uid not in self._ended, "a service that was deleted came back"
        before = self.known.get(key)
        shown = self._shown.get(key, -1)
        assert message.order >= shown, f"back in time, from state {shown} to {message.order}"
        if self._opening is None and before:
            assert before.uid == message.uid, "the end of the service before it was not sent"
            may_repeat = self.states_return and not self.watches_one
            assert may_repeat or before.state != message.state, "a state was sent twice"
        self._shown[key] = message.order
        self.known[key] = message
        if self._opening is not None:
            self._opening.add(key)

    def _drop(self, message: Message) -> None:
        held = self.known.get(message.key)
        assert held, f"{message.type} of a service that the reader does not have"
        assert held.uid == message.uid, f"{message.type} of another service"
        if message.type == "DELETED":
            self._ended.add(message.uid)
        del self.known[message.key]

    def _end_opening(self) -> None:
        if self._opening is not None:
            self.known = {key: m for key, m in self.known.items() if key in self._opening}
        self._opening = None
