"""Pages of the registry's lists, and their page tokens."""

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
class ItemPage(Generic[Item]):
    """A page. `token_after(n)` is the token for the items after the first n; empty at the end."""

    items: Sequence[Item]
    token_after: Callable[[int], str]


class PagedList:
    """A list and its filters, which page tokens are bound to."""

    def __init__(self, *filters: object) -> None:
        self._binding = fingerprint(filters)

    def start(self, page_token: str) -> int | None:
        """Return the position of a page token; None for the beginning. Raises PageTokenInvalid."""
        if not page_token:
            return None
        match decode_token(page_token):
            case [self._binding, int(position)] if position in _POSITIONS:
                return position
        raise PageTokenInvalid("page_token must be from a list with the same filters")

    def with_tokens(self, page: Page[Item]) -> ItemPage[Item]:
        """Return a page with its tokens."""

        def token_after(count: int) -> str:
            more = count < len(page.positions)
            return encode_token([self._binding, page.positions[count]]) if more else ""

        return ItemPage(page.items, token_after)
