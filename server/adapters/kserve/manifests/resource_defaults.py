"""What must be written beside the resources that were asked for.

A limit below the caller's request, or a request above the caller's limit, makes pods that
Kubernetes refuses for ever. So KServe's defaults and those of a serving runtime give way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from server.domain.kubernetes.quantities import value
from server.domain.service.inference_service import Resources
from server.domain.service.resource_validation import fits

SHIPPED = Resources({"cpu": "1", "memory": "2Gi"}, {"cpu": "1", "memory": "2Gi"})
"""As KServe ships them in its ConfigMap."""


def beside_container(asked: Resources, defaults: Resources) -> Resources:
    """What to write beside `asked` for a container of the caller's own: all defaults.

    KServe's webhook would put them into the list of containers, which has one owner as a whole, so
    that nothing could tell them from what was asked.
    """
    return Resources(
        _missing(asked.requests, defaults.requests, asked.limits, min),
        _missing(asked.limits, defaults.limits, asked.requests, max),
    )


def beside_model(asked: Resources, own: Resources) -> Resources:
    """What to write beside `asked` for a container of a serving runtime, which has its `own`.

    KServe merges both by name and adds no default. So only that is added without which they would
    be invalid together: where a request asked for does not fit the runtime's limit, that limit, and
    where the runtime's request does not fit a limit asked for, that request.
    """
    return Resources(
        {
            name: limit
            for name, limit in sorted(asked.limits.items())
            if name not in asked.requests and not fits(name, own.requests.get(name), limit)
        },
        {
            name: request
            for name, request in sorted(asked.requests.items())
            if name in own.limits and not fits(name, request, {**own.limits, **asked.limits}[name])
        },
    )


def besides_still(noted: Resources, asked: Resources) -> Resources:
    """What of the resources that were added before is still beside what is asked for."""
    return Resources(
        {name: text for name, text in noted.requests.items() if name not in asked.requests},
        {name: text for name, text in noted.limits.items() if name not in asked.limits},
    )


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
