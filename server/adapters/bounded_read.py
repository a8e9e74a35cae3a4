"""Reads HTTP answers up to a maximum size."""

from __future__ import annotations

import aiohttp


class TooLarge(ValueError):
    """The answer is larger than the maximum."""


async def read_at_most(response: aiohttp.ClientResponse, most: int) -> bytearray:
    """Read a whole answer. Raises TooLarge beyond `most` bytes, and aiohttp's errors.

    The answer is not copied to bytes, which would take its size again.
    """
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most:
            raise TooLarge(f"more than {most} bytes")
    return body
