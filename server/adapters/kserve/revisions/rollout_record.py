"""Convert a rollout to the ControllerRevision that keeps it, and back. Pure.

The data of a ControllerRevision never changes. Annotations have what changes: the outcome.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from server.adapters.kserve.informers.held_revision import (
    LARGEST_FAILURE,
    KnownRevision,
    known_of,
    parse_number,
    service_uid_of,
)
from server.adapters.kserve.manifests.annotations import restart_of, rollback_of
from server.adapters.kserve.manifests.field_managers import newest_time
from server.adapters.kserve.manifests.object_parser import ParsedObject
from server.adapters.kserve.names import (
    API_VERSION,
    CONTENT_HASH_ANNOTATION,
    FAILURE_ANNOTATION,
    FIELD_MANAGER,
    GENERATION_LABEL,
    KIND,
    LATER_FIELDS_ANNOTATION,
    OUTCOME_ANNOTATION,
    READY_TIME_ANNOTATION,
    REVISION_OF_LABEL,
    SEEN_UNTIL_ANNOTATION,
    UNSEEN_AFTER_ANNOTATION,
)
from server.adapters.kserve.objects import (
    Object,
    annotations_of,
    get_map,
    parse_time,
    version_of,
)
from server.domain.revisions.kept_content import LATER_FIELDS, kept_json
from server.domain.revisions.revision import (
    Revision,
    RevisionContent,
    RevisionOutcome,
    content_of_service,
    rollout_content,
)
from server.domain.revisions.spec_json import content_json, parse_content
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import Component, Failure, FailureReason
from server.domain.service.commands import MOST_USER, fingerprint
from server.domain.service.inference_service import ServiceKey

_LONGEST_MESSAGE = 4096
_LONGEST_FIELD = 256


@dataclass(frozen=True, slots=True)
class RolloutRecord:
    """A rollout of a service, as it was seen or is stored.

    `content_hash` is the same for two rollouts in a row if and only if they are of one revision.
    `unseen_after`: no server saw the generations after this one and before the rollout's; 0: all
    were seen. `later_fields`: the JSON of the fields that a later write changed, which made no
    revision; empty if there was none. `seen_until` is as of a KnownRevision. `version` is the
    resourceVersion of the stored object.
    """

    revision: Revision
    content_hash: int
    unseen_after: int = 0
    later_fields: str = ""
    seen_until: int = 0
    version: str = ""

    @property
    def generation(self) -> int:
        """Return the generation of the rollout."""
        return self.revision.rollout.generation

    @property
    def known(self) -> KnownRevision:
        """Return what is held in memory of it."""
        news = news_of(self.revision)
        return KnownRevision(self.generation, self.content_hash, *news, self.seen_until)


def news_of(revision: Revision) -> tuple[RevisionOutcome | None, FailureReason | None]:
    """Return what is stored again when it changes: each crash of a container is none."""
    return revision.outcome, revision.failure.reason if revision.failure else None


def record_of(parsed: ParsedObject) -> RolloutRecord:
    """Return the newest rollout of an InferenceService, without its outcome.

    An edit by others has no user: the annotations of the last Deploy are not of it.
    """
    service, ours = parsed.pending, parsed.our_annotations
    is_ours = not parsed.unmanaged and service.spec_writer == FIELD_MANAGER
    content = content_of_service(service)
    wrote_spec = [e for e in parsed.managers.all if "f:spec" in get_map(e, "fieldsV1")]
    revision = Revision(
        service.rollout,
        content,
        newest_time(wrote_spec) or (service.create_time if service.generation == 1 else None),
        deployed_by=service.deployed_by if is_ours else "",
        rollback_of=rollback_of(ours, service.generation),
        deployment_id=service.deployment_id if is_ours else "",
    )
    # A restart has the content of the rollout before it, and another stamp.
    restart = restart_of(ours.restart)
    same: Any = [content_json(rollout_content(content)), restart] if content else None
    same = same or [get_map(parsed.obj, "spec"), restart]
    return RolloutRecord(revision, int(fingerprint(same), 16))


def later_fields_of(content: RevisionContent | None) -> str:
    """Return the JSON of the fields of a content whose change alone makes no revision."""
    if content is None:
        return ""
    spec = content_json(content)["spec"]
    text = json.dumps({name: spec[name] for name in LATER_FIELDS if name in spec}, sort_keys=True)
    return text if len(text) <= _LONGEST_MESSAGE else ""


def object_name(service: str, rollout: Rollout) -> str:
    """Return the name of a rollout's ControllerRevision: each replica chooses the same."""
    # At most 63 characters are of the service, 26 of its uid and generation.
    return f"{service}-{sha256(rollout.uid.encode()).hexdigest()[:10]}-{rollout.generation}"


def manifest_of(key: ServiceKey, record: RolloutRecord) -> dict[str, Any]:
    """Return the ControllerRevision to create. With the service as its controller no other
    controller adopts it, and the garbage collector deletes it with the service."""
    revision = record.revision
    rollout = revision.rollout
    owner = {"apiVersion": API_VERSION, "kind": KIND, "name": key.name, "uid": rollout.uid}
    annotations = {
        CONTENT_HASH_ANNOTATION: f"{record.content_hash:016x}",
        **{key: text for key, text in _changing_annotations(record).items() if text},
    }
    if record.unseen_after:
        annotations[UNSEEN_AFTER_ANNOTATION] = str(record.unseen_after)
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "namespace": key.namespace,
            "name": object_name(key.name, rollout),
            "labels": {
                REVISION_OF_LABEL: rollout.uid,
                GENERATION_LABEL: str(rollout.generation),
            },
            "annotations": annotations,
            "ownerReferences": [{**owner, "controller": True}],
        },
        "revision": rollout.generation,
        "data": _data_of(revision),
    }


def record_patch(record: RolloutRecord) -> dict[str, Any]:
    """Return the merge patch that stores what changes, on exactly the version that was read."""
    annotations = _changing_annotations(record)
    return {"metadata": {"resourceVersion": record.version, "annotations": annotations}}


def _changing_annotations(record: RolloutRecord) -> dict[str, str | None]:
    """Return the annotations that change, as a merge patch has them: None for an absent one.

    A reader of ControllerRevisions may lack the right to read logs, so no text of a container is in
    them.
    """
    revision = record.revision
    return {
        OUTCOME_ANNOTATION: revision.outcome.value if revision.outcome else None,
        READY_TIME_ANNOTATION: revision.ready_time.isoformat() if revision.ready_time else None,
        FAILURE_ANNOTATION: _failure_text(revision.failure) if revision.failure else None,
        LATER_FIELDS_ANNOTATION: record.later_fields or None,
        SEEN_UNTIL_ANNOTATION: str(record.seen_until) if record.seen_until else None,
    }


def parse_record(obj: Object) -> RolloutRecord | None:
    """Read a ControllerRevision, with or without its data; None if it is none of ours.

    What cannot be read of its data is left out.
    """
    known, data = known_of(obj), get_map(obj, "data")
    if known is None:
        return None
    later_fields = _text(annotations_of(obj), LATER_FIELDS_ANNOTATION)
    created = parse_time(data.get("createTime")) or parse_time(
        get_map(obj, "metadata").get("creationTimestamp")
    )
    revision = Revision(
        Rollout(service_uid_of(obj), known.generation),
        _content_of(data, later_fields),
        created,
        deployed_by=_text(data, "deployedBy")[:MOST_USER],
        rollback_of=parse_number(data.get("rollbackOf"), 10),
        deployment_id=_text(data, "deploymentId"),
    )
    return RolloutRecord(
        _with_outcome(revision, annotations_of(obj)),
        known.content_hash,
        parse_number(annotations_of(obj).get(UNSEEN_AFTER_ANNOTATION), 10),
        later_fields,
        known.seen_until,
        version_of(obj),
    )


def _data_of(revision: Revision) -> dict[str, Any]:
    rest = {
        "rolloutId": revision.rollout.id,
        "deploymentId": revision.deployment_id,
        "deployedBy": revision.deployed_by,
        "rollbackOf": str(revision.rollback_of or ""),
        "createTime": revision.create_time.isoformat() if revision.create_time else "",
    }
    given = {name: text for name, text in rest.items() if text}
    content = kept_json(revision.content) if revision.content else {}
    return {**content, **given}


def _content_of(data: Object, later_fields: str) -> RevisionContent | None:
    content = {name: data[name] for name in ("spec", "labels", "annotations") if name in data}
    try:
        if later_fields:
            first = {k: v for k, v in content["spec"].items() if k not in LATER_FIELDS}
            content["spec"] = {**first, **json.loads(later_fields[:_LONGEST_MESSAGE])}
        return parse_content(content) if "spec" in content else None
    # Others may have written anything.
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None


def _with_outcome(revision: Revision, annotations: Mapping[str, Any]) -> Revision:
    try:
        outcome = RevisionOutcome(annotations.get(OUTCOME_ANNOTATION, ""))
    except ValueError:
        return revision
    ready_time = parse_time(annotations.get(READY_TIME_ANNOTATION))
    failed = outcome is RevisionOutcome.FAILED
    failure = _parse_failure(annotations.get(FAILURE_ANNOTATION)) if failed else None
    return replace(revision, outcome=outcome, ready_time=ready_time, failure=failure)


def _failure_text(failure: Failure) -> str:
    shown = {
        "reason": failure.reason.value,
        "message": failure.message.removesuffix(failure.container_text)[:_LONGEST_MESSAGE],
        "remedy": failure.remedy[:_LONGEST_MESSAGE],
        "retrying": failure.retrying,
        "rolloutId": failure.rollout_id,
        "component": failure.component or "",
        "pod": failure.pod[:_LONGEST_FIELD],
        "container": failure.container[:_LONGEST_FIELD],
        "exitCode": failure.exit_code,
        "restartCount": failure.restart_count,
        "firstSeenTime": failure.first_seen_time.isoformat() if failure.first_seen_time else "",
    }
    given = {name: value for name, value in shown.items() if value is not None and value != ""}
    return json.dumps(given, separators=(",", ":"), ensure_ascii=False)


def _parse_failure(text: object) -> Failure | None:
    if not isinstance(text, str) or len(text) > LARGEST_FAILURE:
        return None
    try:
        shown = json.loads(text)
        component = _text(shown, "component")
        exit_code = shown.get("exitCode")
        return Failure(
            FailureReason(shown.get("reason")),
            _text(shown, "message"),
            _text(shown, "remedy"),
            shown.get("retrying") is True,
            rollout_id=_text(shown, "rolloutId"),
            component=Component(component) if component else None,
            pod=_text(shown, "pod"),
            container=_text(shown, "container"),
            exit_code=None if exit_code is None else int(exit_code),
            restart_count=int(shown.get("restartCount", 0)),
            first_seen_time=parse_time(shown.get("firstSeenTime")),
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name, "")
    return value if isinstance(value, str) else ""
