"""Render a rollout strategy as the deploymentStrategy of KServe, and parse it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.domain.service.inference_service import RECREATE, ROLLING, RolloutStrategy

_TYPES: Mapping[str, str] = {ROLLING: "RollingUpdate", RECREATE: "Recreate"}
# Kubernetes takes a strategy without a type as RollingUpdate.
_PARSED = {kind: name for name, kind in _TYPES.items()} | {"": ROLLING}


def deployment_strategy(strategy: RolloutStrategy | None) -> dict[str, Any]:
    """Return KServe's deploymentStrategy; empty for none."""
    if strategy is None:
        return {}
    limits = {"maxSurge": strategy.max_surge, "maxUnavailable": strategy.max_unavailable}
    rolling = {name: _number_or_percent(text) for name, text in limits.items() if text}
    kind = _TYPES.get(strategy.type, strategy.type)
    return {"type": kind, **({"rollingUpdate": rolling} if rolling else {})}


def parse_strategy(strategy: Mapping[str, Any]) -> RolloutStrategy | None:
    """Return the strategy; None where there is none, or one that the API does not have."""
    name = _PARSED.get(strategy.get("type") or "")
    if not strategy or name is None:
        return None
    rolling = strategy.get("rollingUpdate") or {}
    surge, unavailable = (rolling.get(key, "") for key in ("maxSurge", "maxUnavailable"))
    return RolloutStrategy(name, str(surge), str(unavailable))


def _number_or_percent(text: str) -> int | str:
    return int(text) if text.isdecimal() else text
