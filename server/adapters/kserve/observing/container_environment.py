"""Read the environment of a service's containers, which decides what is shown of their output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from server.adapters.kserve.objects import Object, items, part
from server.adapters.kserve.observing.observed import Observed
from server.domain.container_output import OutputGate, gate_for

_COMPONENTS = ("predictor", "transformer", "explainer")


def gate_of_pod(pod: Object) -> OutputGate:
    """Return the gate for what the containers of a pod, or of a Revision, wrote."""
    return gate_for(_variables(_containers(part(pod, "spec"))))


def gate_of_service(observed: Observed) -> OutputGate:
    """Return the gate for text that repeats what some container of the service wrote.

    Read from what pods are made from: of these there may be thousands.
    """
    spec = part(observed.service, "spec")
    asked = [part(spec, kind) for kind in _COMPONENTS]
    made = [part(revision, "spec") for revision in observed.revisions]
    made += [part(d, "spec", "template", "spec") for d in observed.deployments]
    models = [part(component, "model") for component in asked]
    containers = [c for pod in (*asked, *made) for c in _containers(pod)]
    return gate_for(_variables([*models, *containers]))


def with_shown_conditions(observed: Observed) -> Object:
    """Return the InferenceService with the messages of its conditions as they may be shown."""
    status, output = part(observed.service, "status"), gate_of_service(observed)
    conditions = [
        {**condition, "message": output.shown(str(condition.get("message") or ""))}
        for condition in items(status, "conditions")
    ]
    return {**observed.service, "status": {**status, "conditions": conditions}}


def _containers(pod_spec: Object) -> Iterator[Object]:
    yield from items(pod_spec, "initContainers")
    yield from items(pod_spec, "containers")


def _variables(containers: Iterable[Object]) -> Iterator[tuple[str, str]]:
    for container in containers:
        for variable in items(container, "env"):
            yield str(variable.get("name", "")), str(variable.get("value") or "")
