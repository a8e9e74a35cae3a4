"""Reading what others wrote, to a bound."""

from __future__ import annotations

import aiohttp


class TooLarge(ValueError):
    """There is more of it than is read."""


async def read_at_most(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Read a whole answer. Raises TooLarge beyond `most` bytes, and what aiohttp raises."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most:
            raise TooLarge(f"more than {most} bytes")
    return bytes(body)
