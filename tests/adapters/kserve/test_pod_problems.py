"""Pods that do not start, or are lost, with the messages of scheduler and kubelet."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from server.adapters.kserve.names import READY_TIMEOUT_ANNOTATION
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.parsed_service import parse_service
from server.domain.rollout.status import FailureReason, State
from tests.adapters.kserve.replaying import merged
from tests.adapters.kserve.shown import (
    deadline_passed,
    facts,
    serving,
    stamp,
    starting,
    verdict,
    waiting,
    warning,
    with_container,
    with_deployment,
    with_pod_condition,
    with_pods,
    with_service,
)

SECOND = timedelta(seconds=1)


def test_a_first_pull_error_that_may_pass_is_only_named_until_the_kubelet_backs_off() -> None:
    observed, now = starting()
    pulling = with_container(observed, state=waiting("ErrImagePull", "dial tcp: i/o timeout"))
    named = verdict(pulling, now)
    assert named.state is State.PROGRESSING
    assert named.failure
    assert named.failure.reason is FailureReason.IMAGE_PULL
    backing_off = with_container(observed, state=waiting("ImagePullBackOff", "Back-off pulling"))
    assert verdict(backing_off, now).state is State.FAILED
    warned = warning(observed.pods[0], "Failed", "Error: ImagePullBackOff", now)
    assert verdict(replace(pulling, events=(warned,)), now).state is State.FAILED


@pytest.mark.parametrize("words", ["x: not found", "pull access denied", "401 Unauthorized"])
def test_a_first_pull_error_that_cannot_pass_fails_at_once(words: str) -> None:
    observed, now = starting()
    pulling = with_container(observed, state=waiting("ErrImagePull", words))
    assert verdict(pulling, now).state is State.FAILED


def test_an_image_name_that_can_never_be_pulled_is_not_retried() -> None:
    observed, now = starting()
    decision = verdict(with_container(observed, state=waiting("InvalidImageName", "bad")), now)
    assert decision.state is State.FAILED
    assert decision.failure
    assert not decision.failure.retrying


def test_a_missing_secret_key_fails_at_once_with_the_clusters_own_words() -> None:
    observed, now = starting()
    words = "couldn't find key TOKEN in Secret models/creds"
    broken = with_container(observed, state=waiting("CreateContainerConfigError", words))
    decision = verdict(broken, now)
    assert decision.state is State.FAILED
    assert decision.failure
    assert decision.failure.reason is FailureReason.CONTAINER_CONFIG
    assert words in decision.failure.message


def test_a_volume_that_cannot_be_mounted_fails_after_ten_seconds() -> None:
    observed, now = starting()
    creating = with_container(observed, state=waiting("ContainerCreating"))
    warned = warning(creating.pods[0], "FailedMount", 'secret "x" not found', now)
    stuck = replace(creating, events=(warned,))
    named = verdict(stuck, now)
    assert named.state is State.PROGRESSING
    assert named.failure
    assert named.failure.reason is FailureReason.VOLUME
    assert verdict(stuck, now + 10 * SECOND).state is State.FAILED


def test_an_old_volume_warning_of_a_pod_that_runs_is_forgotten() -> None:
    observed, now = starting()
    warned = warning(observed.pods[0], "FailedMount", "timed out", now)
    assert verdict(replace(observed, events=(warned,)), now).failure is None


def test_a_claim_that_is_not_bound_yet_has_as_long_as_a_node_that_fits() -> None:
    observed, now = starting()
    words = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."
    fields = {"status": "False", "reason": "Unschedulable", "message": words}
    unbound = with_pod_condition(observed, "PodScheduled", lastTransitionTime=stamp(now), **fields)
    assert verdict(unbound, now + 59 * SECOND).state is State.PROGRESSING
    late = verdict(unbound, now + 61 * SECOND)
    assert late.state is State.FAILED
    assert late.failure
    assert late.failure.reason is FailureReason.VOLUME


def test_past_its_deadline_a_rollout_fails_for_the_cause_that_is_known() -> None:
    observed, now = starting()
    no_cause = verdict(deadline_passed(observed, now), now)
    assert no_cause.state is State.FAILED
    assert no_cause.failure
    assert no_cause.failure.reason is FailureReason.PROGRESS_DEADLINE
    assert no_cause.failure.retrying
    pulling = with_container(observed, state=waiting("ErrImagePull", "i/o timeout"))
    caused = verdict(deadline_passed(pulling, now), now)
    assert caused.state is State.FAILED
    assert caused.failure
    assert caused.failure.reason is FailureReason.IMAGE_PULL


def _with_ready_timeout(observed: ObservedObjects, text: str) -> ObservedObjects:
    """With the annotation, as if the pods had it from the beginning."""
    annotations = {READY_TIMEOUT_ANNOTATION: text}
    return with_service(observed, {"spec": {"predictor": {"annotations": annotations}}})


def test_the_clusters_deadline_is_a_warning_while_a_longer_ready_timeout_runs() -> None:
    observed, _ = starting()
    written = parse_service(observed).written_at
    pulling = with_container(observed, state=waiting("ContainerCreating"))
    asked = _with_ready_timeout(pulling, "900s")
    passed = deadline_passed(asked, written + 600 * SECOND)
    warned = verdict(passed, written + 890 * SECOND)
    assert warned.state is State.PROGRESSING
    assert warned.failure
    assert warned.failure.reason is FailureReason.PROGRESS_DEADLINE
    assert "its ready_timeout allows more time" in warned.failure.message
    # From when its pods were asked for, a moment after the write.
    failed = verdict(passed, written + 910 * SECOND)
    assert failed.state is State.FAILED
    assert failed.failure
    assert failed.failure.reason is FailureReason.PROGRESS_DEADLINE
    assert "ready_timeout of 900 s" in failed.failure.message


def test_a_shorter_ready_timeout_fails_a_rollout_that_the_cluster_still_waits_for() -> None:
    observed, _ = starting()
    written = parse_service(observed).written_at
    asked = _with_ready_timeout(observed, "100s")
    early = verdict(asked, written + 90 * SECOND)
    assert early.state is State.PROGRESSING
    assert early.recheck_at
    assert early.recheck_at <= written + 110 * SECOND
    assert verdict(asked, written + 110 * SECOND).state is State.FAILED
    assert verdict(observed, written + 110 * SECOND).state is State.PROGRESSING
    served, now = serving()
    assert verdict(_with_ready_timeout(served, "1s"), now + 900 * SECOND).state is State.READY


def test_the_deadline_that_the_rollout_before_passed_fails_no_newer_one() -> None:
    observed, now = starting()
    fixing = verdict(deadline_passed(observed, now, of="iris-predictor-before"), now)
    assert fixing.state is State.PROGRESSING
    assert fixing.failure is None


@pytest.mark.parametrize(
    "words",
    [
        "pull access denied, repository does not exist or may require authorization:"
        " authorization failed: no basic auth credentials",
        "failed to authorize: failed to fetch anonymous token: unexpected status: 401 Unauthorized",
        "unexpected status code [manifests 1]: 403 Forbidden",
    ],
)
def test_a_pull_that_the_registry_denies_fails_at_once(words: str) -> None:
    observed, now = starting()
    denied = with_container(
        observed,
        state=waiting("ErrImagePull", f'failed to pull and unpack image "x/y:1": {words}'),
    )
    decision = verdict(denied, now)
    assert decision.state is State.FAILED
    assert decision.failure
    assert decision.failure.reason is FailureReason.IMAGE_PULL
    assert decision.failure.exit_code is None


def test_an_image_whose_signature_is_wrong_fails_at_once() -> None:
    observed, now = starting()
    unsigned = with_container(observed, state=waiting("SignatureValidationFailed", "no signature"))
    decision = verdict(unsigned, now)
    assert decision.state is State.FAILED
    assert decision.failure
    assert decision.failure.reason is FailureReason.IMAGE_PULL


@pytest.mark.parametrize(
    ("reason", "words", "state"),
    [
        ("CreateContainerConfigError", "container has runAsNonRoot", State.FAILED),
        ("CreateContainerError", "failed to reserve container name", State.PROGRESSING),
        ("CreateContainerError", "failed to generate spec: no command specified", State.FAILED),
        ("RunContainerError", "context deadline exceeded", State.PROGRESSING),
        (
            "RunContainerError",
            'dial unix /run/containerd/containerd.sock: connect: no such file or directory"',
            State.PROGRESSING,
        ),
        (
            "RunContainerError",
            'retrieve OCI runtime error: exec: "runc": executable file not found in $PATH',
            State.PROGRESSING,
        ),
        ("CreateContainerError", "mkdir /var/lib/x: permission denied", State.PROGRESSING),
        (
            "RunContainerError",
            'unable to start container process: exec: "/run.sh": permission denied: unknown',
            State.FAILED,
        ),
        (
            "RunContainerError",
            'unable to start container process: error during container init: exec: "/run.sh":'
            " stat /run.sh: no such file or directory: unknown",
            State.FAILED,
        ),
        (
            "RunContainerError",
            r'starting container process caused "exec: \"/run.sh\": permission denied"',
            State.FAILED,
        ),
        ("PreStartHookError", "not enough cpus available", State.PROGRESSING),
    ],
)
def test_a_container_that_cannot_be_made_is_named_and_fails_where_no_try_will_help(
    reason: str, words: str, state: State
) -> None:
    observed, now = starting()
    decision = verdict(with_container(observed, state=waiting(reason, words)), now)
    assert decision.state is state
    assert decision.failure
    assert decision.failure.reason is FailureReason.CONTAINER_CONFIG
    assert words in decision.failure.message


def evicted(observed: ObservedObjects, words: str) -> ObservedObjects:
    """As the kubelet leaves a pod that it has put out; a ReplicaSet makes another one."""
    status = {"phase": "Failed", "reason": "Evicted", "message": words}
    gone = with_container(
        observed, state={"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}}
    )
    return with_pods(gone, {"status": status})


@pytest.mark.parametrize(
    "words",
    [
        'Usage of EmptyDir volume "kserve-provision-location" exceeds the limit "16Mi". ',
        "Pod ephemeral local storage usage exceeds the total limit of containers 16Mi. ",
        'Container kserve-container exceeded its local ephemeral storage limit "16Mi". ',
    ],
)
def test_a_pod_that_used_more_disk_than_it_may_fails_the_rollout_at_once(words: str) -> None:
    observed, now = starting()
    decision = verdict(evicted(observed, words), now)
    assert decision.state is State.FAILED
    assert decision.failure
    assert decision.failure.reason is FailureReason.EVICTED
    assert words.strip() in decision.failure.message
    assert decision.failure.retrying


def test_a_pod_that_was_put_out_for_what_its_node_lacks_is_only_named() -> None:
    observed, now = starting()
    words = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi. "
    decision = verdict(evicted(observed, words), now)
    assert decision.state is State.PROGRESSING
    assert decision.failure
    assert decision.failure.reason is FailureReason.EVICTED


def test_one_that_served_before_has_ten_seconds_for_its_successor() -> None:
    observed, now = serving()
    gone = evicted(observed, "Usage of EmptyDir volume exceeds the limit")
    gone = with_pod_condition(gone, "Ready", lastTransitionTime=stamp(now))
    soon = verdict(gone, now + 5 * SECOND)
    assert soon.state is State.PROGRESSING
    assert soon.failure
    assert soon.failure.reason is FailureReason.EVICTED
    assert verdict(gone, now + 11 * SECOND).state is State.FAILED


def test_an_eviction_is_forgotten_once_another_pod_answers() -> None:
    observed, now = serving()
    later = {"name": "later", "uid": "later", "creationTimestamp": stamp(now)}
    [other] = with_pods(observed, {"metadata": later}).pods
    [gone] = evicted(observed, "Usage of EmptyDir volume exceeds the limit").pods
    asked_again = with_deployment(observed, {"spec": {"replicas": 2}})
    alone = replace(asked_again, pods=(gone,))
    assert [p.failure.reason for p in facts(alone, now).all_problems] == [FailureReason.EVICTED]
    decision = verdict(replace(asked_again, pods=(gone, other)), now)
    assert (decision.state, decision.failure) == (State.READY, None)


def test_a_node_that_cannot_make_room_for_a_pod_is_named() -> None:
    observed, now = starting()
    creating = with_container(observed, state=waiting("ContainerCreating"))
    words = 'Failed to create pod sandbox: plugin type="bridge" failed (add): no IP addresses'
    warned = warning(creating.pods[0], "FailedCreatePodSandBox", words, now)
    decision = verdict(replace(creating, events=(warned,)), now + 60 * SECOND)
    assert decision.state is State.PROGRESSING
    assert words in decision.message


def test_a_service_account_that_does_not_exist_is_named_and_fails_after_ten_seconds() -> None:
    observed, now = starting()
    words = (
        'pods "iris-predictor-x-" is forbidden: error looking up service account models/nobody:'
        ' serviceaccount "nobody" not found'
    )
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}
    refused |= {"message": words, "lastTransitionTime": stamp(now)}
    [made] = observed.replica_sets
    nobody = merged(made, {"status": {"conditions": [refused]}})
    refusing = replace(observed, pods=(), replica_sets=(nobody,))
    named = verdict(refusing, now)
    assert named.state is State.PROGRESSING
    late = verdict(refusing, now + 10 * SECOND)
    assert late.state is State.FAILED
    assert late.failure
    assert late.failure.reason is FailureReason.POD_REJECTED
    assert words in late.failure.message
    assert "service account" in late.failure.remedy
