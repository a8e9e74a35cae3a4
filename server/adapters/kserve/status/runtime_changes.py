"""Detect pods that are replaced because their serving runtime was edited, not by a Deploy.

KServe renders the pods of a `model` from its serving runtime, and again when the runtime is edited:
then one rollout hash is on two different pod templates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from server.adapters.kserve.names import CONTAINER, ROLLOUT_ANNOTATION
from server.adapters.kserve.objects import Object, annotations_of, get_list
from server.adapters.kserve.status.components import ComponentSpec
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.parsed_service import ParsedService, parse_service
from server.domain.rollout.facts import Problem
from server.domain.rollout.status import Component, FailureReason

_NODE_REASONS = (FailureReason.NODE_LOST, FailureReason.EVICTED)


def edited_runtime(
    component: ComponentSpec, service: ParsedService, newest: Object, others: Iterable[Object]
) -> str:
    """Return the serving runtime whose edit made the `newest` pod template; empty if none did.

    `others` are the earlier templates of the component.
    """
    runtime = service.serving_runtime if component.kind is Component.PREDICTOR else ""
    rollout_hash = annotations_of(newest).get(ROLLOUT_ANNOTATION)
    if not runtime or not rollout_hash:
        return ""
    containers = get_list(newest, "spec", "containers")
    changed = any(
        annotations_of(other).get(ROLLOUT_ANNOTATION) == rollout_hash
        and get_list(other, "spec", "containers") != containers
        for other in others
    )
    return runtime if changed else ""


def replacement_message(edited: str) -> str:
    """Say why the pods are replaced; empty unless a serving runtime was edited."""
    return f"the serving runtime {edited} was changed, which replaces the pods" if edited else ""


def with_runtime_remedy(
    problem: Problem, component: ComponentSpec, observed: ObservedObjects, edited: str
) -> Problem:
    """Return the problem with a remedy for the serving runtime, if that is the cause.

    `edited`: the runtime whose edit made the pods; empty if a Deploy did.
    """
    failure = problem.failure
    if edited and failure.reason not in _NODE_REASONS:
        message = f"{replacement_message(edited)}: {failure.message}"
        remedy = (
            f"correct the serving runtime {edited}, or name another one; the spec of this service"
            " has not changed"
        )
        return replace(problem, failure=replace(failure, message=message, remedy=remedy))
    if failure.reason is FailureReason.IMAGE_PULL and failure.container == CONTAINER:
        is_predictor = component.kind is Component.PREDICTOR
        runtime = parse_service(observed).serving_runtime if is_predictor else ""
        if runtime:
            remedy = (
                f"the serving runtime {runtime} names the image: correct it there, or name another"
                " runtime; check that the cluster's nodes can reach and may read its registry"
            )
            return replace(problem, failure=replace(failure, remedy=remedy))
    return problem
