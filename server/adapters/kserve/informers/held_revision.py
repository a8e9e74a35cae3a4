"""Hold of a ControllerRevision's metadata which rollout it keeps, and its outcome."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from server.adapters.kserve.held_object import share_text
from server.adapters.kserve.names import (
    CONTENT_HASH_ANNOTATION,
    FAILURE_ANNOTATION,
    GENERATION_LABEL,
    OUTCOME_ANNOTATION,
    REVISION_OF_LABEL,
    SEEN_UNTIL_ANNOTATION,
)
from server.adapters.kserve.objects import Object, annotations_of, get_list, get_map, version_of
from server.domain.revisions.revision import RevisionOutcome
from server.domain.rollout.status import FailureReason
from server.domain.service.inference_service import ServiceKey

LARGEST_FAILURE = 2**14
_OUTCOMES: dict[object, RevisionOutcome] = {o.value: o for o in RevisionOutcome}
_REASONS: dict[object, FailureReason] = {r.value: r for r in FailureReason}


class KnownRevision(NamedTuple):
    """What is held in memory of a stored revision. `reason` is that of its failure.

    `seen_until`: the newest later generation that a server has seen to be of it, such as a change
    of scaling; 0: none.
    """

    generation: int
    content_hash: int
    outcome: RevisionOutcome | None = None
    reason: FailureReason | None = None
    seen_until: int = 0

    @property
    def news(self) -> tuple[RevisionOutcome | None, FailureReason | None]:
        """Return what is stored again when it changes."""
        return self.outcome, self.reason


class HeldRevision(Mapping[str, Any]):
    """Hold a ControllerRevision by a twentieth of its metadata. As a map it has its version.

    `known` is None if it is none of ours; `owner` is the service that owns it.
    """

    __slots__ = ("known", "owner", "service_uid", "version")

    def __init__(self, found: Object) -> None:
        owners = get_list(found, "metadata", "ownerReferences")
        name = next((str(o.get("name", "")) for o in owners if o.get("controller")), "")
        namespace = str(get_map(found, "metadata").get("namespace", ""))
        self.known = known_of(found)
        self.owner = ServiceKey(share_text(namespace), share_text(name))
        self.service_uid = share_text(service_uid_of(found))
        self.version = version_of(found)

    def __getitem__(self, name: str) -> Any:
        return {"metadata": {"resourceVersion": self.version}}[name]

    def __iter__(self) -> Iterator[str]:
        return iter(("metadata",))

    def __len__(self) -> int:
        return 1


def service_uid_of(obj: Object) -> str:
    """Return the uid of the service whose rollout a ControllerRevision keeps."""
    return str(get_map(obj, "metadata", "labels").get(REVISION_OF_LABEL, ""))


def known_of(obj: Object) -> KnownRevision | None:
    """Read the metadata of a ControllerRevision; None if it is none of ours."""
    generation = parse_number(get_map(obj, "metadata", "labels").get(GENERATION_LABEL), 10)
    if not generation:
        return None
    annotations = annotations_of(obj)
    outcome = _OUTCOMES.get(annotations.get(OUTCOME_ANNOTATION))
    failed = outcome is RevisionOutcome.FAILED
    reason = _reason_of(annotations.get(FAILURE_ANNOTATION)) if failed else None
    content_hash = parse_number(annotations.get(CONTENT_HASH_ANNOTATION), 16)
    seen_until = parse_number(annotations.get(SEEN_UNTIL_ANNOTATION), 10)
    return KnownRevision(generation, content_hash, outcome, reason, seen_until)


def parse_number(value: object, base: int) -> int:
    """Parse a number that is not negative and has 64 bits at most; 0 if it is none."""
    try:
        number = int(value, base) if isinstance(value, str) and len(value) < 20 else 0
    except ValueError:
        return 0
    return number if 0 <= number < 2**64 else 0


def _reason_of(text: object) -> FailureReason | None:
    if not isinstance(text, str) or len(text) > LARGEST_FAILURE:
        return None
    try:
        return _REASONS.get(json.loads(text).get("reason"))
    # Others may have written anything.
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
