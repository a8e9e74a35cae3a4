"""Keep each long text of a service once: its Deployment, ReplicaSets and pods repeat it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from server.adapters.kserve.objects import Object

# A shorter text takes little more than its place in the dict.
LONG = 256


def long_texts(found: Object) -> dict[str, str]:
    """Return the long texts of an object's annotations and spec, each by itself."""
    return {text: text for _, _, text in _long(found)}


def share_texts(found: Object, texts: dict[str, str]) -> None:
    """Replace the texts of the object's annotations and spec by equal ones of `texts`."""
    if texts:
        for holder, place, text in list(_long(found)):
            holder[place] = texts.get(text, text)


def _long(found: Object) -> Iterator[tuple[Any, Any, str]]:
    left: list[Any] = [found.get("spec"), found["metadata"].get("annotations")]
    while left:
        holder = left.pop()
        if not isinstance(holder, dict | list):
            continue
        for place, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            if isinstance(value, str):
                if len(value) >= LONG:
                    yield holder, place, value
            else:
                left.append(value)
