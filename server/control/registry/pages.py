"""Pages of a listing, and the tokens that lead from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from server.domain.errors import PageTokenInvalid
from server.domain.opaque_tokens import decode_token, encode_token
from server.domain.service.commands import fingerprint
from server.ports import Page

Item = TypeVar("Item")

_POSITIONS = range(2**63)


@dataclass(frozen=True, slots=True)
class Listed(Generic[Item]):
    """One page. `token_after(n)` leads on from its first n items; empty: that is the end."""

    items: Sequence[Item]
    token_after: Callable[[int], str]


class Listing:
    """A listing that page tokens belong to: they are refused for any other."""

    def __init__(self, *what: object) -> None:
        self._binding = fingerprint(what)

    def start(self, page_token: str) -> int | None:
        """The position that the token names; None: the beginning. Raises PageTokenInvalid."""
        if not page_token:
            return None
        match decode_token(page_token):
            case [self._binding, int(position)] if position in _POSITIONS:
                return position
        raise PageTokenInvalid("page_token is not from an earlier page of this same listing")

    def listed(self, page: Page[Item]) -> Listed[Item]:
        """The page with its tokens."""

        def token_after(count: int) -> str:
            more = count < len(page.positions)
            return encode_token([self._binding, page.positions[count]]) if more else ""

        return Listed(page.items, token_after)
