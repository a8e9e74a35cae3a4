"""Render the InferenceService that a Deploy applies. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from server.adapters.kserve.manifests.annotations import (
    AddedFields,
    registry_annotations,
    rollout_annotations,
)
from server.adapters.kserve.manifests.ready_timeout import timeout_annotations
from server.adapters.kserve.manifests.rollout_strategy import deployment_strategy
from server.adapters.kserve.modes import PRESENT_NAMES
from server.adapters.kserve.names import (
    API_VERSION,
    CONTAINER,
    KIND,
    MANAGED_BY_KEY,
    MANAGED_BY_VALUE,
    MODE_ANNOTATION,
    SCALING_FIELDS,
)
from server.domain.service.commands import fingerprint
from server.domain.service.inference_service import (
    InferenceServiceSpec,
    ModelPredictor,
    SecretKeyRef,
    ServiceKey,
)
from server.domain.service.preconditions import PastRequest


@dataclass(frozen=True, slots=True)
class DesiredObject:
    """The whole content of an InferenceService: a field that is not in it is removed.

    `restart` is the stamp of the last restart, `requests` the request_ids to remember. `origin`
    holds the labels with the registry's ids, and `deployment_id` names the deployment's record
    there. `deployed_by` is the user of the Deploy that made the pods, and `rollback` the text that
    marks it as a rollback. `mode` is the deployment mode
    in which it runs, by its present name, and `mode_names` are the names of the modes in the
    cluster's KServe.
    """

    key: ServiceKey
    spec: InferenceServiceSpec
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    restart: str = ""
    requests: tuple[PastRequest, ...] = ()
    added: AddedFields = field(default_factory=AddedFields)
    origin: Mapping[str, str] = field(default_factory=dict)
    deployment_id: str = ""
    deployed_by: str = ""
    rollback: str = ""
    mode: str = ""
    mode_names: Mapping[str, str] = field(default_factory=lambda: PRESENT_NAMES)


class Body(NamedTuple):
    """The metadata and the spec.predictor that a user asked for: the same for every rollout of
    them."""

    metadata: Mapping[str, Any]
    predictor: Mapping[str, Any]


def body_of(desired: DesiredObject) -> Body:
    """Render the part that fields of the rollout do not change: `restart`, `requests`, `added`,
    `deployment_id`, `deployed_by` and `rollback`."""
    asked = desired.spec.deployment_mode
    mode = {MODE_ANNOTATION: desired.mode_names.get(asked, asked)} if asked else {}
    metadata = {
        "namespace": desired.key.namespace,
        "name": desired.key.name,
        "labels": {**desired.labels, **desired.origin, MANAGED_BY_KEY: MANAGED_BY_VALUE},
        **_given(annotations={**desired.annotations, **mode}),
    }
    annotations = timeout_annotations(desired.spec.ready_timeout, desired.mode)
    return Body(metadata, {**predictor_of(desired.spec), **_given(annotations=annotations)})


def complete(body: Body, desired: DesiredObject) -> dict[str, Any]:
    """Return the object to apply, from its rendered body.

    Its rollout hash changes if and only if a field changes that reaches the pods.
    """
    predictor = with_added_fields(body.predictor, desired.added)
    reaching_pods = without_scaling(predictor)
    added = asdict(desired.added.resources)
    rollout_hash = fingerprint([reaching_pods, body.metadata, desired.restart, added])
    annotations = {
        **predictor.get("annotations", {}),
        **rollout_annotations(
            rollout_hash,
            desired.restart,
            desired.added,
            desired.requests,
            desired.deployed_by,
            desired.rollback,
        ),
        **registry_annotations(desired.spec.predictor, desired.deployment_id),
    }
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": body.metadata,
        "spec": {"predictor": {**predictor, "annotations": annotations}},
    }


def predictor_of(spec: InferenceServiceSpec) -> dict[str, Any]:
    """Render spec.predictor, without our annotations."""
    serving, resources, scaling = spec.serving, spec.resources, spec.scaling
    shared = {
        "env": _env(spec.env, spec.secret_env),
        "resources": _given(requests=dict(resources.requests), limits=dict(resources.limits)),
        "imagePullPolicy": spec.image_pull_policy,
    }
    implementation: dict[str, Any]
    if isinstance(serving, ModelPredictor):
        model = _given(
            modelFormat=_given(name=serving.format.name, version=serving.format.version),
            storageUri=serving.storage_uri,
            runtime=serving.runtime,
            protocolVersion=serving.protocol_version,
            args=list(serving.args),
            **shared,
        )
        implementation = {"model": model}
    else:
        port = {"containerPort": serving.port, "protocol": "TCP"}
        container = _given(
            name=CONTAINER,
            image=serving.image,
            command=list(serving.command),
            args=list(serving.args),
            ports=[port] if serving.port else [],
            **shared,
        )
        implementation = {"containers": [container]}
    tolerations = [
        _given(
            key=toleration.key,
            operator=toleration.operator,
            value=toleration.value,
            effect=toleration.effect,
            tolerationSeconds=toleration.toleration_seconds,
        )
        for toleration in spec.tolerations
    ]
    return implementation | _given(
        minReplicas=scaling.min_replicas,
        maxReplicas=scaling.max_replicas,
        scaleTarget=scaling.target,
        scaleMetric=scaling.metric,
        serviceAccountName=spec.service_account,
        nodeSelector=dict(spec.node_selector),
        tolerations=tolerations,
        timeout=int(spec.request_timeout.total_seconds()) if spec.request_timeout else None,
        deploymentStrategy=deployment_strategy(spec.rollout_strategy),
    )


def with_added_fields(predictor: Mapping[str, Any], added: AddedFields) -> dict[str, Any]:
    """Return the predictor with our additions in its serving container; asked values stay."""
    is_model = "model" in predictor
    serving = predictor["model"] if is_model else predictor["containers"][0]
    asked = serving.get("resources", {})
    resources = _given(
        requests={**added.resources.requests, **asked.get("requests", {})},
        limits={**added.resources.limits, **asked.get("limits", {})},
    )
    serving = {**serving, **_given(resources=resources, readinessProbe=added.probe)}
    return {**predictor, **({"model": serving} if is_model else {"containers": [serving]})}


def without_scaling(predictor: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a predictor that reach the pod template."""
    return {name: value for name, value in predictor.items() if name not in SCALING_FIELDS}


def _env(plain: Mapping[str, str], secret: Mapping[str, SecretKeyRef]) -> list[dict[str, Any]]:
    """Sort by name, secrets first: `$(NAME)` in a value sees only the variables before it."""
    variables: list[dict[str, Any]] = []
    for name, ref in sorted(secret.items()):
        reference = {"name": ref.secret, "key": ref.key}
        variables.append({"name": name, "valueFrom": {"secretKeyRef": reference}})
    for name, value in sorted(plain.items()):
        variables.append({"name": name, "value": value} if value else {"name": name})
    return variables


def _given(**fields: Any) -> dict[str, Any]:
    """Return the fields that were asked for: None and empty values were not, 0 was."""
    return {name: value for name, value in fields.items() if value or value == 0}
