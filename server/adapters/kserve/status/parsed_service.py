"""Parse an InferenceService once for each of its versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b

import msgspec

from server.adapters.kserve.manifests.ready_timeout import parse_timeout
from server.adapters.kserve.modes import mode_of, settled_mode_of
from server.adapters.kserve.objects import (
    Object,
    annotations_of,
    created_at,
    get_list,
    get_map,
    parse_time,
    rollout_of,
)
from server.adapters.kserve.status.components import ComponentSpec, component_specs
from server.adapters.kserve.status.kserve_errors import (
    KServeError,
    is_reconcile_error,
    reconcile_error,
    status_error,
)
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import Condition
from server.domain.service.commands import STOP_ANNOTATION

# Kubernetes bounds the conditions of its own kinds so; the InferenceService's schema does not.
_LONGEST_TYPE, _LONGEST_REASON = 316, 1024
# The API server cuts the fraction of a second off its times.
TIME_RESOLUTION = timedelta(seconds=1)
READY_CONDITIONS = ("PredictorReady", "TransformerReady", "ExplainerReady")


@dataclass(frozen=True, slots=True)
class ParsedService:
    """Hold the fields of an InferenceService from which the status is derived.

    `conditions`: by type. `shown_conditions`: in their order, as callers see them but for their
    messages, which are whole and not redacted. `written_at` and `status_written_at`: when spec and
    status were last written, by the API server's clock in whole seconds. `stop_requested_at`: when
    the annotation was last written. `status_error`: the error in the status. `reconcile_errors`: by
    ready condition. `reconcile_failed`: the last reconcile of a component failed, even if it only
    lost a race. `load_failed`: KServe reports that the model could not be loaded. `ready_timeout`:
    how long a rollout may take, if the spec says so.
    """

    obj: Object
    uid: str
    namespace: str
    version: str
    rollout: Rollout
    mode: str
    annotations: Object
    status: Object
    status_digest: bytes
    components: tuple[ComponentSpec, ...]
    conditions: Mapping[str, Object]
    shown_conditions: tuple[Condition, ...]
    written_at: datetime
    status_written_at: datetime | None
    stop_requested_at: datetime | None
    deleted_at: datetime | None
    status_error: KServeError | None
    reconcile_errors: Mapping[str, KServeError]
    reconcile_failed: bool
    load_failed: bool
    serving_runtime: str
    ready_timeout: timedelta | None

    def ready_by(self, started_at: datetime | None) -> datetime | None:
        """Return until when pods that were asked for at `started_at` have time to be ready."""
        if self.ready_timeout is None:
            return None
        start = max(self.written_at, started_at or self.written_at)
        return start + self.ready_timeout + TIME_RESOLUTION

    @property
    def stop_asked_at(self) -> datetime:
        """Return when the annotation that stops it was last written, as far as that is known."""
        return self.stop_requested_at or self.written_at

    def is_true(self, condition: str) -> bool:
        """Return whether a condition is True."""
        return bool(self.conditions.get(condition, {}).get("status") == "True")


def parse_service(observed: ObservedObjects) -> ParsedService:
    """Return the service as its present version is parsed."""
    return observed.cache.parse(_parse, observed.service)


def _parse(service: Object) -> ParsedService:
    metadata, status = get_map(service, "metadata"), get_map(service, "status")
    components = tuple(component_specs(service))
    predictor = components[0].spec
    rollout, annotations = rollout_of(service), annotations_of(service)
    entries = get_list(metadata, "managedFields")
    spec_times = (
        parse_time(e.get("time"))
        for e in entries
        if not e.get("subresource") and "f:spec" in get_map(e, "fieldsV1")
    )
    status_times = (parse_time(e.get("time")) for e in entries if e.get("subresource") == "status")
    stop_times = (
        parse_time(e.get("time"))
        for e in entries
        if f"f:{STOP_ANNOTATION}" in get_map(e, "fieldsV1", "f:metadata", "f:annotations")
    )
    raw_conditions = get_list(status, "conditions")
    conditions = {str(c.get("type")): c for c in reversed(raw_conditions)}
    reconciles = [conditions[name] for name in READY_CONDITIONS if name in conditions]
    return ParsedService(
        obj=service,
        uid=rollout.uid,
        namespace=str(metadata.get("namespace", "")),
        version=str(metadata.get("resourceVersion", "")),
        rollout=rollout,
        mode=mode_of(settled_mode_of(service), annotations),
        annotations=annotations,
        status=status,
        status_digest=_digest(status),
        components=components,
        conditions=conditions,
        shown_conditions=tuple(map(_shown_condition, raw_conditions)),
        written_at=max((t for t in spec_times if t), default=None) or created_at(service),
        status_written_at=max((t for t in status_times if t), default=None),
        stop_requested_at=max((t for t in stop_times if t), default=None),
        deleted_at=parse_time(metadata.get("deletionTimestamp")),
        status_error=status_error(status, reconciles),
        reconcile_errors={
            str(c["type"]): error for c in reconciles if (error := reconcile_error(c))
        },
        reconcile_failed=any(map(is_reconcile_error, reconciles)),
        load_failed=_load_failed(predictor, status),
        serving_runtime=_serving_runtime(predictor, status),
        ready_timeout=parse_timeout(get_map(predictor, "annotations")),
    )


def _digest(status: Object) -> bytes:
    """Return a digest that equal statuses have, empty for an empty one."""
    text = msgspec.json.encode(status, order="deterministic")
    return blake2b(text, digest_size=16).digest() if status else b""


def _shown_condition(raw: Object) -> Condition:
    return Condition(
        str(raw.get("type", ""))[:_LONGEST_TYPE],
        str(raw.get("status", ""))[:_LONGEST_TYPE],
        str(raw.get("reason") or "")[:_LONGEST_REASON],
        str(raw.get("message") or ""),
        parse_time(raw.get("lastTransitionTime")),
    )


def _load_failed(predictor: Object, status: Object) -> bool:
    """Return whether KServe reports ModelLoadFailed for a `model`.

    It does so for every exit of the model's container, whatever the cause, and never for a
    container of the caller's own.
    """
    if "model" not in predictor:
        return False
    model = get_map(status, "modelStatus")
    return (
        model.get("transitionStatus") == "BlockedByFailedLoad"
        and get_map(model, "lastFailureInfo").get("reason") == "ModelLoadFailed"
    )


def _serving_runtime(predictor: Object, status: Object) -> str:
    """Return the serving runtime of a `model`; the status keeps that of a former model."""
    if "model" not in predictor:
        return ""
    return str(status.get("servingRuntimeName") or status.get("clusterServingRuntimeName") or "")
