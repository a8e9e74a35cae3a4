"""Read the revisions of a service: the stored ones, and those that are not stored yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from server.adapters.kserve.apply.api_server_errors import error_of, unavailable
from server.adapters.kserve.client import ApiServer, Unanswered, Unreachable
from server.adapters.kserve.informers.status_feed import StatusFeed
from server.adapters.kserve.manifests.object_parser import parse_object
from server.adapters.kserve.objects import Object, key_of, rollout_of
from server.adapters.kserve.revisions.history import history_of
from server.adapters.kserve.revisions.pending_rollouts import PendingRollouts, with_outcome_now
from server.adapters.kserve.revisions.revision_client import RevisionClient, RevisionRefused
from server.adapters.kserve.revisions.rollout_record import record_of
from server.domain.revisions.revision import Revision
from server.domain.service.inference_service import ServiceKey


class HistoryReader:
    """Reads the revisions of services; `pending_of` has what is not stored of one."""

    def __init__(
        self,
        api: ApiServer,
        feed: StatusFeed,
        pending_of: Callable[[ServiceKey], PendingRollouts | None],
        most: int,
    ) -> None:
        self._client = RevisionClient(api)
        self._feed = feed
        self._pending_of = pending_of
        self._most = most

    async def read(self, obj: Object) -> Sequence[Revision]:
        """Return the revisions of an InferenceService that was just read, newest first.

        Raises the errors of the cluster.
        """
        key, rollout = key_of(obj), rollout_of(obj)
        try:
            stored = await self._client.list(key, rollout.uid)
        except (Unreachable, Unanswered) as e:
            raise unavailable(e) from e
        except RevisionRefused as e:
            raise error_of(e.answer, key, writes=False) from e
        pending = self._pending_of(key)
        if pending is None or pending.uid != rollout.uid:
            pending = PendingRollouts(rollout.uid)
        objects = [o for n, o in sorted(pending.objects.items()) if n < rollout.generation]
        seen = [pending.with_outcome(record_of(parse_object(o))) for o in objects]
        seen.append(record_of(parse_object(obj)))
        newest, *older = history_of(pending.with_outcomes(stored), seen, self._most)
        shown = self._feed.derive(key)
        if shown and shown.rollout == rollout:
            newest = with_outcome_now(newest, rollout, shown.status)
        return [newest, *older]
