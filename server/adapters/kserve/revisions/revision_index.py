"""Hold which revisions are stored, from the metadata of their ControllerRevisions."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence

from server.adapters.kserve.client import ApiServer
from server.adapters.kserve.informers.collections import Resource, followed_revisions
from server.adapters.kserve.informers.held_revision import HeldRevision, KnownRevision
from server.adapters.kserve.informers.reflector import Reflector
from server.adapters.kserve.informers.watch_stream import WatchEvent
from server.adapters.kserve.names import REVISION_OF_LABEL
from server.adapters.kserve.objects import Object
from server.adapters.kserve.revisions.history import revision_at
from server.domain.revisions.revision import RevisionOutcome
from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import FailureReason
from server.domain.service.inference_service import ServiceKey

# As objects the revisions of a service take ten times as much.
_PACKED = struct.Struct("<QQBBQ")
_OUTCOMES: tuple[RevisionOutcome | None, ...] = (None, *RevisionOutcome)
_REASONS: tuple[FailureReason | None, ...] = (None, *FailureReason)
# Others can label any number of objects as revisions of one service.
MOST_HELD = 256


class RevisionIndex:
    """Follow the ControllerRevisions of `namespaces` while its `reflectors` run.

    `changed_of` is called with a service when one of its revisions was stored or deleted,
    `returned` when a collection can be read that could not be before.
    """

    def __init__(
        self,
        api: ApiServer,
        namespaces: Sequence[str],
        changed_of: Callable[[ServiceKey], None],
        returned: Callable[[], None],
    ) -> None:
        followed = followed_revisions(namespaces, REVISION_OF_LABEL)
        self.reflectors = [Reflector(api, resource, self) for resource in followed]
        self._changed_of = changed_of
        self._returned = returned
        # By the collection's namespace (empty: all), then by the service's uid.
        self._held: dict[str, dict[str, bytes]] = {}
        self._absent: set[str] = set()
        # The newest rollout of a service of others, which has no revisions.
        self._foreign: dict[ServiceKey, Rollout] = {}

    def readable(self, namespace: str) -> bool:
        """Return whether the revisions of a namespace are known."""
        return self._collection(namespace) is not None

    def refused(self, namespace: str) -> bool:
        """Return whether the revisions of a namespace may not be read."""
        return bool({namespace, ""} & self._absent)

    def of(self, namespace: str, uid: str) -> list[KnownRevision]:
        """Return the stored revisions of a service, oldest first."""
        held = self._collection(namespace)
        return _unpacked(held.get(uid, b"")) if held else []

    def revision_of(self, key: ServiceKey, rollout: Rollout) -> KnownRevision | None:
        """Return the stored revision of a rollout; None if it is not known which one that is."""
        return revision_at(self.of(key.namespace, rollout.uid), rollout.generation)

    def is_foreign(self, key: ServiceKey, rollout: Rollout) -> bool:
        """Return whether a rollout was noted to be of a service of others."""
        return self._foreign.get(key) == rollout

    def note_foreign(self, key: ServiceKey, rollout: Rollout) -> None:
        """Note that the newest rollout of a service of others makes no revision."""
        self._foreign[key] = rollout

    def forget(self, key: ServiceKey) -> None:
        """Forget a deleted service. The garbage collector deletes its revisions."""
        self._foreign.pop(key, None)

    def put(self, namespace: str, uid: str, known: KnownRevision) -> None:
        """Note a revision that was written."""
        held = self._collection(namespace)
        if held is not None:
            others = [k for k in _unpacked(held.get(uid, b"")) if k.generation != known.generation]
            held[uid] = _packed([*others, known])

    def drop(self, namespace: str, uid: str, generation: int) -> None:
        """Note a revision that is gone."""
        held = self._collection(namespace)
        if held is None or uid not in held:
            return
        left = [k for k in _unpacked(held[uid]) if k.generation != generation]
        if left:
            held[uid] = _packed(left)
        else:
            del held[uid]

    def listing_begins(self) -> int:
        """See `Sink`; a revision that a list lacks is written again, which changes nothing."""
        return 0

    def listed(self, resource: Resource, objects: Sequence[Object], began: int) -> None:
        """See `Sink`."""
        found: dict[str, list[KnownRevision]] = {}
        for obj in objects:
            assert isinstance(obj, HeldRevision)
            if obj.known:
                found.setdefault(obj.service_uid, []).append(obj.known)
        self._held[resource.namespace] = {uid: _packed(known) for uid, known in found.items()}
        if resource.namespace in self._absent:
            self._absent.remove(resource.namespace)
            self._returned()

    def absent(self, resource: Resource) -> None:
        """See `Sink`."""
        self._held.pop(resource.namespace, None)
        self._absent.add(resource.namespace)

    def needs_list(self, resource: Resource) -> bool:
        """See `Sink`."""
        return False

    def changed(self, resource: Resource, event: WatchEvent) -> None:
        """See `Sink`."""
        found = event.object
        assert isinstance(found, HeldRevision)
        if found.known is None:
            return
        namespace = found.owner.namespace
        if event.type == "DELETED":
            self.drop(namespace, found.service_uid, found.known.generation)
        else:
            self.put(namespace, found.service_uid, found.known)
        self._changed_of(found.owner)

    def _collection(self, namespace: str) -> dict[str, bytes] | None:
        return self._held.get(namespace, self._held.get(""))


def _packed(revisions: list[KnownRevision]) -> bytes:
    newest = sorted(revisions, key=lambda known: known.generation)[-MOST_HELD:]
    return b"".join(
        _PACKED.pack(
            known.generation,
            known.content_hash,
            _OUTCOMES.index(known.outcome),
            _REASONS.index(known.reason),
            known.seen_until,
        )
        for known in newest
    )


def _unpacked(packed: bytes) -> list[KnownRevision]:
    return list(_read(packed))


def _read(packed: bytes) -> Iterator[KnownRevision]:
    for generation, content_hash, outcome, reason, seen_until in _PACKED.iter_unpack(packed):
        found = _OUTCOMES[outcome], _REASONS[reason]
        yield KnownRevision(generation, content_hash, *found, seen_until)
