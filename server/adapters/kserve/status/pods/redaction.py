"""Redact messages in which KServe and Knative repeat the text of a container."""

from __future__ import annotations

import re

from server.adapters.kserve.objects import Object, get_list, get_map
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.pods.output_policy import ReadableSecrets, template_secrets
from server.domain.rollout.container_output import OutputGate

_COMPONENTS = ("predictor", "transformer", "explainer")
# Knative puts this before a container's termination message, or before why it cannot be started,
# which may quote the command with the values of its variables.
_REPEATED = re.compile("Container failed with: | failed with message: ")


def gate_for_service(observed: ObservedObjects) -> OutputGate:
    """Return the gate for text that any container of the service may have written.

    It is made from pod templates, since there may be thousands of pods.
    """
    # Not cached: it holds every variable once more, and is needed only where there is text.
    secrets = _service_secrets(observed.service, observed.revisions, observed.deployments)
    return observed.output_policy.gate_for(secrets)


def redacted_message(output: OutputGate, message: str) -> tuple[str, str]:
    """Return a message of KServe or Knative, and a container's text at its end, as it may be
    shown."""
    repeated = _REPEATED.search(message)
    if repeated is None:
        return output.masked(message), ""
    end = repeated.end()
    return output.masked(message[:end]), output.shown(message[end:])


def _service_secrets(
    service: Object, revisions: tuple[Object, ...], deployments: tuple[Object, ...]
) -> ReadableSecrets:
    spec = get_map(service, "spec")
    specs = [_pod_spec(get_map(spec, component)) for component in _COMPONENTS]
    specs += [get_map(revision, "spec") for revision in revisions]
    specs += [get_map(d, "spec", "template", "spec") for d in deployments]
    return template_secrets(service, specs)


def _pod_spec(component: Object) -> Object:
    """Return the pod spec of a component, with its `model` as one more container."""
    model = get_map(component, "model")
    return {
        **component,
        "containers": [*([model] if model else []), *get_list(component, "containers")],
    }
