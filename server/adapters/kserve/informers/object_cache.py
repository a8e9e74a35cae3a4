"""The raw objects as the API server sent them, each with the service that it belongs to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from server.adapters.kserve.informers.collections import (
    BINDINGS,
    KNATIVE,
    LABELLED,
    SERVICE_LABEL,
    Kind,
    Resource,
)
from server.adapters.kserve.informers.service_cache import HeldServices, key_of
from server.adapters.kserve.informers.text_interning import long_texts, share_texts
from server.adapters.kserve.informers.watch_stream import WatchEvent
from server.adapters.kserve.manifests.object_parser import ParsedObject, parse_object
from server.adapters.kserve.objects import Object, uid_of
from server.adapters.kserve.releases import NEWEST, Release
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.parse_cache import ParseCache
from server.adapters.kserve.status.pods.account_rights import AccountRights, namespace_of_subject
from server.adapters.kserve.status.pods.output_policy import OutputPolicy
from server.domain.caller import Caller
from server.domain.service.inference_service import ServiceKey

# The watch shows a write within milliseconds; after so many seconds it never will.
DOUBT_AFTER = 5.0
# Parts belong to a service; events to the object of this uid, which may come after them.
_Owner = ServiceKey | str


class Mirror:
    """A copy of the cluster. Whoever owns it hears which services each change touches.

    `caller`: who is shown what containers write.
    """

    def __init__(
        self,
        touched: Callable[[Iterable[ServiceKey]], None],
        caller: Caller | None = None,
    ) -> None:
        self._touched = touched
        self._services = HeldServices()
        self._parts = {kind: _Shelf() for kind in LABELLED}
        self._events = _Shelf()
        self._listed: dict[Resource, set[str]] = {}
        self._absent: set[Resource] = set()
        self._rights = AccountRights()
        self._output_policy = OutputPolicy(caller)
        self._parse_caches: defaultdict[ServiceKey, ParseCache] = defaultdict(ParseCache)
        self._release = NEWEST
        # Of services as they are, by the time that the first of their parts comes.
        self._texts: dict[ServiceKey, dict[str, str]] = {}

    def keys(self) -> Iterator[ServiceKey]:
        """Every service there is."""
        return self._services.keys()

    def parsed(self, key: ServiceKey) -> ParsedObject | None:
        """Return the InferenceService as last known, parsed; None if there is none."""
        service = self._services.get(key)
        return self._parse_caches[key].parse(parse_object, service) if service else None

    def observed(self, key: ServiceKey) -> ObservedObjects | None:
        """A service with all that belongs to it, as last known."""
        service = self._services.get(key)
        if service is None:
            self._parse_caches.pop(key, None)
            return None
        pods = self._parts[Kind.PODS].of(key)
        return ObservedObjects(
            service=service,
            deployments=self._parts[Kind.DEPLOYMENTS].of(key),
            replica_sets=self._parts[Kind.REPLICA_SETS].of(key),
            autoscalers=self._parts[Kind.AUTOSCALERS].of(key),
            knative_services=self._parts[Kind.KNATIVE_SERVICES].of(key),
            revisions=self._parts[Kind.REVISIONS].of(key),
            pods=pods,
            events=tuple(e for o in (service, *pods) for e in self._events.of(uid_of(o))),
            knative_followed=self.follows_knative(key.namespace),
            release=self._release,
            output_policy=self._output_policy,
            cache=self._parse_caches[key],
        )

    def follows_knative(self, namespace: str) -> bool:
        """Whether Knative's objects of a namespace are among what is held."""
        absent = (r for r in self._absent if r.kind in KNATIVE)
        return not any(r.namespace in ("", namespace) for r in absent)

    def pop_departures(self, key: ServiceKey) -> list[str]:
        """The uids that went from under a key since this was last asked, oldest first."""
        departed = self._services.pop_departures(key)
        if departed:
            self._output_policy.clear()
        return departed

    def put_written(self, written: Object) -> None:
        """Take the API server's answer to a write; what is older is not believed afterwards."""
        self._share(written, key_of(written))
        self._touch_services(self._services.take_written(written))

    def put_release(self, release: Release) -> None:
        """Take KServe's release, by which every service is looked at from now on."""
        self._release = release
        self._touched(list(self.keys()))

    def listing_begins(self) -> int:
        """A token that `listed` wants, taken before the list is asked for."""
        return self._services.writes_so_far()

    def in_doubt(self, resource: Resource) -> bool:
        """Whether only a new list can tell what has become of something."""
        return resource.kind is Kind.SERVICES and self._services.in_doubt(DOUBT_AFTER)

    def listed(self, resource: Resource, objects: Sequence[dict[str, Any]], began: int) -> None:
        """Take a whole collection; what was in it before and is not now is gone."""
        if resource.kind is Kind.SERVICES:
            for found in objects:
                self._share(found, key_of(found))
            self._touch_services(self._services.take_list(resource.namespace, objects, began))
            return
        if resource in self._absent:
            self._absent.remove(resource)
            self._touched(list(self.keys()))
        held, now = self._listed.get(resource, set()), {uid_of(o) for o in objects}
        self._listed[resource] = now
        if resource.kind in BINDINGS:
            changed = [self._rights.drop(uid) for uid in held - now]
            changed += [self._rights.put(uid_of(o), o) for o in objects]
            self._touch_subjects({subject for subjects in changed for subject in subjects})
            self._know_rights()
            return
        shelf = self._shelf(resource.kind)
        owners = [shelf.drop(uid) for uid in held - now]
        self._touch_owners([*owners, *(self._put(resource, o) for o in objects)])

    def absent(self, resource: Resource) -> None:
        """Take that there is no such collection, or none that may be read."""
        if resource not in self._absent:
            self.listed(resource, (), 0)
            self._absent.add(resource)
            self._know_rights()
            self._touched(list(self.keys()))

    def changed(self, resource: Resource, event: WatchEvent) -> None:
        """Take one change of a collection."""
        deleted = event.type == "DELETED"
        if resource.kind is Kind.SERVICES:
            self._share(event.object, key_of(event.object))
            self._touch_services(self._services.take_event(event.object, deleted=deleted))
            return
        held = self._listed.setdefault(resource, set())
        uid = uid_of(event.object)
        if resource.kind in BINDINGS:
            (held.discard if deleted else held.add)(uid)
            changed = self._rights.drop(uid) if deleted else self._rights.put(uid, event.object)
            self._touch_subjects(changed)
        elif deleted:
            held.discard(uid)
            self._touch_owners([self._shelf(resource.kind).drop(uid)])
        else:
            held.add(uid)
            self._touch_owners([self._put(resource, event.object)])

    def _put(self, resource: Resource, found: dict[str, Any]) -> _Owner:
        # Of the services' own managedFields the writes have need, of the others' nobody.
        found["metadata"].pop("managedFields", None)
        owner = _owner(resource.kind, found)
        if isinstance(owner, ServiceKey):
            self._share(found, owner)
        return self._shelf(resource.kind).put(found, owner)

    def _share(self, found: Object, key: ServiceKey) -> None:
        """Let an object have the long texts of the service that it is of, or a later state of."""
        service = self._services.get(key)
        if service is None:
            return
        if key not in self._texts:
            self._texts[key] = long_texts(service)
        share_texts(found, self._texts[key])

    def _touch_services(self, keys: Iterable[ServiceKey]) -> None:
        for key in keys:
            self._texts.pop(key, None)
        self._touched(keys)

    def _know_rights(self) -> None:
        """Rights are known once both kinds of bindings are held."""
        kinds = {r.kind for r in self._listed if r not in self._absent}
        self._output_policy.rights = self._rights if kinds.issuperset(BINDINGS) else None

    def _touch_subjects(self, subjects: Iterable[str]) -> None:
        namespaces = {namespace_of_subject(subject) for subject in subjects}
        if namespaces:
            self._touched([k for k in self.keys() if "" in namespaces or k.namespace in namespaces])

    def _shelf(self, kind: Kind) -> _Shelf:
        return self._events if kind is Kind.EVENTS else self._parts[kind]

    def _touch_owners(self, owners: Iterable[_Owner | None]) -> None:
        self._touched({key for owner in owners if (key := self._service_of(owner))})

    def _service_of(self, owner: _Owner | None) -> ServiceKey | None:
        if owner is None or isinstance(owner, ServiceKey):
            return owner
        of_pod = self._parts[Kind.PODS].owner(owner)
        return of_pod if isinstance(of_pod, ServiceKey) else self._services.key_of(owner)


class _Shelf:
    """The objects of one kind, by uid and by owner."""

    def __init__(self) -> None:
        self._owners: dict[str, _Owner] = {}
        self._owned: dict[_Owner, dict[str, Object]] = {}

    def of(self, owner: _Owner) -> tuple[Object, ...]:
        return tuple(self._owned.get(owner, {}).values())

    def owner(self, uid: str) -> _Owner | None:
        return self._owners.get(uid)

    def put(self, found: Object, owner: _Owner) -> _Owner:
        uid = uid_of(found)
        if self._owners.get(uid, owner) != owner:
            self.drop(uid)
        self._owners[uid] = owner
        self._owned.setdefault(owner, {})[uid] = found
        return owner

    def drop(self, uid: str) -> _Owner | None:
        owner = self._owners.pop(uid, None)
        if owner is not None:
            del self._owned[owner][uid]
            if not self._owned[owner]:
                del self._owned[owner]
        return owner


def _owner(kind: Kind, found: Object) -> _Owner:
    if kind is Kind.EVENTS:
        return str(found["involvedObject"].get("uid", ""))
    metadata = found["metadata"]
    return ServiceKey(metadata["namespace"], metadata["labels"][SERVICE_LABEL])
