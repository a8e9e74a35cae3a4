"""Parse an InferenceService of the API server into the spec and metadata that users asked for."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from server.adapters.kserve.manifests.annotations import (
    OurAnnotations,
    our_annotations,
    registered_predictor,
    requests_of,
)
from server.adapters.kserve.manifests.extra_fields import extra_fields
from server.adapters.kserve.manifests.field_managers import last_spec_writer
from server.adapters.kserve.manifests.field_ownership import (
    Entry,
    Managers,
    manager_names_at,
    managers_of,
    owned_fields,
    project,
    without_additions,
)
from server.adapters.kserve.manifests.predictor_parser import parse_spec, unsupported_paths
from server.adapters.kserve.modes import present_name
from server.adapters.kserve.names import (
    LAST_APPLIED_ANNOTATION,
    MANAGED_BY_KEY,
    MANAGED_BY_VALUE,
    MODE_ANNOTATION,
)
from server.adapters.kserve.objects import Object, annotations_of, get_map, key_of, rollout_of
from server.domain.rollout.status import InferenceServiceStatus, State
from server.domain.service.commands import OUR_PREFIX, STOP_ANNOTATION, fingerprint
from server.domain.service.inference_service import (
    InferenceService,
    InferenceServiceSpec,
)
from server.domain.service.preconditions import PastRequest

PENDING_STATUS = InferenceServiceStatus(State.PENDING)
"""For a service whose status is not known, or does not matter."""

NOT_SHOWN = "not part of `spec`"
_LONGEST_NOTE = 4000
_MANAGED_BY_PATH = f"metadata.labels.{MANAGED_BY_KEY}"


@dataclass(frozen=True)
class ParsedObject:
    """An InferenceService in the API's terms.

    `unmanaged`: ModelService has neither created nor adopted it. `asked_spec` has the fields of the
    spec that were asked for. `spec` is None where the API has no such kind of predictor.
    """

    obj: Object
    managers: Managers
    unmanaged: bool
    our_annotations: OurAnnotations
    asked_spec: Object
    spec: InferenceServiceSpec | None
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    @cached_property
    def requests(self) -> tuple[PastRequest, ...]:
        """The last request_ids, oldest first."""
        return requests_of(self.our_annotations)

    @cached_property
    def unsupported(self) -> list[str]:
        """The paths of the fields that were asked for and that the API does not have."""
        added = self.our_annotations.added
        if not self.unmanaged:
            return unsupported_paths(self.asked_spec, self.spec, added)
        spec, fields = self.obj.get("spec", {}), owned_fields(self.managers.all, "f:spec")
        paths = unsupported_paths(without_additions(spec, fields), self.spec, added)
        manager = get_map(self.obj, "metadata", "labels").get(MANAGED_BY_KEY, MANAGED_BY_VALUE)
        # An adoption replaces another manager's label.
        return [*([] if manager == MANAGED_BY_VALUE else [_MANAGED_BY_PATH]), *paths]

    def service(self, status: InferenceServiceStatus) -> InferenceService:
        """Return the service; unsupported fields are named in the status message."""
        return replace(self.pending, status=with_paths(status, NOT_SHOWN, self._not_shown))

    @cached_property
    def _not_shown(self) -> list[str]:
        # Our own writes hold supported fields only.
        others_wrote = self.unmanaged or manager_names_at(self.managers.others, "f:spec")
        return self.unsupported if others_wrote else []

    @cached_property
    def pending(self) -> InferenceService:
        """The service without its status."""
        metadata = self.obj["metadata"]
        delete_time = metadata.get("deletionTimestamp")
        return InferenceService(
            key=key_of(self.obj),
            uid=metadata["uid"],
            generation=rollout_of(self.obj).generation,
            spec=self.spec,
            status=PENDING_STATUS,
            etag=etag_of(self.obj),
            create_time=datetime.fromisoformat(metadata["creationTimestamp"]),
            labels=self.labels,
            annotations=self.annotations,
            selectable_labels=dict(metadata.get("labels", {})),
            delete_time=datetime.fromisoformat(delete_time) if delete_time else None,
            unmanaged=self.unmanaged,
            deployment_id="" if self.unmanaged else self.our_annotations.deployment_id,
            deployed_by="" if self.unmanaged else self.our_annotations.deployed_by,
            spec_writer=last_spec_writer(self.managers.all),
        )


def service_of(obj: Object, status: InferenceServiceStatus) -> InferenceService:
    """Return an object's service; unsupported fields are named in the status message."""
    return parse_object(obj).service(status)


def parse_object(obj: Object) -> ParsedObject:
    """Parse an InferenceService.

    A service of ours has the labels and annotations that we own, the annotation that stops it
    (also where another client wrote it), and the fields of the spec that any manager owns: KServe's
    defaults have no owner. Other services have their whole spec, because KServe's webhook may have
    rewritten it.
    """
    metadata = obj["metadata"]
    managers = managers_of(obj)
    # A copy of our service that others applied has the label too.
    labelled = metadata.get("labels", {}).get(MANAGED_BY_KEY) == MANAGED_BY_VALUE
    unmanaged = not (labelled and managers.ours)
    askers = managers.all if unmanaged else managers.ours
    labels, annotations = (_owned_texts(metadata, k, askers) for k in ("labels", "annotations"))
    raw_annotations = annotations_of(obj)
    if STOP_ANNOTATION in raw_annotations:
        annotations[STOP_ANNOTATION] = str(raw_annotations[STOP_ANNOTATION])
    asked_spec: Object = obj.get("spec", {})
    if not unmanaged:
        asked_spec = project(asked_spec, owned_fields(managers.all, "f:spec"))
    mode = present_name(annotations.pop(MODE_ANNOTATION, ""))
    ours = our_annotations(obj, managers)
    spec = parse_spec(asked_spec.get("predictor", {}), mode, ours.added.resources)
    if spec and ours.registered and not unmanaged:
        spec = replace(spec, predictor=registered_predictor(ours, spec.serving))
    labels.pop(MANAGED_BY_KEY, None)
    annotations.pop(LAST_APPLIED_ANNOTATION, None)
    return ParsedObject(
        obj=obj,
        managers=managers,
        unmanaged=unmanaged,
        our_annotations=ours,
        asked_spec=asked_spec,
        spec=spec,
        labels={k: text for k, text in labels.items() if not k.startswith(OUR_PREFIX)},
        annotations={k: text for k, text in annotations.items() if not k.startswith(OUR_PREFIX)},
    )


def removed_paths(before: ParsedObject, written: Object) -> list[str]:
    """Return the paths of the unsupported fields that a write removed."""
    removed = [path[1:] for path in extra_fields(_content(before.obj), _content(written), "")]
    return _overlapping(before.unsupported, removed)


def etag_of(obj: Object) -> str:
    """Hash uid, spec, labels and annotations: never the status or the resourceVersion."""
    metadata = obj["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    return fingerprint([metadata["uid"], obj.get("spec"), labels, annotations])


def with_paths(
    status: InferenceServiceStatus, what: str, paths: list[str]
) -> InferenceServiceStatus:
    """Return the status with the paths in its message, cut to the longest note, and only once."""
    if not paths:
        return status
    note = f"{what}: {', '.join(paths)}"
    if len(note) > _LONGEST_NOTE:
        note = f"{note[:_LONGEST_NOTE]}... ({len(paths)})"
    if status.message.endswith(note):
        return status
    return replace(status, message=f"{status.message}; {note}" if status.message else note)


def _owned_texts(metadata: Object, kind: str, askers: tuple[Entry, ...]) -> dict[str, str]:
    """Return the labels or annotations that these managers own."""
    texts = dict(metadata.get(kind) or {})
    if not metadata.get("managedFields"):
        return texts
    fields = owned_fields(askers, "f:metadata", f"f:{kind}")
    return dict(project(texts, fields)) if fields else {}


def _content(obj: Object) -> dict[str, Any]:
    return {
        "metadata": {"labels": get_map(obj, "metadata", "labels")},
        "spec": {"predictor": get_map(obj, "spec", "predictor")},
    }


def _overlapping(paths: list[str], others: list[str]) -> list[str]:
    """Return the paths that lead to one of the others, or to which one of the others leads."""
    # There may be a thousand of each.
    by_name, found = sorted(paths), set[str]()
    for other in others:
        found.update(_at_or_below(other, by_name))
    others = sorted(others)
    return [path for path in paths if path in found or any(_at_or_below(path, others))]


def _at_or_below(path: str, ordered: list[str]) -> Iterator[str]:
    """Yield the sorted paths that are this path or begin with it."""
    first = bisect_left(ordered, path)
    yield from ordered[first : bisect_right(ordered, path, first)]
    for begin in (f"{path}.", f"{path}["):
        for at in range(bisect_left(ordered, begin), len(ordered)):
            if not ordered[at].startswith(begin):
                break
            yield ordered[at]
