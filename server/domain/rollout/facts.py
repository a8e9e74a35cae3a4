"""The facts of a service, from which the state table decides its state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from server.domain.rollout.rollout_id import Rollout
from server.domain.rollout.status import ComponentStatus, Failure


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of the new pods, or of creating them.

    It fails the rollout once it has lasted for `tolerated`; None: it may still pass, and is only
    reported.
    """

    failure: Failure
    since: datetime
    tolerated: timedelta | None = timedelta(0)

    @property
    def fails_at(self) -> datetime | None:
        """Return the time at which it fails the rollout."""
        return None if self.tolerated is None else self.since + self.tolerated


@dataclass(frozen=True, slots=True)
class Starting:
    """A new pod that takes long to start, and the container that it waits for.

    `description`: in words for people. `log_read`: the number of the read of the container's log
    that is due or was last; 0 if it has no log yet.
    """

    description: str
    pod: str
    container: str
    log_read: int = 0


@dataclass(frozen=True, slots=True)
class ComponentFacts:
    """The facts of one component of the spec.

    `present`: it has a workload. `applied`: the workload is made from this rollout's spec.
    `scaled`: replica counts and bounds are those of the spec. `complete`: all its pods are new,
    available and enough. `completed_at`: the first time that it was complete in this rollout; later
    failures do not clear it. `scaled_to_zero`: no replica is wanted.

    `pods`: those of any rollout that have not ended, also while they are being deleted.
    `available`: pods of any rollout that answer. `recently_restarted`: pods that seem to answer,
    but are not counted yet because a container exited recently. `unavailable_since`: the time since
    when there is neither. `started_at`: when this rollout's pods were first asked for; None: not
    yet. `ready_once`: the cluster records that those pods were all ready once.
    `on_demand`: no pod is needed, since a request starts one. `attempt`:
    names the present attempt where the cluster gives up on failing pods and starts again, else
    empty. `stable_at`: when the new pods will count as stable again; None if none exited recently.

    `starting`: the new pod that takes longest to start, if one takes long. `replaced_by`: why pods
    are being replaced without a Deploy, in words. `problems`: of the new pods, the most significant
    first. `pinned`: a field of another manager keeps traffic from this rollout. `recheck_at`: when
    time alone will change these facts.
    """

    shown: ComponentStatus
    present: bool = False
    applied: bool = False
    scaled: bool = False
    complete: bool = False
    completed_at: datetime | None = None
    scaled_to_zero: bool = False
    pods: int = 0
    available: int = 0
    recently_restarted: int = 0
    unavailable_since: datetime | None = None
    started_at: datetime | None = None
    ready_once: bool = False
    on_demand: bool = False
    attempt: str = ""
    stable_at: datetime | None = None
    starting: Starting | None = None
    replaced_by: str = ""
    problems: tuple[Problem, ...] = ()
    pinned: Failure | None = None
    recheck_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RemainingObjects:
    """The remaining objects of a service that is being deleted or stopped.

    `since`: the time of the request. `description`: finalizers, children and pods in words, those
    that block others first. `idle_controller`: the controller that has not done its part, if any.
    `idle_after`: how long it may take before it counts as not running.
    """

    since: datetime
    description: str
    idle_controller: str = ""
    idle_after: timedelta = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of a service, read at `now`.

    `written_at`: when this generation was written. `stop_asked`: it is to stop, and its controller
    obeys that. `stopped`: the controller has stopped it, and nothing is left that would make pods.
    `pods_left`: those that have not ended, also while they are being deleted. `reconciled`: the
    controller has reported on the service, or leaves it to another controller. `ready`: it reports
    Ready for the service and every component. `ingress_ready`: nothing but the components'
    readiness keeps it from Ready. `refusal`: proof, newer than the write, that the controller
    cannot apply the spec. `warning`: a complaint of the controller about a service that is
    otherwise as specified. `problems`: of the service as a whole. `was_ready`: this process has
    seen this rollout READY.

    `ready_timeout`: how long the rollout may take; None: as long as the cluster allows.
    `time_resolution`: the cluster's times may be so much too early, since it cuts off the rest.
    `controller_silent`: the controller reported on earlier generations and not on this one.
    `namespace_deleting`: the whole namespace is being deleted, which cannot be undone.
    `unsupported_mode`: the deployment mode, if its workloads are not followed. `remaining`: the
    remaining objects of a service that is being deleted or stopped. `activity`: the present step in
    the cluster's words; empty: the replica counts describe it.
    """

    rollout: Rollout
    now: datetime
    written_at: datetime
    components: tuple[ComponentFacts, ...]
    deleting: bool = False
    stop_asked: bool = False
    stopped: bool = False
    pods_left: int = 0
    reconciled: bool = False
    ready: bool = False
    ingress_ready: bool = False
    updates_disabled: bool = False
    refusal: Problem | None = None
    warning: str = ""
    problems: tuple[Problem, ...] = ()
    was_ready: bool = False
    ready_timeout: timedelta | None = None
    time_resolution: timedelta = timedelta(0)
    controller_silent: bool = False
    namespace_deleting: bool = False
    unsupported_mode: str = ""
    recheck_at: datetime | None = None
    remaining: RemainingObjects | None = None
    activity: str = ""

    @property
    def applied(self) -> bool:
        """Report whether every component's workload is made from this rollout's spec."""
        return all(c.applied for c in self.components)

    @property
    def scaled(self) -> bool:
        """Report whether the replica counts and bounds are those of the spec."""
        return all(c.scaled for c in self.components)

    @property
    def scaled_to_zero(self) -> bool:
        """Report whether a component wants no replica."""
        return any(c.scaled_to_zero for c in self.components)

    @property
    def finished(self) -> bool:
        """Report whether only pods of this rollout exist, and enough of them are available."""
        return self.applied and self.scaled and all(c.complete for c in self.components)

    @property
    def serving(self) -> bool:
        """Report whether every present component answers, by pods of any rollout."""
        present = [c for c in self.components if c.present]
        return bool(present) and all(c.available > 0 or c.on_demand for c in present)

    @property
    def stable(self) -> bool:
        """Report whether no new pod is recovering from an exit."""
        return all(c.stable_at is None or c.stable_at <= self.now for c in self.components)

    @property
    def completed_at(self) -> datetime | None:
        """Return the time at which all components had been complete in this rollout."""
        times = [c.completed_at for c in self.components]
        return max(t for t in times if t) if times and all(times) else None

    @property
    def ready_by(self) -> datetime | None:
        """Return when the rollout must have been READY; None if it has been or need not be.

        It counts from the write, or from when the last pods were first asked for, if that is later.
        Until then other rows explain why they are not.
        """
        ready_once = self.was_ready or all(c.ready_once for c in self.components)
        starts = [c.started_at for c in self.components if c.started_at]
        if self.ready_timeout is None or ready_once or len(starts) < len(self.components):
            return None
        return max(self.written_at, *starts) + self.ready_timeout + self.time_resolution

    @property
    def pinned(self) -> Failure | None:
        """Return the failure that pins traffic to another rollout, if one does."""
        return next((c.pinned for c in self.components if c.pinned), None)

    @property
    def all_problems(self) -> list[Problem]:
        """Return every component's problems, the most significant first, then the service's own."""
        return [p for c in self.components for p in c.problems] + list(self.problems)
