"""Relate a component's rollout strategy to its Deployment and to pods that no node takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from server.adapters.kserve.objects import get_map
from server.adapters.kserve.status.applied_template import contains
from server.adapters.kserve.status.components import ComponentSpec, ParsedDeployment, Workload
from server.domain.rollout.facts import Problem
from server.domain.rollout.failures import FAILURES
from server.domain.rollout.status import Component, FailureReason

_RECREATE = "Recreate"
_REMEDY = (
    f"{FAILURES[FailureReason.UNSCHEDULABLE].remedy}; or set spec.rollout_strategy.type to"
    " TYPE_RECREATE, so that the older pods make room first, and nothing serves meanwhile"
)


def has_strategy(deployment: ParsedDeployment, component: ComponentSpec) -> bool:
    """Return whether the Deployment has the strategy that the spec sets, if it sets one.

    It decides what becomes of pods that wait for room, so a rollout that changes nothing else is
    not applied before.
    """
    desired = get_map(component.spec, "deploymentStrategy")
    return contains(get_map(deployment.obj, "spec", "strategy"), desired)


def with_strategies(
    problems: Iterable[Problem],
    component: ComponentSpec,
    workloads: Sequence[Workload],
    written_at: datetime,
) -> Iterator[Problem]:
    """Yield the problems, those of pods that no node takes in view of the rollout strategy.

    Where the older pods end first, a pod that had waited beside them before the Deploy has its time
    again. Where they serve on, the remedy names the other strategy.
    """
    recreates = all(_strategy_type(w.deployment) == _RECREATE for w in workloads)
    beside = any(p.is_ready and p not in w.new_pods for w in workloads for p in w.pods)
    for problem in problems:
        if problem.failure.reason is not FailureReason.UNSCHEDULABLE:
            yield problem
        elif recreates:
            yield replace(problem, since=max(problem.since, written_at))
        elif beside and component.kind is Component.PREDICTOR:
            yield replace(problem, failure=replace(problem.failure, remedy=_REMEDY))
        else:
            yield problem


def _strategy_type(deployment: ParsedDeployment) -> str:
    return str(get_map(deployment.obj, "spec", "strategy").get("type", ""))
