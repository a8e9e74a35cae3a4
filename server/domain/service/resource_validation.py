"""Validate resources: names, quantities, and requests against limits."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from server.domain.errors import FieldViolation
from server.domain.kubernetes.names import (
    Count,
    count_violations,
    escaped,
    field_path,
    qualified_name_problem,
    violation_at,
)
from server.domain.kubernetes.quantities import value
from server.domain.service.inference_service import Resources

MOST_RESOURCES = 32
_STANDARD = ("cpu", "memory", "ephemeral-storage")
_HUGE_PAGES = "hugepages-"


def resource_violations(resources: Resources) -> Iterator[FieldViolation]:
    """Find violations that Kubernetes would only refuse when it creates the pods."""
    kinds = {
        "spec.resources.requests": resources.requests,
        "spec.resources.limits": resources.limits,
    }
    yield from count_violations(Count(p, len(q), MOST_RESOURCES) for p, q in kinds.items())
    for path, quantities in kinds.items():
        for name, text in quantities.items():
            problem = _name_problem(name) or _amount_problem(name, text)
            yield from violation_at(field_path(path, name), problem)
    for name, text in resources.requests.items():
        problem = _request_problem(name, _amount(text), _amount(resources.limits.get(name)))
        yield from violation_at(field_path("spec.resources.requests", name), problem)


def _name_problem(name: str) -> str | None:
    if name in _STANDARD or (name.startswith(_HUGE_PAGES) and "/" not in name):
        return qualified_name_problem(name)
    if "/" not in name or name.startswith("requests."):
        return "must be cpu, memory, ephemeral-storage, or a device such as vendor.com/device"
    return qualified_name_problem(name)


def _amount_problem(name: str, text: str) -> str | None:
    try:
        amount = value(text)
    except ValueError as e:
        return f"{e}, got {escaped(text)}"
    if amount < 0:
        return f"must not be negative, got {text}"
    return f"must be a whole number, got {text}" if _is_device(name) and amount % 1 else None


def _request_problem(name: str, request: Decimal | None, limit: Decimal | None) -> str | None:
    if request is None:
        return None
    if (_is_device(name) or name.startswith(_HUGE_PAGES)) and request != limit:
        return "must be equal to its limit: devices and huge pages are not shared"
    return "must not be above its limit" if limit is not None and request > limit else None


def fits(name: str, request: str | None, limit: str | None) -> bool:
    """Report whether a container may have this request and limit of a resource; None: not set."""
    if request is None or limit is None:
        return True
    return _request_problem(name, _amount(request), _amount(limit)) is None


def _is_device(name: str) -> bool:
    return "/" in name and "kubernetes.io/" not in name


def _amount(text: str | None) -> Decimal | None:
    """Return the value, or None if there is none to compare."""
    try:
        return value(text) if text is not None else None
    except ValueError:
        return None
