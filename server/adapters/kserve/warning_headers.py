"""Read the Warning headers of the API server's answers: `299 - "text"`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

MOST_WARNINGS = 16
# The API server cuts each text to 256 characters once all have more than 4096.
LONGEST_WARNING = 4096
_WARNING = re.compile(r'299 [^ ]+ "((?:[^"\\]|\\.)*)"')


def warning_texts(headers: Iterable[str]) -> Iterator[str]:
    """Yield the texts of the first headers, each once, without control characters."""
    found = (text for header in headers for text in _WARNING.findall(header))
    yield from islice(dict.fromkeys(map(_text, islice(found, 2 * MOST_WARNINGS))), MOST_WARNINGS)


def _text(quoted: str) -> str:
    text = re.sub(r"\\(.)", r"\1", quoted[:LONGEST_WARNING])
    return "".join(c if c.isprintable() else " " for c in text)
