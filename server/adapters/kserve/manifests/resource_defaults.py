"""The CPU and memory that KServe adds to what was asked, and what must be written beside it.

A default limit below the caller's request, or a default request above the caller's limit, makes
pods that Kubernetes refuses for ever, so both give way to what was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from server.domain.inference_service import Resources
from server.domain.quantities import value

SHIPPED = Resources({"cpu": "1", "memory": "2Gi"}, {"cpu": "1", "memory": "2Gi"})
"""As KServe ships them, in its ConfigMap and in the serving runtimes."""


def beside_container(asked: Resources, defaults: Resources) -> Resources:
    """What to write beside `asked` for a container of the caller's own: all defaults.

    KServe's webhook would put them into the list of containers, which has one owner as a whole, so
    that nothing could tell them from what was asked.
    """
    return Resources(
        _missing(asked.requests, defaults.requests, asked.limits, min),
        _missing(asked.limits, defaults.limits, asked.requests, max),
    )


def beside_model(asked: Resources, defaults: Resources) -> Resources:
    """What to write beside `asked` for a runtime's container: only what differs from its own."""
    requests = {**SHIPPED.requests, **defaults.requests}
    limits = {**SHIPPED.limits, **defaults.limits}
    beside = beside_container(asked, Resources(requests, limits))
    return Resources(_other(beside.requests, requests), _other(beside.limits, limits))


def _missing(
    given: Mapping[str, str],
    defaults: Mapping[str, str],
    opposite: Mapping[str, str],
    bounded: Callable[..., str],
) -> dict[str, str]:
    return {
        name: bounded(default, opposite.get(name, default), key=value)
        for name, default in sorted(defaults.items())
        if name not in given
    }


def _other(quantities: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in quantities.items() if text != defaults[name]}
