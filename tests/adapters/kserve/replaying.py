"""Replay recorded lives of services on the lab.

A recording has every change of a service's objects as the API server's watches sent it (KServe
0.20, Standard mode but for those in knative/), each as a merge patch of the object before, and the
answers to the writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from server.adapters.kserve.informers.collections import Kind
from server.adapters.kserve.informers.held_fields import hold_parsed
from server.adapters.kserve.objects import Object
from server.adapters.kserve.status.knative.sticky_failures import StickyFailures
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.parse_cache import ParseCache
from server.adapters.kserve.status.pods.account_rights import AccountRights
from server.adapters.kserve.status.pods.output_policy import OutputPolicy
from server.adapters.kserve.status.service_status import facts_of, status_of
from server.adapters.kserve.status.staleness import StalenessCheck
from server.domain.rollout.facts import Facts
from server.domain.rollout.state_table import Decision, decide
from server.domain.rollout.status import FailureReason, InferenceServiceStatus, State

RECORDED = Path(__file__).with_name("recorded")
NAMES = sorted(path.stem for path in RECORDED.glob("*.json"))
KNATIVE_NAMES = sorted(path.stem for path in RECORDED.glob("knative/*.json"))
KINDS = {
    "service": Kind.SERVICES,
    "deployment": Kind.DEPLOYMENTS,
    "replica_set": Kind.REPLICA_SETS,
    "autoscaler": Kind.AUTOSCALERS,
    "pod": Kind.PODS,
    "event": Kind.EVENTS,
    "knative_service": Kind.KNATIVE_SERVICES,
    "revision": Kind.REVISIONS,
}
_HELD_IN = {
    "deployment": "deployments",
    "replica_set": "replica_sets",
    "autoscaler": "autoscalers",
    "pod": "pods",
    "event": "events",
    "knative_service": "knative_services",
    "revision": "revisions",
}

Step = tuple[int, State, FailureReason | None]


@dataclass(frozen=True)
class Report:
    """The status that a watcher got, so many seconds after the recording began."""

    at: float
    observed: ObservedObjects
    facts: Facts
    decision: Decision

    @property
    def generation(self) -> int:
        return self.facts.rollout.generation

    @property
    def step(self) -> Step:
        failure = self.decision.failure
        return self.generation, self.decision.state, failure.reason if failure else None

    @property
    def status(self) -> InferenceServiceStatus:
        return status_of(self.observed, self.facts, self.decision, None)


@dataclass
class Watcher:
    """One replica: it derives the status at each change, and when a recheck is due."""

    started: datetime
    staleness: StalenessCheck = field(default_factory=StalenessCheck)
    sticky_failures: StickyFailures = field(default_factory=StickyFailures)
    recheck_at: datetime | None = None
    ready_generation: int | None = None

    def look(self, observed: ObservedObjects, now: datetime) -> Report:
        self.staleness = self.staleness.updated(observed, now)
        facts = facts_of(observed, self.staleness, now)
        self.sticky_failures = self.sticky_failures.updated(facts)
        facts = self.sticky_failures.added_to(facts)
        was_ready = self.ready_generation == facts.rollout.generation
        facts = replace(facts, was_ready=was_ready)
        decision = decide(facts)
        if decision.state is State.READY:
            self.ready_generation = facts.rollout.generation
        self.recheck_at = decision.recheck_at
        return Report((now - self.started).total_seconds(), observed, facts, decision)

    def recheck_until(self, observed: ObservedObjects, now: datetime) -> Iterator[Report]:
        while self.recheck_at and self.recheck_at <= now:
            yield self.look(observed, self.recheck_at)


@dataclass(frozen=True)
class Recording:
    """A recording, readable up to any change."""

    started: datetime
    lasted: float
    changes: list[dict[str, Any]]

    def at(self, seconds: float) -> datetime:
        return self.started + timedelta(seconds=seconds)

    def objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The kind of each object that changed, and the object after the change."""
        objects: dict[str, dict[str, Any]] = {}
        for change in self.changes:
            if not change.get("gone"):
                uid = change["uid"]
                objects[uid] = merged(objects.get(uid, {}), change["patch"])
                yield change["kind"], objects[uid]

    def states(self) -> Iterator[tuple[float, ObservedObjects | None]]:
        """The objects after each change, as the informers hold them."""
        objects: dict[str, dict[str, Any]] = {}
        held: dict[str, tuple[str, Object]] = {}
        cache = ParseCache()
        for change in self.changes:
            if change.get("gone"):
                del objects[change["uid"]], held[change["uid"]]
            else:
                known = objects.get(change["uid"], {})
                kind, found = change["kind"], merged(known, change["patch"])
                objects[change["uid"]] = found
                held[change["uid"]] = kind, hold_parsed(KINDS[kind], found)
            yield change["at"], _observed(held, cache)


def recording(name: str) -> Recording:
    raw = json.loads((RECORDED / f"{name}.json").read_text())
    return Recording(datetime.fromtimestamp(raw["started"], UTC), raw["lasted"], raw["changes"])


@cache
def replay(name: str) -> tuple[Report, ...]:
    """Every status that a process reports which saw all changes, in order."""
    played = recording(name)
    watcher = Watcher(played.started)
    found: list[Report] = []
    observed: ObservedObjects | None = None
    for at, after in played.states():
        if observed:
            found += watcher.recheck_until(observed, played.at(at))
        observed = after
        if observed:
            found.append(watcher.look(observed, played.at(at)))
    if observed:
        found += watcher.recheck_until(observed, played.at(played.lasted))
    return tuple(found)


def steps(history: Iterable[Report]) -> list[Step]:
    """The reported states, without repetitions."""
    kept: list[Step] = []
    for one in history:
        if kept[-1:] != [one.step]:
            kept.append(one.step)
    return kept


def merged(target: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7386), without changing `target`, which may be held."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def _observed(objects: dict[str, tuple[str, Object]], cache: ParseCache) -> ObservedObjects | None:
    service = next((o for kind, o in objects.values() if kind == "service"), None)
    if service is None:
        return None
    parts = {
        name: tuple(o for kind, o in objects.values() if kind == held)
        for held, name in _HELD_IN.items()
    }
    # No account of these clusters was bound to any role.
    policy = OutputPolicy(rights=AccountRights())
    return ObservedObjects(
        service=service, knative_followed=True, output_policy=policy, cache=cache, **parts
    )
