"""Decide which content of a revision is kept, and tell the kept ones apart. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from server.domain.revisions.revision import Revision, RevisionContent
from server.domain.revisions.spec_json import content_json
from server.domain.service.commands import STOP_ANNOTATION, fingerprint

# A larger content is left out: its revision has an outcome, and nothing to go back to.
LARGEST_CONTENT = 2**18
# Of the JSON of a spec: what `InferenceServiceSpec.of_pods` leaves out.
LATER_FIELDS = ("scaling", "rolloutStrategy")


def kept_json(content: RevisionContent) -> dict[str, Any]:
    """Return the `content_json` of a content, empty if that is larger than LARGEST_CONTENT."""
    shown = content_json(content)
    return shown if len(json.dumps(shown)) <= LARGEST_CONTENT else {}


def as_kept(revision: Revision) -> Revision:
    """Return a revision with the digest of its content, or without a content that is too large."""
    if revision.content is None or revision.content_digest:
        return revision
    shown = kept_json(revision.content)
    if not shown:
        return replace(revision, content=None)
    # As `rollout_content`, of the JSON.
    spec = _without(shown["spec"], LATER_FIELDS)
    annotations = _without(shown.get("annotations", {}), (STOP_ANNOTATION,))
    digest = fingerprint([spec, shown.get("labels", {}), annotations])
    return replace(revision, content_digest=digest)


def _without(given: Mapping[str, Any], left_out: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key not in left_out}
