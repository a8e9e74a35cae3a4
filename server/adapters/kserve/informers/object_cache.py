"""Cache the raw objects of the API server, each under the service that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from server.adapters.kserve.held_object import SERVICE_LABEL, HeldObject, forget_parsed
from server.adapters.kserve.informers.collections import (
    BINDINGS,
    KNATIVE,
    LABELLED,
    Kind,
    Resource,
)
from server.adapters.kserve.informers.held_fields import hold_parsed
from server.adapters.kserve.informers.progress import number_of_version
from server.adapters.kserve.informers.service_cache import ServiceCache
from server.adapters.kserve.informers.text_interning import long_texts, share_texts
from server.adapters.kserve.informers.watch_stream import WatchEvent
from server.adapters.kserve.manifests.object_parser import ParsedObject, parse_object
from server.adapters.kserve.objects import Object, key_of, uid_of, version_of
from server.adapters.kserve.releases import NEWEST, Release
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.parse_cache import ParseCaches
from server.adapters.kserve.status.pods.account_rights import AccountRights, namespace_of_subject
from server.adapters.kserve.status.pods.bound_namespaces import BoundNamespaces
from server.adapters.kserve.status.pods.output_policy import OutputPolicy
from server.domain.caller import Caller
from server.domain.service.inference_service import ServiceKey

# The watch sends a written object within milliseconds. After this time it never will.
UNSEEN_TOO_LONG = 5.0
# Children belong to a service, events to the object with this uid, which may come after them.
_Owner = ServiceKey | str


class ObjectCache:
    """Cache what the cluster has. `touched` is called with the services that a change affects.

    `caller`: it decides which container text may be shown. `generation_seen`: see `ServiceCache`.
    """

    def __init__(
        self,
        touched: Callable[[Iterable[ServiceKey]], None],
        caller: Caller | None = None,
        generation_seen: Callable[[Object | None, Object], None] = lambda *_: None,
    ) -> None:
        self._touched = touched
        self._children = {kind: _ObjectsByOwner() for kind in LABELLED}
        self._events = _ObjectsByOwner()
        self._listed: dict[Resource, set[str]] = {}
        self._absent: set[Resource] = set()
        self._rights = AccountRights()
        self.bound_namespaces = BoundNamespaces()
        self._output_policy = OutputPolicy(caller)
        self._services = ServiceCache(self._forget_deleted, generation_seen)
        self._parse_caches = ParseCaches()
        self._release = NEWEST
        # The long texts of each service, once the first of its children has come.
        self._texts: dict[ServiceKey, dict[str, str]] = {}

    def keys(self) -> Iterator[ServiceKey]:
        """Return the keys of all services."""
        return self._services.keys()

    def service(self, key: ServiceKey) -> Object | None:
        """Return the cached InferenceService; None if there is none."""
        return self._services.get(key)

    def parsed(self, key: ServiceKey) -> ParsedObject | None:
        """Return the cached InferenceService, parsed; None if there is none."""
        service = self._services.get(key)
        return self._parse_caches.kept(key).parse(parse_object, service) if service else None

    def observed(self, key: ServiceKey) -> ObservedObjects | None:
        """Return the cached InferenceService with all of its objects; None if there is none."""
        service = self._services.get(key)
        if service is None:
            return None
        children = {kind: owned.of(key) for kind, owned in self._children.items()}
        pods = children[Kind.PODS]
        events = tuple(e for o in (service, *pods) for e in self._events.of(uid_of(o)))
        objects = (service, *chain.from_iterable(children.values()), *events)
        return ObservedObjects(
            service=service,
            deployments=children[Kind.DEPLOYMENTS],
            replica_sets=children[Kind.REPLICA_SETS],
            autoscalers=children[Kind.AUTOSCALERS],
            knative_services=children[Kind.KNATIVE_SERVICES],
            revisions=children[Kind.REVISIONS],
            pods=pods,
            events=events,
            knative_followed=self.follows_knative(key.namespace),
            release=self._release,
            output_policy=self._output_policy,
            cache=self._parse_caches.of(key, objects),
        )

    def follows_knative(self, namespace: str) -> bool:
        """Return whether the Knative objects of a namespace are watched."""
        absent = (r for r in self._absent if r.kind in KNATIVE)
        return not any(r.namespace in ("", namespace) for r in absent)

    def uid_at(self, key: ServiceKey) -> str:
        """Return the uid of the cached InferenceService; empty if there is none."""
        service = self._services.get(key)
        return uid_of(service) if service else ""

    def version_at(self, key: ServiceKey) -> int:
        """Return the resourceVersion of the cached InferenceService; 0 if there is none."""
        service = self._services.get(key)
        return number_of_version(service) if service else 0

    def put_written(self, key: ServiceKey, written: Object) -> None:
        """Store the API server's answer to a write. Older events are ignored from then on."""
        held = hold_parsed(Kind.SERVICES, written, stays_parsed=True)
        self._share(held, key)
        self._touch_services(self._services.take_written(held))

    def put_deleted(self, deleted: Object) -> None:
        """Drop a deleted InferenceService. Its events are ignored from then on."""
        self._touch_services(self._services.take_deleted(deleted))

    def put_release(self, release: Release) -> None:
        """Set the release of KServe. It affects the status of every service."""
        self._release = release
        self._touched(list(self.keys()))

    def listing_begins(self) -> int:
        """Return the token for `listed`. Call it before the list is requested."""
        return self._services.writes_so_far()

    def needs_list(self, resource: Resource) -> bool:
        """Return whether only a new list can show what became of a written object."""
        return resource.kind is Kind.SERVICES and self._services.has_unseen_write(UNSEEN_TOO_LONG)

    def listed(self, resource: Resource, objects: Sequence[Object], began: int) -> None:
        """Store a whole collection. Cached objects that are not in it are deleted."""
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
            changed = [self._drop_binding(uid) for uid in held - now]
            changed += [self._put_binding(uid_of(o), o) for o in objects]
            self._touch_subjects({subject for subjects in changed for subject in subjects})
            self._update_rights()
            return
        cached = self._objects_of(resource.kind)
        owners = [cached.drop(uid) for uid in held - now]
        owners += [owner for o in objects for owner in self._put(resource, o)]
        self._touch_owners(owners)

    def absent(self, resource: Resource) -> None:
        """Note that the collection is missing, or may not be read."""
        if resource not in self._absent:
            self.listed(resource, (), 0)
            self._absent.add(resource)
            self._update_rights()
            self._touched(list(self.keys()))

    def changed(self, resource: Resource, event: WatchEvent) -> None:
        """Apply a change of a collection."""
        deleted = event.type == "DELETED"
        if resource.kind is Kind.SERVICES:
            if deleted:
                self.put_deleted(event.object)
            else:
                self._share(event.object, key_of(event.object))
                self._touch_services(self._services.take_changed(event.object))
            return
        held = self._listed.setdefault(resource, set())
        uid = uid_of(event.object)
        if resource.kind in BINDINGS:
            (held.discard if deleted else held.add)(uid)
            self._touch_subjects(
                self._drop_binding(uid) if deleted else self._put_binding(uid, event.object)
            )
        elif deleted:
            held.discard(uid)
            self._touch_owners([self._objects_of(resource.kind).drop(uid)])
        else:
            held.add(uid)
            self._touch_owners(self._put(resource, event.object))

    def _put_binding(self, uid: str, binding: Object) -> frozenset[str]:
        self.bound_namespaces.put(uid, binding)
        return self._rights.put(uid, binding)

    def _drop_binding(self, uid: str) -> frozenset[str]:
        self.bound_namespaces.drop(uid)
        return self._rights.drop(uid)

    def _put(self, resource: Resource, found: Object) -> tuple[_Owner, ...]:
        """Store an object. Return the owners that this changes."""
        owner = _owner(resource.kind, found)
        # A list has all objects again, most of them as they are cached.
        if self._objects_of(resource.kind).has(found, owner):
            return ()
        if isinstance(owner, ServiceKey):
            self._share(found, owner)
        return self._objects_of(resource.kind).put(found, owner)

    def _share(self, found: Object, key: ServiceKey) -> None:
        """Replace an object's long texts by the equal ones of its cached service. Compressed
        objects hold no texts."""
        service = self._services.get(key)
        if service is None or isinstance(service, HeldObject) or isinstance(found, HeldObject):
            return
        if key not in self._texts:
            self._texts[key] = long_texts(service)
        share_texts(found, self._texts[key])

    def _touch_services(self, keys: Iterable[ServiceKey]) -> None:
        for key in keys:
            self._texts.pop(key, None)
            if self._services.get(key) is None:
                self._parse_caches.drop(key)
        self._touched(keys)

    def _forget_deleted(self) -> None:
        self._output_policy.clear()
        forget_parsed()

    def _update_rights(self) -> None:
        """Let the policy use the rights once both kinds of bindings are cached."""
        kinds = {r.kind for r in self._listed if r not in self._absent}
        self._output_policy.rights = self._rights if kinds.issuperset(BINDINGS) else None

    def _touch_subjects(self, subjects: Iterable[str]) -> None:
        namespaces = {namespace_of_subject(subject) for subject in subjects}
        if namespaces:
            self._touched([k for k in self.keys() if "" in namespaces or k.namespace in namespaces])

    def _objects_of(self, kind: Kind) -> _ObjectsByOwner:
        return self._events if kind is Kind.EVENTS else self._children[kind]

    def _touch_owners(self, owners: Iterable[_Owner | None]) -> None:
        self._touched({key for owner in owners if (key := self._service_of(owner))})

    def _service_of(self, owner: _Owner | None) -> ServiceKey | None:
        if owner is None or isinstance(owner, ServiceKey):
            return owner
        of_pod = self._children[Kind.PODS].owner(owner)
        return of_pod if isinstance(of_pod, ServiceKey) else self._services.key_of(owner)


class _ObjectsByOwner:
    """Hold the objects of one kind by uid and by owner."""

    def __init__(self) -> None:
        self._owners: dict[str, _Owner] = {}
        self._owned: dict[_Owner, dict[str, Object]] = {}

    def of(self, owner: _Owner) -> tuple[Object, ...]:
        return tuple(self._owned.get(owner, {}).values())

    def owner(self, uid: str) -> _Owner | None:
        return self._owners.get(uid)

    def has(self, found: Object, owner: _Owner) -> bool:
        """Return whether this very version of the object is held, by the same owner."""
        held = self._owned.get(owner, {}).get(uid_of(found))
        return held is not None and version_of(held) == version_of(found) != ""

    def put(self, found: Object, owner: _Owner) -> tuple[_Owner, ...]:
        """Hold an object. Return its owner, and the one that it had if that was another."""
        uid = uid_of(found)
        former = self._owners.get(uid, owner)
        if former != owner:
            self.drop(uid)
        self._owners[uid] = owner
        self._owned.setdefault(owner, {})[uid] = found
        return (owner,) if former == owner else (owner, former)

    def drop(self, uid: str) -> _Owner | None:
        owner = self._owners.pop(uid, None)
        if owner is not None:
            del self._owned[owner][uid]
            if not self._owned[owner]:
                del self._owned[owner]
        return owner


def _owner(kind: Kind, found: Object) -> _Owner:
    if isinstance(found, HeldObject):
        if kind is Kind.EVENTS:
            return found.subject
        return ServiceKey(found.namespace, found.service)
    if kind is Kind.EVENTS:
        return str(found["involvedObject"].get("uid", ""))
    metadata = found["metadata"]
    return ServiceKey(metadata["namespace"], metadata["labels"][SERVICE_LABEL])
