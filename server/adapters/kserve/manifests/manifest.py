"""From what was asked to the InferenceService that is applied: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from server.adapters.kserve.manifests.annotations import FilledIn, riders_of
from server.adapters.kserve.manifests.registry_annotations import registry_riders_of
from server.adapters.kserve.manifests.resource_defaults import beside_container
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
    ContainerPredictor,
    InferenceServiceSpec,
    ModelPredictor,
    Resources,
    Scaling,
    SecretKeyRef,
    ServiceKey,
    Toleration,
)
from server.domain.service.preconditions import PastRequest


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be written, whole: what is not in it goes away.

    `restart` is the stamp of the last restart, `requests` the request_ids to remember, `probe` the
    serving container's readiness probe (None: KServe's own), `beside` the resources to write beside
    those asked for of a model. `origin` are the labels that say where in the registry it comes
    from, `deployment_id` names the deployment's record there. `mode_names`: KServe's names of the
    deployment modes.
    """

    key: ServiceKey
    spec: InferenceServiceSpec
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    restart: str = ""
    requests: tuple[PastRequest, ...] = ()
    probe: Mapping[str, Any] | None = None
    beside: Resources = field(default_factory=Resources)
    origin: Mapping[str, str] = field(default_factory=dict)
    deployment_id: str = ""
    mode_names: Mapping[str, str] = field(default_factory=lambda: PRESENT_NAMES)


def manifest_of(wish: Wish, defaults: Resources) -> dict[str, Any]:
    """The object to apply. `defaults` are the resources that this cluster's KServe adds to a
    container.

    The marker in it changes if and only if something changes that reaches the pods.
    """
    spec = wish.spec
    of_model = isinstance(spec.serving, ModelPredictor)
    beside = wish.beside if of_model else beside_container(spec.resources, defaults)
    filled_in = FilledIn(beside, wish.probe)
    predictor = predictor_of(spec, filled_in)
    metadata = _metadata(wish)
    marker = fingerprint(
        [without_scaling(predictor), metadata, wish.restart, asdict(filled_in.resources)],
    )
    riders = {
        **riders_of(marker, wish.restart, filled_in, wish.requests),
        **registry_riders_of(spec.predictor, wish.deployment_id),
    }
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": metadata,
        "spec": {"predictor": {**predictor, "annotations": riders}},
    }


def predictor_of(spec: InferenceServiceSpec, filled_in: FilledIn) -> dict[str, Any]:
    """spec.predictor, without what rides on it."""
    serving = _present(
        env=_env(spec.env, spec.secret_env),
        resources=_resources(spec.resources, filled_in.resources),
        imagePullPolicy=spec.image_pull_policy,
        readinessProbe=filled_in.probe,
    )
    return {
        **_implementation(spec.serving, serving),
        **_scaling(spec.scaling),
        **_present(
            serviceAccountName=spec.service_account,
            nodeSelector=dict(spec.node_selector),
            tolerations=[_toleration(t) for t in spec.tolerations],
            timeout=int(spec.request_timeout.total_seconds()) if spec.request_timeout else None,
        ),
    }


def without_scaling(predictor: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a predictor that reach the pod template."""
    return {name: value for name, value in predictor.items() if name not in SCALING_FIELDS}


def _metadata(wish: Wish) -> dict[str, Any]:
    asked = wish.spec.deployment_mode
    mode = _present(**{MODE_ANNOTATION: wish.mode_names.get(asked, asked)})
    return {
        "namespace": wish.key.namespace,
        "name": wish.key.name,
        "labels": {**wish.labels, **wish.origin, MANAGED_BY_KEY: MANAGED_BY_VALUE},
        **_present(annotations={**wish.annotations, **mode}),
    }


def _implementation(
    predictor: ContainerPredictor | ModelPredictor, serving: Mapping[str, Any]
) -> dict[str, Any]:
    if isinstance(predictor, ModelPredictor):
        return {"model": {**_model(predictor), **serving}}
    return {"containers": [{**_container(predictor), **serving}]}


def _model(model: ModelPredictor) -> dict[str, Any]:
    return _present(
        modelFormat=_present(name=model.format.name, version=model.format.version),
        storageUri=model.storage_uri,
        runtime=model.runtime,
        protocolVersion=model.protocol_version,
        args=list(model.args),
    )


def _container(container: ContainerPredictor) -> dict[str, Any]:
    port = {"containerPort": container.port, "protocol": "TCP"}
    return _present(
        name=CONTAINER,
        image=container.image,
        command=list(container.command),
        args=list(container.args),
        ports=[port] if container.port else [],
    )


def _env(plain: Mapping[str, str], secret: Mapping[str, SecretKeyRef]) -> list[dict[str, Any]]:
    """Sorted by name, secrets first: `$(NAME)` in a value sees only what stands before it."""
    return [
        *(_secret_variable(name, ref) for name, ref in sorted(secret.items())),
        *({"name": name, **_present(value=value)} for name, value in sorted(plain.items())),
    ]


def _secret_variable(name: str, ref: SecretKeyRef) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": ref.secret, "key": ref.key}}}


def _resources(asked: Resources, filled_in: Resources) -> dict[str, Any]:
    return _present(
        requests={**filled_in.requests, **asked.requests},
        limits={**filled_in.limits, **asked.limits},
    )


def _scaling(scaling: Scaling) -> dict[str, Any]:
    return _present(
        minReplicas=scaling.min_replicas,
        maxReplicas=scaling.max_replicas,
        scaleTarget=scaling.target,
        scaleMetric=scaling.metric,
    )


def _toleration(toleration: Toleration) -> dict[str, Any]:
    return _present(
        key=toleration.key,
        operator=toleration.operator,
        value=toleration.value,
        effect=toleration.effect,
        tolerationSeconds=toleration.toleration_seconds,
    )


def _present(**fields: Any) -> dict[str, Any]:
    """The fields that were asked: None and what is empty were not, 0 was."""
    return {name: value for name, value in fields.items() if value or value == 0}
