"""Detect pods that are replaced because their serving runtime was edited, not by a Deploy.

KServe renders the pods of a `model` from its serving runtime and renders them anew when that is
edited: within one rollout, whose marker then stands on two different pod templates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from server.adapters.kserve.names import CONTAINER, ROLLOUT_ANNOTATION
from server.adapters.kserve.objects import Object, annotations_of, get_list, get_map
from server.adapters.kserve.status.components import ComponentSpec
from server.domain.rollout.facts import Problem
from server.domain.rollout.status import Component, FailureReason

# A node that fails is nobody's edit.
_OF_NODES = (FailureReason.NODE_LOST, FailureReason.EVICTED)


def serving_runtime_of(service: Object) -> str:
    """Name the serving runtime of a `model`; empty for a container of the caller's own.

    The status keeps a former model's runtime, so the spec is asked first.
    """
    if "model" not in get_map(service, "spec", "predictor"):
        return ""
    status = get_map(service, "status")
    return str(status.get("servingRuntimeName") or status.get("clusterServingRuntimeName") or "")


def edited_runtime(
    service: Object, which: ComponentSpec, newest: Object, others: Iterable[Object]
) -> str:
    """Name the serving runtime whose edit made the `newest` pod template; empty where none did.

    `others` are the templates that the same component had before.
    """
    runtime = serving_runtime_of(service) if which.component is Component.PREDICTOR else ""
    marker = annotations_of(newest).get(ROLLOUT_ANNOTATION)
    if not runtime or not marker:
        return ""
    containers = get_list(newest, "spec", "containers")
    changed = any(
        annotations_of(other).get(ROLLOUT_ANNOTATION) == marker
        and get_list(other, "spec", "containers") != containers
        for other in others
    )
    return runtime if changed else ""


def replacement(edited: str) -> str:
    """Say why the pods are replaced; empty where no edit of a serving runtime does it."""
    return f"the serving runtime {edited} was changed, which replaces the pods" if edited else ""


def attributed(problem: Problem, service: Object, which: ComponentSpec, edited: str) -> Problem:
    """The problem, with a remedy for the serving runtime where that is what is wrong.

    `edited`: the runtime whose edit made the pods; empty where a Deploy did.
    """
    failure = problem.failure
    runtime = serving_runtime_of(service) if which.component is Component.PREDICTOR else ""
    if edited and failure.reason not in _OF_NODES:
        message = f"{replacement(edited)}: {failure.message}"
        remedy = (
            f"correct the serving runtime {edited}, or name another one; what this service asks for"
            " has not changed"
        )
        return replace(problem, failure=replace(failure, message=message, remedy=remedy))
    if runtime and failure.reason is FailureReason.IMAGE_PULL and failure.container == CONTAINER:
        remedy = (
            f"the serving runtime {runtime} names the image: correct it there, or name another"
            " runtime; check that the cluster's nodes can reach and may read its registry"
        )
        return replace(problem, failure=replace(failure, remedy=remedy))
    return problem
