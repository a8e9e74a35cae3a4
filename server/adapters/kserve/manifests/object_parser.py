"""From an InferenceService as the API server has it to what was asked, by whom, and how it is."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from server.adapters.kserve.manifests.annotations import filled_in_of, noted_requests
from server.adapters.kserve.manifests.extra_fields import beyond
from server.adapters.kserve.manifests.field_managers import last_spec_writer
from server.adapters.kserve.manifests.field_ownership import (
    anyones,
    ours,
    owned,
    owners,
    project,
    without_additions,
)
from server.adapters.kserve.manifests.predictor_parser import spec_of, unfit
from server.adapters.kserve.manifests.registry_annotations import deployment_id_of, registered_as
from server.adapters.kserve.modes import present_name
from server.adapters.kserve.names import (
    LAST_APPLIED_ANNOTATION,
    MANAGED_BY_KEY,
    MANAGED_BY_VALUE,
    MODE_ANNOTATION,
    REQUESTS_ANNOTATION,
)
from server.adapters.kserve.objects import get_map, rollout_of
from server.domain.rollout.status import InferenceServiceStatus, State
from server.domain.service.commands import OUR_PREFIX, fingerprint
from server.domain.service.inference_service import (
    InferenceService,
    InferenceServiceSpec,
    ServiceKey,
)
from server.domain.service.preconditions import PastRequest, Stored

UNJUDGED = InferenceServiceStatus(State.PENDING)
"""For an object of which only what it asks for is wanted, or known yet."""

NOT_SHOWN = "not part of `spec`"
_LONGEST_NOTE = 4000


@dataclass(frozen=True, slots=True)
class Asked:
    """What an object asks for, in the contract's words."""

    spec: InferenceServiceSpec | None
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def service_of(obj: Mapping[str, Any], status: InferenceServiceStatus) -> InferenceService:
    """The service, with what does not fit the contract named in its status."""
    meta = obj["metadata"]
    asked = asked_of(obj)
    unmanaged = is_unmanaged(obj)
    # What we write has its field.
    others_wrote = unmanaged or owners(obj, "f:spec")
    return InferenceService(
        key=key_of(obj),
        uid=meta["uid"],
        generation=rollout_of(obj).generation,
        spec=asked.spec,
        status=naming(status, NOT_SHOWN, unfit_of(obj)) if others_wrote else status,
        etag=etag_of(obj),
        create_time=datetime.fromisoformat(meta["creationTimestamp"]),
        labels=asked.labels,
        annotations=asked.annotations,
        selectable_labels=dict(meta.get("labels", {})),
        delete_time=_time(meta.get("deletionTimestamp")),
        unmanaged=unmanaged,
        deployment_id="" if unmanaged else deployment_id_of(obj),
        spec_writer=last_spec_writer(obj),
    )


def stored_of(obj: Mapping[str, Any], status: InferenceServiceStatus) -> Stored:
    """The service with the request_ids that ride on it."""
    return Stored(service_of(obj, status), requests_of(obj))


def requests_of(obj: Mapping[str, Any]) -> tuple[PastRequest, ...]:
    """The request_ids that ride on it, if we wrote them: a copy of another service has them too."""
    note = ("f:spec", "f:predictor", "f:annotations", f"f:{REQUESTS_ANNOTATION}")
    return noted_requests(obj) if owned(obj, ours, *note) is not None else ()


def asked_of(obj: Mapping[str, Any]) -> Asked:
    """What managers asked for."""
    annotations = _owned_metadata(obj, "annotations")
    mode = present_name(annotations.pop(MODE_ANNOTATION, ""))
    spec = spec_of(_asked_spec(obj).get("predictor", {}), mode, filled_in_of(obj).resources)
    if spec and not is_unmanaged(obj):
        spec = replace(spec, predictor=registered_as(obj, spec.serving))
    return Asked(
        spec=spec,
        labels=_users(_owned_metadata(obj, "labels"), MANAGED_BY_KEY),
        annotations=_users(annotations, LAST_APPLIED_ANNOTATION),
    )


def unfit_of(obj: Mapping[str, Any]) -> list[str]:
    """The paths of what the object asks for and the contract has no field for."""
    if not is_unmanaged(obj):
        return unfit(_asked_spec(obj), asked_of(obj).spec, filled_in_of(obj))
    spec = without_additions(obj.get("spec", {}), owned(obj, anyones, "f:spec"))
    paths = unfit(spec, asked_of(obj).spec, filled_in_of(obj))
    manager = get_map(obj, "metadata", "labels").get(MANAGED_BY_KEY, MANAGED_BY_VALUE)
    return paths if manager == MANAGED_BY_VALUE else [f"metadata.labels.{MANAGED_BY_KEY}", *paths]


def dropped_by(written: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What of the object did not fit the contract, and is no longer in what was written of it."""
    gone = [path[1:] for path in beyond(_content(current), _content(written), "")]
    return _overlapping(unfit_of(current), gone)


def _content(obj: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {"labels": get_map(obj, "metadata", "labels")},
        "spec": {"predictor": get_map(obj, "spec", "predictor")},
    }


def _overlapping(paths: list[str], others: list[str]) -> list[str]:
    """Those of the paths that lead to one of the others, or the other way round."""
    # There may be a thousand of each.
    by_name, found = sorted(paths), set[str]()
    for other in others:
        found.update(_at_or_below(other, by_name))
    others = sorted(others)
    return [path for path in paths if path in found or any(_at_or_below(path, others))]


def _at_or_below(path: str, ordered: list[str]) -> Iterator[str]:
    """Those of the ordered paths that are this path or begin with it."""
    first = bisect_left(ordered, path)
    yield from ordered[first : bisect_right(ordered, path, first)]
    for begin in (f"{path}.", f"{path}["):
        for at in range(bisect_left(ordered, begin), len(ordered)):
            if not ordered[at].startswith(begin):
                break
            yield ordered[at]


def _asked_spec(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a service of ours, only fields that somebody owns: the others are KServe's defaults.

    Of other services all are taken, since KServe may have rewritten them as a whole.
    """
    spec: Mapping[str, Any] = obj.get("spec", {})
    return spec if is_unmanaged(obj) else project(spec, owned(obj, anyones, "f:spec"))


def is_unmanaged(obj: Mapping[str, Any]) -> bool:
    """Not made by ModelService, nor taken over by it.

    The label alone does not tell: a copy of a service of ours that somebody else applied has it.
    """
    meta = obj["metadata"]
    labelled = meta.get("labels", {}).get(MANAGED_BY_KEY) == MANAGED_BY_VALUE
    return not (labelled and any(map(ours, meta.get("managedFields", ()))))


def etag_of(obj: Mapping[str, Any]) -> str:
    """A fingerprint of uid, spec, labels and annotations: never of status or resourceVersion."""
    meta = obj["metadata"]
    return fingerprint(
        [meta["uid"], obj.get("spec"), meta.get("labels") or {}, meta.get("annotations") or {}]
    )


def key_of(obj: Mapping[str, Any]) -> ServiceKey:
    """The name it goes by."""
    return ServiceKey(obj["metadata"]["namespace"], obj["metadata"]["name"])


def _owned_metadata(obj: Mapping[str, Any], kind: str) -> dict[str, str]:
    """Labels or annotations: of a service of ours those that we own, else anybody's.

    What KServe's webhook adds is owned by nobody.
    """
    content = dict(obj["metadata"].get(kind) or {})
    if not obj["metadata"].get("managedFields"):
        return content
    fields = owned(obj, anyones if is_unmanaged(obj) else ours, "f:metadata", f"f:{kind}")
    return dict(project(content, fields)) if fields else {}


def _users(content: Mapping[str, str], *besides: str) -> dict[str, str]:
    return {
        key: text
        for key, text in content.items()
        if not key.startswith(OUR_PREFIX) and key not in besides
    }


def naming(status: InferenceServiceStatus, what: str, paths: list[str]) -> InferenceServiceStatus:
    """The status, with the paths in its message, once; they are cut only where they are longer than
    a message may be."""
    if not paths:
        return status
    note = f"{what}: {', '.join(paths)}"
    if len(note) > _LONGEST_NOTE:
        note = f"{note[:_LONGEST_NOTE]}... ({len(paths)})"
    if status.message.endswith(note):
        return status
    return replace(status, message=f"{status.message}; {note}" if status.message else note)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
