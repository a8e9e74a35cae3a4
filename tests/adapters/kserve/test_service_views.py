"""What a log adds to a failure: its lines, kept while newer ones are fetched, and what they say."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta

from server.adapters.kserve.informers.collections import Kind, Resource
from server.adapters.kserve.informers.object_cache import ObjectCache
from server.adapters.kserve.informers.service_views import ServiceView, ServiceViews
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.pods.failure_log import excerpt
from server.domain.rollout.status import Failure, FailureReason, State
from server.domain.service.inference_service import ServiceKey
from tests.adapters.kserve.shown import (
    deadline_passed,
    end,
    ended,
    running,
    serving,
    stamp,
    starting,
    waiting,
    when,
    with_condition,
    with_container,
    with_deployment_condition,
    with_pod_condition,
    with_pods,
)

KEY = ServiceKey("models", "iris")
CAUSE = "Couldn't load model 'iris'"


class Following:
    """Derives one service from what a object_cache was last told of it."""

    def __init__(self) -> None:
        self._object_cache = ObjectCache(lambda _: None)
        self._views = ServiceViews(self._object_cache)
        self._now = datetime.min.replace(tzinfo=UTC)

    def see(self, observed: ObservedObjects, now: datetime) -> ServiceView:
        lists = {
            Kind.SERVICES: [observed.service],
            Kind.DEPLOYMENTS: observed.deployments,
            Kind.REPLICA_SETS: observed.replica_sets,
            Kind.AUTOSCALERS: observed.autoscalers,
            Kind.PODS: observed.pods,
            Kind.KNATIVE_SERVICES: observed.knative_services,
            Kind.REVISIONS: observed.revisions,
        }
        for kind, objects in lists.items():
            copies = [copy.deepcopy(dict(o)) for o in objects]
            self._object_cache.listed(Resource(kind), copies, self._object_cache.listing_begins())
        self._now = now
        derived = self._views.derive(KEY, now)
        assert derived
        return derived

    def bind(self, *subjects: dict[str, str]) -> None:
        """Have these, and no others, bound to a role in the whole cluster."""
        bound = {"roleRef": {"name": "edit"}, "subjects": list(subjects)}
        binding = {"metadata": {"uid": "b1"}, **bound}
        self._object_cache.listed(Resource(Kind.ROLE_BINDINGS), [], 0)
        self._object_cache.listed(Resource(Kind.CLUSTER_ROLE_BINDINGS), [binding], 0)

    def read_log(self, derived: ServiceView, *lines: str) -> None:
        assert derived.log_wanted
        read = excerpt("\n".join(lines), derived.log_wanted)
        self._views.keep_log(KEY, derived.log_wanted, read, self._now)


def failure_of(derived: ServiceView) -> Failure:
    assert derived.service.status
    assert derived.service.status.failure
    return derived.service.status.failure


def test_what_was_told_ready_stays_so_while_kserve_lags_behind_a_scale_up() -> None:
    observed, now = serving()
    complete = with_deployment_condition(observed, "Progressing", lastUpdateTime=stamp(now))
    lags = complete
    for kind in ("PredictorReady", "Ready"):
        lags = with_condition(lags, kind, status="False", reason="MinimumReplicasUnavailable")
    following = Following()
    assert following.see(complete, now).service.status.state is State.READY
    assert following.see(lags, now + timedelta(seconds=1)).service.status.state is State.READY


def test_the_log_of_a_first_end_explains_the_second_at_once() -> None:
    observed, now = starting()
    following = Following()
    first = following.see(with_container(observed, state=ended(0, now)), now)
    assert (failure_of(first).reason, failure_of(first).log_lines) == (FailureReason.CRASH_LOOP, ())
    following.read_log(first, CAUSE)
    again = with_container(
        observed, state=waiting("CrashLoopBackOff"), lastState=ended(0, now), restartCount=1
    )
    second = following.see(again, now)
    assert second.service.status.state is State.FAILED
    assert failure_of(second).reason is FailureReason.MODEL_LOAD
    assert failure_of(second).log_lines == (CAUSE,)
    assert second.log_wanted


def test_the_log_of_a_run_that_goes_on_is_read_again_as_time_passes() -> None:
    observed, now = starting()
    following = Following()
    told = following.see(observed, now)
    looks: list[datetime] = []
    while len(looks) < 3:
        assert told.recheck_at
        now = told.recheck_at
        told = following.see(observed, now)
        if told.log_wanted:
            looks.append(now)
            following.read_log(told, "loading shard 1 of 10")
            told = following.see(observed, now)
            assert told.log_wanted is None
    since = looks[0] - timedelta(seconds=60)
    assert [(at - since).total_seconds() for at in looks] == [60, 120, 240]
    late = following.see(observed, since + timedelta(seconds=480))
    following.read_log(late, "RuntimeError: failed to load the model")
    again = following.see(observed, since + timedelta(seconds=480))
    assert failure_of(again).reason is FailureReason.MODEL_LOAD


def test_of_a_pod_that_served_for_long_the_log_is_read_again_as_soon_as_of_a_new_one() -> None:
    observed, now = serving()
    following = Following()
    now += timedelta(days=3)
    since = now.replace(microsecond=0)
    stuck = with_container(observed, state=running(since - timedelta(days=3)))
    stuck = with_pod_condition(stuck, "Ready", lastTransitionTime=stamp(since))
    failed = following.see(stuck, since + timedelta(seconds=11))
    following.read_log(failed, "waiting for a lock")
    told = following.see(stuck, since + timedelta(seconds=119))
    assert told.log_wanted is None
    assert told.recheck_at == since + timedelta(seconds=120)
    assert following.see(stuck, told.recheck_at).log_wanted


def test_the_log_of_a_run_that_goes_on_is_read_once_more_when_the_rollout_fails() -> None:
    observed, now = starting()
    following = Following()
    late = now + timedelta(seconds=300)
    following.read_log(following.see(observed, late), "loading shard 1 of 10")
    assert following.see(observed, late).log_wanted is None
    timed_out = deadline_passed(observed, late)
    failed = following.see(timed_out, late)
    assert failed.service.status.state is State.FAILED
    following.read_log(failed, "waiting for a licence")
    at_last = following.see(timed_out, late)
    assert failure_of(at_last).log_lines == ("waiting for a licence",)
    assert at_last.log_wanted is None


def test_a_run_that_said_nothing_leaves_the_log_of_the_one_before() -> None:
    observed, now = starting()
    following = Following()
    first = following.see(with_container(observed, state=ended(1, now)), now)
    following.read_log(first, "ValueError: no")
    again = with_container(observed, state=running(now), lastState=ended(1, now), restartCount=1)
    silent = following.see(again, now)
    following.read_log(silent)
    after = following.see(again, now)
    assert failure_of(after).log_lines == ("ValueError: no",)
    assert after.log_wanted is None


EVERY_ACCOUNT = {"kind": "Group", "name": "system:serviceaccounts"}
TOKEN = {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
MOUNTS = [{"name": "token", "mountPath": "/token"}]
WITH_TOKEN = {
    "containers": [{"name": "kserve-container", "volumeMounts": MOUNTS}],
    "volumes": [{"name": "token", **TOKEN}],
}


def test_lines_that_were_read_before_their_account_had_rights_are_held_back_once_it_has() -> None:
    observed, now = starting()
    crashing = with_container(with_pods(observed, {"spec": WITH_TOKEN}), state=ended(0, now))
    following = Following()
    following.bind()
    following.read_log(following.see(crashing, now), CAUSE)
    assert failure_of(following.see(crashing, now)).log_lines == (CAUSE,)
    following.bind(EVERY_ACCOUNT)
    held = following.see(crashing, now)
    [line] = failure_of(held).log_lines
    assert "which is bound to a role" in line
    assert CAUSE not in repr(held)
    assert failure_of(held).reason is FailureReason.MODEL_LOAD
    following.bind()
    assert failure_of(following.see(crashing, now)).log_lines == (CAUSE,)


def _crashed_again(observed: ObservedObjects) -> bool:
    statuses = [s for p in observed.pods for s in p["status"].get("containerStatuses", ())]
    return any(s["restartCount"] > 1 and s["lastState"] for s in statuses)


def test_of_pods_that_are_gone_nothing_is_shown_once_their_account_has_rights() -> None:
    crashing, now = when("knative/update_crashes_at_zero", _crashed_again)
    gone, later = end("knative/update_crashes_at_zero")
    said = ended(1, now, message=CAUSE)
    crashing = with_pods(crashing, {"spec": WITH_TOKEN})
    crashing = with_container(crashing, state=said, lastState=said, restartCount=2)
    assert not gone.pods
    following = Following()
    following.bind()
    shown = following.see(crashing, now)
    assert failure_of(shown).message.endswith(f": {CAUSE}")
    following.read_log(shown, CAUSE)
    kept = failure_of(following.see(gone, later))
    assert kept.message.endswith(f": {CAUSE}")
    assert kept.log_lines == (CAUSE,)
    following.bind(EVERY_ACCOUNT)
    held = failure_of(following.see(gone, later))
    assert CAUSE not in repr(held)
    assert "which is bound to a role" in held.message
    assert "which is bound to a role" in held.log_lines[0]
    assert (held.reason, held.exit_code, held.pod) == (kept.reason, kept.exit_code, kept.pod)
    following.bind()
    assert failure_of(following.see(gone, later)) == kept
