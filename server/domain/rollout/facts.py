"""What a cluster shows of a service, in the terms in which its state is decided."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import ComponentStatus, Failure


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with the new pods, or with making them.

    It fails the rollout once it has stood for `tolerated`; None: it may yet pass, and is only
    named. `written`: the end of the failure's message, where a container wrote it.
    """

    failure: Failure
    since: datetime
    tolerated: timedelta | None = timedelta(0)
    written: str = ""

    @property
    def fails_at(self) -> datetime | None:
        """When it stops being tolerated."""
        return None if self.tolerated is None else self.since + self.tolerated

    def with_written(self, instead: str) -> Problem:
        """The problem, with this in place of what a container wrote."""
        message = self.failure.message.removesuffix(self.written) + instead
        return replace(self, failure=replace(self.failure, message=message), written=instead)


@dataclass(frozen=True, slots=True)
class Starting:
    """A new pod whose start takes long: in words, and the container that it waits for.

    `look`: the number of the look at that container's log that is due, or was the last; 0 where
    there is no log yet.
    """

    words: str
    pod: str
    container: str
    look: int = 0


@dataclass(frozen=True, slots=True)
class ComponentFacts:
    """What the cluster shows of one component that the spec names.

    `present`: it has a workload. `applied`: that is made from this rollout's spec. `scaled`:
    replica counts and bounds are as asked. `complete`: all its pods are new, available and enough.
    `completed_at`: when they first were, for this rollout; it stays so whatever becomes of them.
    `available`: pods that answer, of whatever rollout. `unproven`: those that seem to, but whose
    container exited lately, so that they are not counted yet. `unavailable_since`: since when
    there is neither. `on_demand`: there may be none, since one comes up when it is asked for.
    `steady_at`: when the new pods will have survived their last container exit; None if none exited
    lately. `attempt`: names what the new pods are made from, where the cluster gives up on failing
    ones and begins anew; empty where it lets them stand.
    `starting`: the new pod whose start takes longest, if it does take long. `replaced_by`: why pods
    are replaced that nobody has deployed anew, in words.
    `problems`: of the new pods, most telling first. `pinned`: its traffic does not go as this
    rollout asked, because of a field that is not this rollout's. `looks_different_at`: when time
    alone will show more.
    """

    shown: ComponentStatus
    present: bool = False
    applied: bool = False
    scaled: bool = False
    complete: bool = False
    completed_at: datetime | None = None
    zero_wanted: bool = False
    available: int = 0
    unproven: int = 0
    unavailable_since: datetime | None = None
    on_demand: bool = False
    attempt: str = ""
    steady_at: datetime | None = None
    starting: Starting | None = None
    replaced_by: str = ""
    problems: tuple[Problem, ...] = ()
    pinned: Failure | None = None
    looks_different_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Remains:
    """What is left of a service that is being deleted or stopped.

    `since`: when that was asked. `left`: finalizers, children and pods in words, those that hold
    the others up first. `idle`: names the controller that has not done its part; empty if each has.
    `idle_after`: how long it may take before it is said not to run.
    """

    since: datetime
    left: str
    idle: str = ""
    idle_after: timedelta = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the cluster shows of a service, read at `now`.

    `written_at`: when this generation was written. `judged`: the controller has given a verdict
    at all, or leaves such a service to another one. `ready`: it says Ready of the service and of
    every component. `routed`: nothing but the readiness of the components keeps it from that.
    `refusal`: evidence, newer than the write, that the controller cannot carry the spec out.
    `warning`: what the controller complains of although all is as asked. `problems`: of the service
    as a whole. `was_ready`: this process has seen this rollout READY. `unheard`: the controller has
    said nothing since this generation was written, though it had before.
    `namespace_deleting`: its whole namespace is being deleted, which nothing can undo.
    `unfollowed_mode`: the deployment mode, where its workloads are not among what is shown.
    `remains`: what is left, of a service that is to go. `doing`: what is going on, in the words of
    a cluster that knows; empty: what the counts tell.
    """

    rollout: Rollout
    now: datetime
    written_at: datetime
    components: tuple[ComponentFacts, ...]
    deleting: bool = False
    stop_asked: bool = False
    stopped: bool = False
    judged: bool = False
    ready: bool = False
    routed: bool = False
    updates_disabled: bool = False
    refusal: Problem | None = None
    warning: str = ""
    problems: tuple[Problem, ...] = ()
    was_ready: bool = False
    unheard: bool = False
    namespace_deleting: bool = False
    unfollowed_mode: str = ""
    looks_different_at: datetime | None = None
    remains: Remains | None = None
    doing: str = ""

    @property
    def applied(self) -> bool:
        """Every component's workload is made from this rollout's spec."""
        return all(c.applied for c in self.components)

    @property
    def scaled(self) -> bool:
        """As many replicas are wanted as were asked for, and no more may be."""
        return all(c.scaled for c in self.components)

    @property
    def finished(self) -> bool:
        """This rollout's pods are all there is, enough and available, as asked."""
        return self.applied and self.scaled and all(c.complete for c in self.components)

    @property
    def serving(self) -> bool:
        """Every component that is there answers, by whatever rollout's pods."""
        present = [c for c in self.components if c.present]
        return bool(present) and all(c.available > 0 or c.on_demand for c in present)

    @property
    def steady(self) -> bool:
        """No new pod is recovering from an exit."""
        return all(c.steady_at is None or c.steady_at <= self.now for c in self.components)

    @property
    def completed_at(self) -> datetime | None:
        """When the last component was complete for the first time in this rollout."""
        times = [c.completed_at for c in self.components]
        return max(t for t in times if t) if times and all(times) else None

    @property
    def pinned(self) -> Failure | None:
        """Why the traffic does not go as this rollout asked, although all else is done."""
        return next((c.pinned for c in self.components if c.pinned), None)

    @property
    def all_problems(self) -> list[Problem]:
        """Every component's problems, most telling first, then the service's own."""
        return [p for c in self.components for p in c.problems] + list(self.problems)
