"""Resolve a Deploy of a registered model to one for a cluster: pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from server.domain.errors import FieldInvalid, FieldViolation
from server.domain.registry.deployment import ModelDeployment, content_of
from server.domain.registry.environment_defaults import with_defaults
from server.domain.registry.registered import (
    ModelVersion,
    Registered,
    RegisteredModel,
    ServingEnvironment,
)
from server.domain.registry.registry_errors import EnvironmentNamespaceFixed
from server.domain.service.canonical_spec import canonical_deploy
from server.domain.service.commands import (
    ENVIRONMENT_ID_LABEL,
    MODEL_ID_LABEL,
    SERVICE_ID_LABEL,
    VERSION_ID_LABEL,
    Deploy,
    Provenance,
    fingerprint,
)
from server.domain.service.inference_service import (
    ContainerPredictor,
    InferenceService,
    InferenceServiceSpec,
    ModelPredictor,
    RegisteredModelPredictor,
    ServiceKey,
    ServingPredictor,
)
from server.domain.service.spec_validation import spec_violations
from server.domain.service.validation import check_deploy, room_for_name

_HASH_LENGTH = 8
_ID_LABELS: Mapping[type[Registered], str] = {
    RegisteredModel: MODEL_ID_LABEL,
    ModelVersion: VERSION_ID_LABEL,
    ServingEnvironment: ENVIRONMENT_ID_LABEL,
}


@dataclass(frozen=True, slots=True)
class Found:
    """The resources that a Deploy of a registered model names."""

    model: RegisteredModel
    version: ModelVersion
    environment: ServingEnvironment

    @property
    def names(self) -> RegisteredModelPredictor:
        """Return the predictor as callers will read it."""
        return RegisteredModelPredictor(
            self.model.key.project,
            self.model.key.name,
            self.environment.key.name,
            self.version.key.version,
            _serving(self.version),
        )


def resolve_deploy(deploy: Deploy, found: Found, deployment_id: str) -> Deploy:
    """Return the Deploy for a cluster: of the found version, with the environment's defaults unless
    it is a rollback.

    Raises EnvironmentNamespaceFixed, and FieldInvalid with all violations.
    """
    assert deploy.spec, "it names a registered model"
    key = _key(deploy.key, found)
    named = replace(deploy.spec, predictor=found.names)
    # The content of a revision has the defaults that its environment had then.
    spec = named if deploy.rollback_of else with_defaults(named, found.environment.defaults)
    whole = replace(deploy, key=key, spec=spec)
    _check(whole, named, found.environment)
    provenance = Provenance(
        model_id=found.model.id,
        version_id=found.version.id,
        environment_id=found.environment.id,
        service_id=fingerprint([found.model.key.project, *key]),
        deployment_id=deployment_id,
    )
    sent_hash = canonical_deploy(deploy).body_hash
    return replace(canonical_deploy(whole), provenance=provenance, sent_hash=sent_hash)


def new_deployment(deploy: Deploy, found: Found, caller: str, now: datetime) -> ModelDeployment:
    """Create the record of a resolved Deploy, before it is sent to the cluster."""
    assert deploy.spec, "it is resolved"
    return ModelDeployment(
        id=deploy.deployment_id,
        project=found.model.key.project,
        model=found.model.key.name,
        version=found.version.key.version,
        environment=found.environment.key.name,
        model_id=found.model.id,
        version_id=found.version.id,
        environment_id=found.environment.id,
        service=deploy.key,
        content=content_of(deploy.spec),
        caller=caller,
        create_time=now,
        update_time=now,
    )


def runs_same_model(service: InferenceService, found: Found) -> bool:
    """Report whether a service was deployed from the same model to the same environment."""
    # Another client's edit can remove the names; in a registry that was created again the same
    # names have other ids. Either is enough.
    ids = tuple(map(service.selectable_labels.get, (MODEL_ID_LABEL, ENVIRONMENT_ID_LABEL)))
    predictor = service.spec.predictor if service.spec else None
    return ids == (found.model.id, found.environment.id) or (
        isinstance(predictor, RegisteredModelPredictor) and _place(predictor) == _place(found.names)
    )


def uses(service: InferenceService, thing: Registered) -> bool:
    """Report whether a service was deployed from the resource, even if it was edited since."""
    return service.selectable_labels.get(_ID_LABELS[type(thing)]) == thing.id


def belongs_to_another_project(service: InferenceService, deploy: Deploy) -> bool:
    """Report whether a project other than the resolved Deploy's has deployed the service."""
    own = deploy.origin[SERVICE_ID_LABEL]
    # An unmanaged service may be a copy, with the labels of its original.
    return not service.unmanaged and service.selectable_labels.get(SERVICE_ID_LABEL, own) != own


def is_record_of(record: ModelDeployment, found: Found) -> bool:
    """Report whether a record is of the same model in the same environment."""
    of = (record.model_id, record.environment_id)
    return of == (found.model.id, found.environment.id)


def derived_name(model: str, environment: str, namespace: str) -> str:
    """Derive the name of a model's service in an environment, the same at each Deploy.

    A name that is too long is cut and ends with a hash of the whole. If there is no room for the
    hash either, the name stays too long.
    """
    whole = f"{model}-{environment}"
    room = room_for_name(namespace)
    kept = whole[: max(room - _HASH_LENGTH - 1, 0)].rstrip("-")
    if len(whole) <= room or not kept:
        return whole
    return f"{kept}-{hashlib.sha256(whole.encode()).hexdigest()[:_HASH_LENGTH]}"


def _key(requested: ServiceKey, found: Found) -> ServiceKey:
    environment = found.environment
    if requested.namespace not in ("", environment.namespace):
        raise EnvironmentNamespaceFixed(
            f"{environment.key} deploys to the namespace {environment.namespace!r}: leave the"
            " namespace empty, or name an environment with the other namespace",
            namespace=environment.namespace,
        )
    name = derived_name(found.model.key.name, environment.key.name, environment.namespace)
    return ServiceKey(environment.namespace, requested.name or name)


def _serving(version: ModelVersion) -> ServingPredictor:
    if version.image:
        return ContainerPredictor(version.image)
    assert version.format, "it stands with a storage_uri"
    return ModelPredictor(version.format, version.storage_uri)


def _check(whole: Deploy, named: InferenceServiceSpec, environment: ServingEnvironment) -> None:
    """Refuse a Deploy that can never work; mark violations that only the defaults cause."""
    try:
        check_deploy(whole)
    except FieldInvalid as invalid:
        own = set(spec_violations(named, whole.annotations))
        raise FieldInvalid(
            [
                violation
                if violation in own or not violation.path.startswith("spec")
                else _with_defaults(violation, environment)
                for violation in invalid.violations
            ]
        ) from None


def _with_defaults(violation: FieldViolation, environment: ServingEnvironment) -> FieldViolation:
    return violation._replace(why=f"{violation.why}, with the defaults of {environment.key}")


def _place(predictor: RegisteredModelPredictor) -> tuple[str, str, str]:
    return predictor.project, predictor.model, predictor.environment
