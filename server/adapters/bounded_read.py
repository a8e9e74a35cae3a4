"""Reads HTTP answers up to a maximum size."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp


class TooLarge(ValueError):
    """The answer is larger than the maximum."""


async def chunks_at_most(response: aiohttp.ClientResponse, most: int) -> AsyncIterator[bytes]:
    """Yield an answer as it arrives. Raises TooLarge beyond `most` bytes, and aiohttp's errors."""
    read = 0
    async for chunk in response.content.iter_any():
        read += len(chunk)
        if read > most:
            raise TooLarge(f"more than {most} bytes")
        yield chunk


async def read_at_most(response: aiohttp.ClientResponse, most: int) -> bytearray:
    """Read a whole answer. Raises TooLarge beyond `most` bytes, and aiohttp's errors.

    The answer is not copied to bytes, which would take its size again.
    """
    body = bytearray()
    async for chunk in chunks_at_most(response, most):
        body += chunk
    return body
