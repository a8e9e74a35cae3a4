"""ListRevisions and Rollback: read the revisions of a service, and go back to one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from server.control.authorizer import Authorizer, Verb
from server.control.call import Call
from server.control.deploy import Deployer
from server.domain.errors import (
    ConcurrentWrite,
    EtagMismatch,
    FieldInvalid,
    FieldViolation,
    NoReadyRevision,
    PageTokenInvalid,
    RevisionNotFound,
    ServiceNotFound,
)
from server.domain.opaque_tokens import decode_token, encode_token
from server.domain.revisions.revision import (
    Revision,
    RevisionContent,
    ServiceHistory,
    last_ready,
)
from server.domain.rollout.rollout_id import Rollout
from server.domain.service.commands import STOP_ANNOTATION, Applied, Deploy, fingerprint
from server.domain.service.inference_service import ServiceKey
from server.domain.service.validation import check_key, without_platform_keys
from server.domain.service.write_warnings import WriteWarning
from server.ports import Cluster

# Of all callers together: each costs the API server a list.
MOST_LISTS_AT_ONCE = 10
_LEFT_OUT = "is left out of the revision, since it belongs to the platform; set it by kubectl"


@dataclass(frozen=True, slots=True)
class RevisionQuery:
    """A request to list revisions. `page_token` belongs to the same service."""

    key: ServiceKey
    page_size: int
    page_token: str = ""


@dataclass(frozen=True, slots=True)
class ListedRevision:
    """A revision of a listing, and the one before it, which it is compared with."""

    revision: Revision
    before: Revision | None
    current: bool


@dataclass(frozen=True, slots=True)
class RevisionPage:
    """A page of revisions, newest first, and whether there are `more`."""

    key: ServiceKey
    revisions: Sequence[ListedRevision]
    more: bool

    def token_after(self, last: ListedRevision) -> str:
        """Return the token of a page that begins after a revision."""
        return encode_token([*_binding(self.key, last.revision), last.revision.number])


@dataclass(frozen=True, slots=True)
class Rollback:
    """Go back to a revision; 0: the newest one before the present that was READY.

    The other fields are those of the Deploy that it becomes.
    """

    key: ServiceKey
    revision: int = 0
    etag: str = ""
    request_id: str = ""
    validate_only: bool = False
    force: bool = False
    only_rollout: Rollout | None = None


class Rollouts:
    """Reads revisions from the cluster, and rolls back through the Deployer."""

    def __init__(self, cluster: Cluster, authorizer: Authorizer, deployer: Deployer) -> None:
        self._cluster = cluster
        self._authorizer = authorizer
        self._deployer = deployer
        self._lists = asyncio.Semaphore(MOST_LISTS_AT_ONCE)

    async def list_revisions(self, call: Call, query: RevisionQuery) -> RevisionPage:
        """Return a page of a service's revisions.

        Raises NamespaceNotServed, PermissionDenied, FieldInvalid, ServiceNotFound,
        PageTokenInvalid, and the errors of the cluster.
        """
        key = await self._authorizer.authorize(call, Verb.GET, query.key)
        check_key(key)
        # Each list is large; a rollback does not wait behind them.
        async with self._lists:
            history = await self._history(key)
        shown = await self._authorizer.shown_revisions(call, key, history.revisions)
        start = _page_start(key, query.page_token, shown)
        befores = [*shown[1:], None]
        listed = [
            ListedRevision(revision, before, current=revision is shown[0])
            for revision, before in zip(shown, befores, strict=True)
        ]
        end = start + query.page_size
        return RevisionPage(key, listed[start:end], more=end < len(listed))

    async def rollback(self, call: Call, rollback: Rollback) -> Applied:
        """Deploy the content of a revision, and return once the cluster has stored it."""
        key = await self._authorizer.authorize(call, Verb.DEPLOY, rollback.key)
        check_key(key)
        if rollback.revision < 0:
            why = f"must be the number of a revision, or 0, got {rollback.revision}"
            raise FieldInvalid([FieldViolation("revision", why)])
        history = await self._history(key)
        service, revisions = history.service, history.revisions
        deploy = Deploy(
            key,
            None,
            # Between the read and the write another Deploy must not be undone.
            etag=rollback.etag or service.etag,
            request_id=rollback.request_id,
            validate_only=rollback.validate_only,
            force=rollback.force,
            only_rollout=rollback.only_rollout,
            sent_hash=fingerprint(["rollback", rollback.revision]),
        )
        try:
            target, content = _target(key, rollback.revision, revisions)
        except (NoReadyRevision, RevisionNotFound) as refusal:
            if not rollback.request_id:
                raise
            # The revision can have been deleted since the first request with this id.
            return await self._deployer.deploy(call, replace(deploy, refusal=refusal))
        call.note_result(revision=str(target.number))
        deploy = replace(
            deploy,
            spec=content.spec,
            labels=content.labels,
            annotations={k: v for k, v in content.annotations.items() if k != STOP_ANNOTATION},
            rollback_of=target.number,
            # A rollback to the present changes nothing.
            archived_allowed=rollback.force or target is revisions[0],
        )
        # Another client may have set them; no Deploy can.
        deploy, left_out = without_platform_keys(deploy, service.labels, service.annotations)
        try:
            applied = await self._deployer.deploy(call, deploy)
        except EtagMismatch:
            if rollback.etag:
                raise
            raise ConcurrentWrite(
                f"{key} was changed while it was rolled back; nothing was written: try again"
            ) from None
        warnings = [WriteWarning(path, _LEFT_OUT) for path in left_out]
        return replace(applied, warnings=(*applied.warnings, *warnings))

    async def _history(self, key: ServiceKey) -> ServiceHistory:
        history = await self._cluster.history(key)
        if history is None:
            raise ServiceNotFound(key)
        return history


def _target(
    key: ServiceKey, number: int, revisions: Sequence[Revision]
) -> tuple[Revision, RevisionContent]:
    """Return the revision to go back to, with its content."""
    if number:
        target = next((r for r in revisions if r.number == number), None)
        if target is None:
            kept = ", ".join(str(revision.number) for revision in revisions)
            raise RevisionNotFound(f"{key} has no revision {number}; it has {kept}")
    else:
        target = last_ready(revisions)
        if target is None:
            raise NoReadyRevision(
                f"no revision of {key} before the present one was READY with another content: name"
                " the revision to go back to, or deploy a spec"
            )
    if target.content is None:
        why = _why_unknown(target)
        raise RevisionNotFound(
            f"the content of revision {target.number} of {key} is unknown: {why}"
        )
    return target, target.content


def _why_unknown(revision: Revision) -> str:
    if revision.gap:
        return "it was overwritten while no server ran, or before the cluster took its revision"
    if revision.content_digest:
        return "what is stored of it is damaged, or of a later release; name another revision"
    return "it has more than 256 KiB, or fields that this API does not have"


def _binding(key: ServiceKey, revision: Revision) -> list[str]:
    return [fingerprint([*key]), revision.rollout.uid]


def _page_start(key: ServiceKey, token: str, revisions: Sequence[Revision]) -> int:
    if not token:
        return 0
    match decode_token(token):
        # A service that was created again has no revision of the old one.
        case [binding, uid, int(number)] if [binding, uid] == _binding(key, revisions[0]):
            return sum(revision.number >= number for revision in revisions)
    raise PageTokenInvalid("page_token must be from a ListRevisions of the same service")
