"""Compute the resources that are written beside those of the spec.

Kubernetes refuses pods whose limit is below their request. So KServe's defaults and those of a
serving runtime give way to the values of the spec.
"""

from __future__ import annotations

from collections.abc import Mapping

from server.domain.kubernetes.quantities import value
from server.domain.service.inference_service import Resources
from server.domain.service.resource_validation import fits

KSERVE_DEFAULTS = Resources({"cpu": "1", "memory": "2Gi"}, {"cpu": "1", "memory": "2Gi"})
"""As KServe ships them in its ConfigMap."""


def container_additions(asked: Resources, defaults: Resources) -> Resources:
    """Return the resources to write beside `asked` in a custom container: KServe's defaults.

    KServe's webhook would write them into the list of containers. That list has one owner as a
    whole, so managedFields could not distinguish them from the spec's.
    """
    return Resources(
        {
            name: min(default, limit, key=value) if (limit := asked.limits.get(name)) else default
            for name, default in sorted(defaults.requests.items())
            if name not in asked.requests
        },
        {
            name: max(default, least, key=value) if (least := asked.requests.get(name)) else default
            for name, default in sorted(defaults.limits.items())
            if name not in asked.limits
        },
    )


def model_additions(asked: Resources, own: Resources) -> Resources:
    """Return the resources to write beside `asked` for a model, whose runtime has its `own`.

    KServe merges both by name and adds no default. So only those are added without which the merged
    ones would be invalid: the request as the limit where it exceeds the runtime's limit, and the
    limit as the request where the runtime's request exceeds it.
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


def still_added(added: Mapping[str, str], asked: Mapping[str, str]) -> dict[str, str]:
    """Return the quantities that were added before and are not asked for now."""
    return {name: text for name, text in added.items() if name not in asked}
