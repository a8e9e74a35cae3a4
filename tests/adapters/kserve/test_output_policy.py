"""Container text is redacted wherever the cluster repeats it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.pods.account_rights import AccountRights
from server.adapters.kserve.status.pods.failure_log import excerpt, failure_log_request
from server.adapters.kserve.status.pods.output_policy import OutputPolicy
from server.adapters.kserve.status.service_status import status_of
from server.domain.caller import Caller
from server.domain.rollout.state_table import decide
from server.domain.rollout.status import FailureReason, InferenceServiceStatus
from server.domain.service.container_text import HELD_BACK, status_without_container_text
from tests.adapters.kserve.replaying import merged
from tests.adapters.kserve.shown import (
    end,
    ended,
    facts,
    serving,
    starting,
    waiting,
    warning,
    with_condition,
    with_container,
    with_deployment,
    with_pods,
    with_service,
)

SECRET = "sesame-1234"
SAID = f"cannot log in with \x1b[1m{SECRET}"
MASKED = "cannot log in with ***"
ENV = [{"name": "API_TOKEN", "value": SECRET}]
CONTAINERS = [{"name": "kserve-container", "env": ENV}]


def status(observed: ObservedObjects, now: datetime) -> InferenceServiceStatus:
    seen = facts(observed, now)
    return status_of(observed, seen, decide(seen), None)


def with_secret() -> tuple[ObservedObjects, datetime]:
    """A first rollout that is starting, whose pod holds the secret."""
    observed, now = starting()
    return with_pods(observed, {"spec": {"containers": CONTAINERS}}), now


def failed_revision(said: str = SAID) -> tuple[ObservedObjects, datetime]:
    """A Knative rollout that failed and has no pods."""
    observed, now = end("knative/image_missing")
    shown = {
        "type": "ContainerHealthy",
        "status": "False",
        "reason": "ExitCode1",
        "message": f"Container failed with: {said}",
        "lastTransitionTime": "2026-11-22T21:19:37Z",
    }

    def failed(revision: Any) -> Any:
        containers = [{**c, "env": [*c["env"], *ENV]} for c in revision["spec"]["containers"]]
        status = {"conditions": [shown]}
        return merged(revision, {"spec": {"containers": containers}, "status": status})

    revisions = tuple(map(failed, observed.revisions))
    gone: dict[str, Any] = {"pods": (), "deployments": (), "replica_sets": ()}
    return replace(observed, revisions=revisions, **gone), now


PLACES = ["termination message", "hook", "start", "probe", "condition", "revision"]


def shown_where(place: str) -> tuple[ObservedObjects, datetime]:
    observed, now = with_secret()
    if place == "condition":
        template = {"spec": {"template": {"spec": {"containers": CONTAINERS}}}}
        message = f'Revision "iris-predictor-00001" failed with message: {SAID}.'
        made = with_deployment(observed, template)
        return with_condition(made, "PredictorReady", status="False", message=message), now
    if place == "termination message":
        exits = ended(1, now, message=SAID)
        return with_container(observed, state=exits, restartCount=2), now
    if place == "hook":
        return with_container(observed, state=waiting("PostStartHookError", SAID)), now
    if place == "start":
        return with_container(observed, state=waiting("RunContainerError", SAID)), now
    if place == "probe":
        probed = warning(observed.pods[0], "Unhealthy", SAID, now)
        return replace(observed, events=(probed,)), now + timedelta(seconds=61)
    assert place == "revision"
    return failed_revision()


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_is_masked_wherever_the_cluster_repeats_what_a_container_wrote(place: str) -> None:
    shown = repr(status(*shown_where(place)))
    assert MASKED in shown
    assert SECRET not in shown
    assert "\\x1b" not in shown


@pytest.mark.parametrize("place", [p for p in PLACES if p != "condition"])
def test_container_text_can_be_removed_from_a_problem_later(place: str) -> None:
    problems = [problem.failure for problem in facts(*shown_where(place)).all_problems]
    assert "cannot log in" in repr(problems)
    later = [p.with_container_text("(not shown)") if p.container_text else p for p in problems]
    assert "(not shown)" in repr(later)
    assert "cannot log in" not in repr(later)


@pytest.mark.parametrize("place", PLACES)
def test_a_caller_who_may_not_read_logs_sees_nothing_of_it(place: str) -> None:
    shown = status(*shown_where(place))
    assert "cannot log in" in repr(shown)
    held_back = status_without_container_text(shown)
    assert HELD_BACK in repr(held_back)
    assert "cannot log in" not in repr(held_back)
    reasons = [each.failure and each.failure.reason for each in (shown, held_back)]
    assert reasons[0] == reasons[1]


def test_a_condition_message_in_a_warning_is_masked() -> None:
    observed, now = serving()
    made = with_service(observed, {"spec": {"predictor": {"model": {"env": ENV}}}})
    denied = with_condition(made, "Ready", status="False", reason="Other", message=SAID)
    shown = status(denied, now)
    assert MASKED in shown.message
    assert SECRET not in repr(shown)


def test_in_a_condition_the_secrets_of_the_spec_are_masked_when_no_pod_is_left() -> None:
    observed, now = starting()
    spec = {"spec": {"predictor": {"model": {"env": ENV}, "containers": None}}}
    asked = with_service(replace(observed, pods=()), spec)
    shown = status(with_condition(asked, "PredictorReady", status="False", message=SAID), now)
    assert MASKED in repr(shown)
    assert SECRET not in repr(shown)


def mounting(volume: dict[str, Any]) -> dict[str, Any]:
    mounted = [{"name": "kserve-container", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]
    return {"containers": mounted, "volumes": [{"name": "v", **volume}]}


def token(**fields: Any) -> dict[str, Any]:
    sources = [{"serviceAccountToken": {"path": "token", **fields}}, {"configMap": {"name": "c"}}]
    return mounting({"projected": {"sources": sources}})


def environment(**fields: Any) -> dict[str, Any]:
    return {"containers": [{"name": "kserve-container", **fields}]}


REFERENCE = {"secretKeyRef": {"name": "login", "key": "password"}}
FROM_SECRET = environment(env=[{"name": "LOGIN", "valueFrom": REFERENCE}])
# Of a pod: what it is made from, and a part of why its containers' text is held back.
HOLDINGS = {
    "a Secret's key": (FROM_SECRET, "values of Secrets in its environment"),
    "envFrom": (environment(envFrom=[{"secretRef": {"name": "login"}}]), "whole Secrets"),
    "a Secret's files": (mounting({"secret": {"secretName": "login"}}), "the files of a Secret"),
    "files of the node": (mounting({"hostPath": {"path": "/var/lib"}}), "files of its node"),
    "processes of the node": ({"hostPID": True}, "the processes of its node"),
    "all rights": (environment(securityContext={"privileged": True}), "is privileged"),
    "an account": ({"serviceAccountName": "trainer"}, "the ServiceAccount trainer"),
    "a token with rights": (token(), "which is bound to a role"),
    "a token for others": (token(audience="sts.amazonaws.com"), "for other systems"),
}


def asked(observed: ObservedObjects, caller: Caller, *, bound: bool) -> ObservedObjects:
    """Where this caller asks, and the namespace's default account may be `bound` to a role."""
    rights = AccountRights()
    namespace = observed.service["metadata"]["namespace"]
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": namespace}
    if bound:
        rights.put("b1", {"roleRef": {"name": "edit"}, "subjects": [subject]})
    return replace(observed, output_policy=OutputPolicy(caller, rights))


def holding(observed: ObservedObjects, made_from: dict[str, Any]) -> ObservedObjects:
    """With pods and Revisions made from this as well, and where KServe's word is all there is, with
    Deployments."""

    def made(owner: Any) -> Any:
        added = made_from.get("containers", [{}])[0]
        containers = [
            {**c, **added, "name": c["name"], "env": [*c.get("env", ()), *added.get("env", ())]}
            for c in owner["spec"]["containers"]
        ]
        return merged(owner, {"spec": {**made_from, "containers": containers}})

    revisions, pods = (tuple(map(made, o)) for o in (observed.revisions, observed.pods))
    found = replace(observed, revisions=revisions, pods=pods)
    if "failed with message" in repr(observed.service["status"]):
        return with_deployment(found, {"spec": {"template": {"spec": made_from}}})
    return found


@pytest.mark.parametrize("what", HOLDINGS)
@pytest.mark.parametrize("place", PLACES)
def test_text_of_a_container_that_can_read_secrets_is_held_back_everywhere(
    place: str, what: str
) -> None:
    made_from, why = HOLDINGS[what]
    observed, now = shown_where(place)
    made, bound = holding(observed, made_from), what == "a token with rights"

    def shown_to(caller: Caller) -> str:
        return repr(status(asked(made, caller, bound=bound), now))

    shown = shown_to(Caller())
    assert "cannot log in" not in shown
    assert why in shown
    assert "kubectl logs" in shown
    assert "MODELSERVICE_SHOW_CONTAINER_TEXT" in shown
    assert "cannot log in" in shown_to(Caller(reads_output_in=frozenset({"*"})))
    assert "cannot log in" not in shown_to(Caller(reads_output_in=frozenset({"elsewhere"})))


@pytest.mark.parametrize("place", PLACES)
def test_exit_code_reason_and_remedy_are_reported_while_the_text_is_held_back(place: str) -> None:
    observed, now = shown_where(place)
    known = status(observed, now).failure
    held = status(holding(observed, FROM_SECRET), now).failure
    assert (known is None) == (held is None)
    if known and held:
        assert (held.reason, held.exit_code, held.remedy) == (
            known.reason,
            known.exit_code,
            known.remedy,
        )


def test_container_text_that_looks_like_a_name_conflict_passes_the_gate_too() -> None:
    observed, now = failed_revision(f'Service "{SECRET}" already exists')
    assert SECRET not in repr(status(observed, now))
    shown = repr(status(holding(observed, FROM_SECRET), now))
    assert SECRET not in shown
    assert "not shown" in shown


@pytest.mark.parametrize(
    "said",
    ['relation "models" already exists', 'Service "iris" already exists'],
)
def test_container_text_is_not_parsed_as_a_name_conflict(said: str) -> None:
    failure = status(*failed_revision(said)).failure
    assert failure
    assert failure.reason is FailureReason.CRASH_LOOP
    assert said in failure.message
    assert "delete" not in failure.remedy


def test_the_platforms_own_messages_about_a_container_with_a_secret_are_shown() -> None:
    observed, now = starting()
    holds = holding(observed, FROM_SECRET)
    for reason, words in (
        ("ImagePullBackOff", 'Back-off pulling image "iris:2": not found'),
        ("CreateContainerConfigError", 'secret "login" not found'),
    ):
        failure = status(with_container(holds, state=waiting(reason, words)), now).failure
        assert failure
        assert words in failure.message
    words = "Readiness probe failed: HTTP probe failed with statuscode: 503"
    probed = replace(holds, events=(warning(holds.pods[0], "Unhealthy", words, now),))
    failure = status(probed, now + timedelta(seconds=61)).failure
    assert failure
    assert words in failure.message


def test_a_failed_load_is_detected_in_a_log_that_is_held_back() -> None:
    observed, now = starting()
    holds = holding(observed, FROM_SECRET)
    loading = with_container(holds, state=ended(1, now), restartCount=2)
    decision = decide(facts(loading, now))
    wanted = failure_log_request(loading, decision, now)
    assert wanted
    read = excerpt(f"ERROR: could not load model iris: {SECRET}", wanted)
    assert SECRET not in repr(read)
    assert read.lines == (wanted.output.held_back,)
    failure = decide(facts(replace(loading, logs={wanted.source: read}), now)).failure
    assert failure
    assert failure.reason is FailureReason.MODEL_LOAD


def probed_beside_a_sidecar(field: str) -> str:
    """What is said of a model server that is not ready, whose pod has a sidecar with a Secret too,
    once a probe of this field of the pod has failed."""
    observed, now = starting()
    sidecar = {"name": "sidecar", "env": [{"name": "LOGIN", "valueFrom": REFERENCE}]}
    beside = with_pods(
        observed, {"spec": {"containers": [*observed.pods[0]["spec"]["containers"], sidecar]}}
    )
    said = warning(beside.pods[0], "Unhealthy", "Readiness probe failed: said", now)
    said["involvedObject"]["fieldPath"] = field
    failure = status(replace(beside, events=(said,)), now + timedelta(seconds=61)).failure
    assert failure
    assert failure.reason is FailureReason.NOT_ANSWERING
    assert failure.container == "kserve-container"
    return failure.message


def test_only_the_probe_message_about_that_container_is_shown() -> None:
    assert "failed: said" in probed_beside_a_sidecar("spec.containers{kserve-container}")
    assert probed_beside_a_sidecar("spec.containers{sidecar}").endswith("is not ready")


def test_a_probe_message_about_an_unnamed_container_passes_the_gate_of_the_whole_pod() -> None:
    shown = probed_beside_a_sidecar("")
    assert "failed: said" not in shown
    assert "values of Secrets in its environment" in shown


def test_the_probe_message_of_a_relay_is_held_back_for_the_model_server_behind_it() -> None:
    observed, now = starting()
    [pod] = holding(observed, FROM_SECRET).pods
    [server] = pod["status"]["containerStatuses"]
    containers = [*pod["spec"]["containers"], {"name": "agent"}]
    statuses = [{**server, "ready": True}, {**server, "name": "agent"}]
    relayed = merged(
        pod, {"spec": {"containers": containers}, "status": {"containerStatuses": statuses}}
    )
    said = warning(relayed, "Unhealthy", "Readiness probe failed: said", now)
    said["involvedObject"]["fieldPath"] = "spec.containers{agent}"
    seen = replace(observed, pods=(relayed,), events=(said,))
    failure = status(seen, now + timedelta(seconds=61)).failure
    assert failure
    assert failure.reason is FailureReason.NOT_ANSWERING
    assert "not shown" in failure.message
    assert "failed: said" not in failure.message


def pod_of(*init: dict[str, Any], shares: bool = False, **main: Any) -> dict[str, Any]:
    spec = {"initContainers": list(init), "containers": [{"name": "kserve-container", **main}]}
    return {"spec": {**spec, "shareProcessNamespace": shares}}


def test_the_log_of_the_initializer_is_shown_although_the_model_server_has_a_secret() -> None:
    env = [{"name": "LOGIN", "valueFrom": REFERENCE}]
    pod = pod_of({"name": "storage-initializer"}, env=env)
    policy = OutputPolicy()
    assert policy.gate_for_container(pod, "storage-initializer").shown("404: no such model") == (
        "404: no such model"
    )
    assert policy.gate_for_container(pod, "kserve-container").shown("said") != "said"
    login = pod_of({"name": "storage-initializer", "env": env})
    assert policy.gate_for_container(login, "storage-initializer").shown("said") != "said"
    assert policy.gate_for_container(login, "kserve-container").shown("said") == "said"


def test_containers_that_share_their_processes_are_held_back_together() -> None:
    env = [{"name": "LOGIN", "valueFrom": REFERENCE}]
    modelcar = {"name": "modelcar", "restartPolicy": "Always"}
    pod = pod_of({"name": "modelcar-init"}, modelcar, shares=True, env=env)
    policy = OutputPolicy()
    assert policy.gate_for_container(pod, "modelcar").shown("said") != "said"
    assert policy.gate_for_container(pod, "modelcar-init").shown("NOK") == "NOK", (
        "it has ended by then"
    )
    assert policy.gate_for_container(pod, "no such container").shown("said") != "said"
