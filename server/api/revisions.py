"""The response of ListRevisions, with the differences between revisions."""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from modelservice.v1 import rollout_service_pb2 as pb

from server.api.errors import cut
from server.api.responses import PAGE_BYTES
from server.api.services import failure_message, time_message
from server.api.specs import spec_message
from server.control.rollouts import ListedRevision, RevisionPage
from server.domain.kubernetes.names import field_path
from server.domain.revisions.revision import Revision
from server.domain.rollout.container_output import without_controls
from server.domain.service.commands import STOP_ANNOTATION

MOST_CHANGES = 50
_VALUE_BYTES = 256
# Shown before the first difference of two long values.
_CHARACTERS_BEFORE = 32
_DURATION = Duration.DESCRIPTOR.full_name
_CONTENT = ("spec", "labels", "annotations")


async def revision_list(page: RevisionPage) -> bytes:
    """Encode a ListRevisionsResponse of at most PAGE_BYTES, but one revision at least. Other calls
    have the event loop in between."""
    response = pb.ListRevisionsResponse()
    room = PAGE_BYTES
    for listed in page.revisions:
        message = _listed_message(listed)
        room -= message.ByteSize()
        if response.revisions and room < 0:
            break
        response.revisions.append(message)
        await asyncio.sleep(0)
    sent = len(response.revisions)
    if page.more or sent < len(page.revisions):
        response.next_page_token = page.token_after(page.revisions[sent - 1])
    return response.SerializeToString()


def _listed_message(listed: ListedRevision) -> pb.Revision:
    message = _message(listed.revision)
    message.current = listed.current
    before = listed.before
    if before and before.content and listed.revision.content:
        changes = _changes(
            "", pb.Revision.DESCRIPTOR, _content(_message(before)), _content(message)
        )
        message.changes.extend(islice(changes, MOST_CHANGES))
    return message


def _message(revision: Revision) -> pb.Revision:
    content = revision.content
    outcome = revision.outcome.value if revision.outcome else "UNSPECIFIED"
    return pb.Revision(
        revision=revision.number,
        rollout_id=revision.rollout.id,
        spec=spec_message(content.spec) if content else None,
        labels=content.labels if content else None,
        annotations=content.annotations if content else None,
        outcome=pb.Revision.Outcome.Value(f"OUTCOME_{outcome}"),
        ready_time=time_message(revision.ready_time),
        failure=failure_message(revision.failure) if revision.failure else None,
        deployed_by=without_controls(revision.deployed_by),
        create_time=time_message(revision.create_time),
        rollback_of=revision.rollback_of,
        deployment_id=revision.deployment_id,
        gap=revision.gap,
    )


def _content(message: pb.Revision) -> dict[str, Any]:
    """Return the content in the JSON form, but for STOP_ANNOTATION: a stop is no change of it."""
    shown = MessageToDict(message, preserving_proto_field_name=True)
    shown.get("annotations", {}).pop(STOP_ANNOTATION, None)
    return {name: shown[name] for name in _CONTENT if name in shown}


def _changes(
    path: str, message: Descriptor, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[pb.Change]:
    """Yield the differences of two messages of a type, in the JSON form with the protos' names."""
    for field in message.fields:
        old, new = before.get(field.name), after.get(field.name)
        if old == new:
            continue
        inner = f"{path}.{field.name}" if path else field.name
        if _is_map(field):
            for key in sorted({**(old or {}), **(new or {})}):
                if (old or {}).get(key) != (new or {}).get(key):
                    yield _change(
                        field_path(inner, key), (old or {}).get(key), (new or {}).get(key)
                    )
        elif nested := _nested(field):
            yield from _changes(inner, nested, old or {}, new or {})
        else:
            yield _change(inner, old, new)


def _change(path: str, before: Any, after: Any) -> pb.Change:
    old, new = _json(before), _json(after)
    if cut(old, _VALUE_BYTES) == cut(new, _VALUE_BYTES):
        shared = range(min(len(old), len(new)))
        same = bisect_left(shared, True, key=lambda n: old[: n + 1] != new[: n + 1])
        start = max(same - _CHARACTERS_BEFORE, 0)
        old, new = f"...{old[start:]}", f"...{new[start:]}"
    return pb.Change(path=path, before=cut(old, _VALUE_BYTES), after=cut(new, _VALUE_BYTES))


def _json(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _nested(field: FieldDescriptor) -> Descriptor | None:
    """Return the message whose fields are compared one by one; None for a value."""
    inner = field.message_type
    is_value = field.is_repeated or inner is None or inner.full_name == _DURATION
    return None if is_value else inner
