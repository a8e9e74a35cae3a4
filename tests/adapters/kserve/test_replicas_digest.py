"""Two replicas that get the same objects by different paths end with the same digest."""

from __future__ import annotations

import copy
from datetime import datetime, timedelta
from typing import Any

import pytest

from server.adapters.kserve.informers.collections import Resource
from server.adapters.kserve.informers.object_cache import ObjectCache
from server.adapters.kserve.informers.service_views import ServiceView, ServiceViews
from server.adapters.kserve.informers.watch_stream import WatchEvent
from server.adapters.kserve.objects import key_of
from server.domain.service.inference_service import ServiceKey
from server.domain.service.state_digest import state_digest
from tests.adapters.kserve.replaying import KINDS, KNATIVE_NAMES, NAMES, merged, recording

LIVES = [*NAMES, *(f"knative/{name}" for name in KNATIVE_NAMES)]
# Only memory has the cause: its pods are gone, and Knative makes none at zero scale.
REMEMBERED = "knative/update_crashes_at_zero"
# Longer than every grace period that ends without a change of an object.
SETTLED = timedelta(minutes=30)

Objects = dict[str, tuple[str, dict[str, Any]]]


class Replica:
    """One process: its cache, and what it remembers."""

    def __init__(self) -> None:
        self.object_cache = ObjectCache(lambda _: None)
        self.views = ServiceViews(self.object_cache)

    def watch(self, kind: str, event: str, found: dict[str, Any]) -> None:
        change = WatchEvent(event, copy.deepcopy(found))
        self.object_cache.changed(Resource(KINDS[kind]), change)

    def list(self, objects: Objects) -> None:
        for name, kind in KINDS.items():
            # In the order of names, as the API server lists.
            found = sorted(
                (copy.deepcopy(o) for kind_of, o in objects.values() if kind_of == name),
                key=lambda o: str(o["metadata"]["name"]),
            )
            began = self.object_cache.listing_begins()
            self.object_cache.listed(Resource(kind), found, began)

    def view(self, key: ServiceKey, now: datetime) -> ServiceView | None:
        self.views.record(key, now)
        return self.views.derive(key, now)

    def settle(self, key: ServiceKey, now: datetime) -> ServiceView | None:
        """Recheck as often as time alone changes the status."""
        view, until = self.view(key, now), now + SETTLED
        while view and view.recheck_at and view.recheck_at <= until:
            view = self.view(key, view.recheck_at)
        return view and self.view(key, until)


@pytest.mark.parametrize("name", [name for name in LIVES if name != REMEMBERED])
def test_a_replica_that_listed_at_the_end_has_the_digest_of_one_that_watched_all(name: str) -> None:
    seen, listed = settled_views(name)
    assert seen == listed


def test_a_failure_that_one_process_remembers_alone_has_a_digest_of_its_own() -> None:
    seen, listed = settled_views(REMEMBERED)
    assert seen != listed


def settled_views(name: str) -> tuple[str | None, str | None]:
    """The digests of a replica that watched all, and of one that listed the end; None: gone."""
    played = recording(name)
    witness, newcomer = Replica(), Replica()
    objects: Objects = {}
    key = ServiceKey("", "")
    for change in played.changes:
        kind, known = objects.get(change["uid"], ("", {}))
        if change.get("gone"):
            del objects[change["uid"]]
            witness.watch(kind, "DELETED", known)
        else:
            kind, found = change["kind"], merged(known, change["patch"])
            objects[change["uid"]] = kind, found
            witness.watch(kind, "MODIFIED" if known else "ADDED", found)
            key = key_of(found) if kind == "service" else key
        witness.view(key, played.at(change["at"]))
    newcomer.list(objects)
    end = played.at(played.lasted)
    views = witness.settle(key, end), newcomer.settle(key, end)
    seen, listed = (state_digest(view.service) if view else None for view in views)
    return seen, listed
