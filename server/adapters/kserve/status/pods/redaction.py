"""Say what may be shown of text in which KServe and Knative repeat what a container wrote."""

from __future__ import annotations

import re

from server.adapters.kserve.objects import Object, get_list, get_map
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.domain.rollout.container_output import OutputGate

_COMPONENTS = ("predictor", "transformer", "explainer")
# So Knative begins what it repeats of a pod: what its container wrote when it ended, or why that
# cannot be started, which may quote the command with the values of its variables in it.
_REPEATED = re.compile("Container failed with: | failed with message: ")


def gate_for_service(observed: ObservedObjects) -> OutputGate:
    """Return the gate for text that repeats what some container of the service wrote.

    Read from what pods are made from: of these there may be thousands.
    """
    spec = get_map(observed.service, "spec")
    asked = [_pod_spec(get_map(spec, kind)) for kind in _COMPONENTS]
    made = [get_map(revision, "spec") for revision in observed.revisions]
    made += [get_map(d, "spec", "template", "spec") for d in observed.deployments]
    return observed.output_policy.gate_for_templates(observed.service, [*asked, *made])


def redacted_message(output: OutputGate, text: str) -> str:
    """Return what KServe or Knative says, with what it repeats of a container as that may be
    shown."""
    repeated = _REPEATED.search(text)
    if repeated is None:
        return output.masked(text)
    return output.masked(text[: repeated.end()]) + output.shown(text[repeated.end() :])


def with_redacted_conditions(observed: ObservedObjects) -> Object:
    """Return the InferenceService with the messages of its conditions as they may be shown."""
    status = get_map(observed.service, "status")
    conditions = get_list(status, "conditions")
    if not any(condition.get("message") for condition in conditions):
        return observed.service
    output = gate_for_service(observed)
    shown = [
        {**condition, "message": redacted_message(output, str(condition.get("message") or ""))}
        for condition in conditions
    ]
    return {**observed.service, "status": {**status, "conditions": shown}}


def _pod_spec(component: Object) -> Object:
    """What the spec of a component says of its pods: a model is one container more."""
    model = get_map(component, "model")
    return {
        **component,
        "containers": [*([model] if model else []), *get_list(component, "containers")],
    }
