"""Long texts of a service stand in its Deployment, its ReplicaSets and each of its pods as well:
they are kept once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from server.adapters.kserve.objects import Object

# Shorter ones take little more than the dict's place that they stand in.
LONG = 256


def long_texts(found: Object) -> dict[str, str]:
    """The long texts of an object's annotations and spec, by themselves."""
    return {text: text for _, _, text in _long(found)}


def share_texts(found: Object, texts: dict[str, str]) -> None:
    """Put these texts in the place of equal ones in the object's annotations and spec."""
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
