"""The object cache: what belongs to a service, and which services a change touches."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.adapters.kserve.informers.collections import BINDINGS, Kind, Resource, followed
from server.adapters.kserve.informers.object_cache import ObjectCache
from server.adapters.kserve.informers.watch_stream import WatchEvent
from server.domain.service.inference_service import ServiceKey

IRIS = ServiceKey("team-a", "iris")
SERVICES = Resource(Kind.SERVICES)
PODS = Resource(Kind.PODS)
EVENTS = Resource(Kind.EVENTS)


def service(uid: str = "s1", key: ServiceKey = IRIS) -> dict[str, Any]:
    meta = {"namespace": key.namespace, "name": key.name, "uid": uid, "generation": 1}
    return {"metadata": {**meta, "managedFields": [{"manager": "kubectl"}]}}


def pod(uid: str = "p1", name: str = IRIS.name) -> dict[str, Any]:
    labels = {"serving.kserve.io/inferenceservice": name}
    meta = {"namespace": IRIS.namespace, "name": uid, "uid": uid, "labels": labels}
    return {"metadata": {**meta, "managedFields": [{"manager": "kubelet"}]}}


def warning(about: str, uid: str = "e1") -> dict[str, Any]:
    return {
        "metadata": {"namespace": IRIS.namespace, "name": uid, "uid": uid},
        "involvedObject": {"uid": about},
    }


class Touches:
    def __init__(self) -> None:
        self.keys: set[ServiceKey] = set()
        self.object_cache = ObjectCache(self._note)

    def _note(self, keys: Iterable[ServiceKey]) -> None:
        self.keys |= set(keys)

    def by(self, resource: Resource, found: dict[str, Any], kind: str = "ADDED") -> set[ServiceKey]:
        self.keys = set()
        self.object_cache.changed(resource, WatchEvent(kind, found))
        return self.keys


def test_a_service_is_observed_with_its_parts_and_the_warnings_about_it_and_its_pods() -> None:
    touches = Touches()
    touches.by(SERVICES, service())
    assert touches.by(PODS, pod()) == {IRIS}
    assert touches.by(EVENTS, warning("s1", "e1")) == {IRIS}
    assert touches.by(EVENTS, warning("p1", "e2")) == {IRIS}
    assert touches.by(EVENTS, warning("somebody's", "e3")) == set()

    observed = touches.object_cache.observed(IRIS)

    assert observed
    assert [p["metadata"]["uid"] for p in observed.pods] == ["p1"]
    assert [e["metadata"]["uid"] for e in observed.events] == ["e1", "e2"]


def test_without_its_service_nothing_is_observed() -> None:
    touches = Touches()
    touches.by(PODS, pod())
    assert touches.object_cache.observed(IRIS) is None


def test_a_list_drops_what_it_does_not_hold_and_touches_whose_that_was() -> None:
    touches = Touches()
    touches.by(SERVICES, service())
    touches.object_cache.listed(PODS, [pod("p1"), pod("p2", "other")], 0)
    touches.keys = set()

    touches.object_cache.listed(PODS, [pod("p2", "other")], 0)

    observed = touches.object_cache.observed(IRIS)
    assert observed
    assert observed.pods == ()
    assert touches.keys == {IRIS, ServiceKey(IRIS.namespace, "other")}


def test_an_object_that_moves_to_another_service_touches_both() -> None:
    other = ServiceKey(IRIS.namespace, "other")
    touches = Touches()
    touches.by(PODS, pod("p1", IRIS.name))
    assert touches.by(PODS, pod("p1", other.name), "MODIFIED") == {IRIS, other}

    touches.keys = set()
    touches.object_cache.listed(PODS, [pod("p1", IRIS.name)], 0)
    assert touches.keys == {IRIS, other}


def test_lists_of_two_namespaces_do_not_drop_each_others_objects() -> None:
    touches = Touches()
    touches.by(SERVICES, service())
    touches.object_cache.listed(Resource(Kind.PODS, "team-a"), [pod()], 0)
    touches.object_cache.listed(Resource(Kind.PODS, "team-b"), [], 0)

    observed = touches.object_cache.observed(IRIS)
    assert observed
    assert len(observed.pods) == 1


def test_a_recreated_service_has_none_of_the_warnings_about_the_old_one() -> None:
    touches = Touches()
    touches.by(SERVICES, service("s1"))
    touches.by(EVENTS, warning("s1"))
    touches.by(SERVICES, service("s1"), "DELETED")
    touches.by(SERVICES, service("s2"))

    observed = touches.object_cache.observed(IRIS)
    assert observed
    assert observed.events == ()


CHANGES = [
    (SERVICES, service(), "ADDED"),
    (PODS, pod("p1"), "ADDED"),
    (PODS, pod("p2"), "ADDED"),
    (EVENTS, warning("p1", "e1"), "ADDED"),
    (EVENTS, warning("s1", "e2"), "ADDED"),
    (EVENTS, warning("p2", "e3"), "ADDED"),
]


@given(st.permutations(CHANGES))
def test_in_whatever_order_the_kinds_arrive_the_same_is_observed_and_its_service_touched(
    changes: list[tuple[Resource, dict[str, Any], str]],
) -> None:
    touches = Touches()
    for resource, found, kind in changes:
        before = touches.object_cache.observed(IRIS)
        touched = touches.by(resource, found, kind)
        changed = touches.object_cache.observed(IRIS) != before
        assert not changed or touched == {IRIS}, "a change that nobody hears of"

    observed = touches.object_cache.observed(IRIS)
    assert observed
    assert {p["metadata"]["uid"] for p in observed.pods} == {"p1", "p2"}
    assert {e["metadata"]["uid"] for e in observed.events} == {"e1", "e2", "e3"}


def test_namespaces_are_followed_one_by_one_and_none_means_all() -> None:
    assert {r.namespace for r in followed([])} == {""}
    assert "/apis/serving.kserve.io/v1beta1/inferenceservices" in {r.path for r in followed([])}
    some = followed(["team-a", "team-b"])
    in_namespaces = [r for r in followed([]) if r.kind not in BINDINGS]
    assert len(some) == 2 * len(in_namespaces) + len(BINDINGS)
    assert {r.namespace for r in some if r.kind in BINDINGS} == {""}, (
        "an account has rights anywhere"
    )
    assert "/api/v1/namespaces/team-b/pods" in {r.path for r in some}


def test_a_service_is_observed_with_its_knative_service_and_revisions() -> None:
    touches = Touches()
    touches.by(SERVICES, service())
    assert touches.by(Resource(Kind.KNATIVE_SERVICES), pod("k1")) == {IRIS}
    assert touches.by(Resource(Kind.REVISIONS), pod("r1")) == {IRIS}
    observed = touches.object_cache.observed(IRIS)
    assert observed
    assert [o["metadata"]["uid"] for o in observed.knative_services] == ["k1"]
    assert [o["metadata"]["uid"] for o in observed.revisions] == ["r1"]
    assert observed.knative_followed


def test_every_service_is_touched_when_knative_goes_and_when_it_comes() -> None:
    touches = Touches()
    touches.by(SERVICES, service())
    revisions = Resource(Kind.REVISIONS)
    touches.by(revisions, pod("r1"))

    touches.keys = set()
    touches.object_cache.absent(revisions)
    assert touches.keys == {IRIS}
    observed = touches.object_cache.observed(IRIS)
    assert observed
    assert (observed.revisions, observed.knative_followed) == ((), False)

    touches.keys = set()
    touches.object_cache.absent(revisions)
    assert touches.keys == set(), "it was known"
    touches.object_cache.listed(revisions, [], 0)
    assert touches.keys == {IRIS}
    assert touches.object_cache.follows_knative(IRIS.namespace)


def test_knative_is_followed_namespace_by_namespace() -> None:
    object_cache = Touches().object_cache
    object_cache.absent(Resource(Kind.REVISIONS, "team-b"))
    assert object_cache.follows_knative("team-a")
    assert not object_cache.follows_knative("team-b")


def test_long_texts_of_a_service_are_kept_once_with_all_that_is_made_of_it() -> None:
    def with_texts(found: dict[str, Any], revision: str = "1") -> dict[str, Any]:
        env = [{"name": "PROMPT", "value": revision + "x" * 1000}, {"name": "SHORT", "value": "y"}]
        found["spec"] = {"containers": [{"env": env, "args": ["z" * 1000, "w" * 300 + revision]}]}
        found["metadata"]["annotations"] = {"note": "n" * 1000}
        return json.loads(json.dumps(found))

    def texts(found: Any) -> list[int]:
        [container] = found["spec"]["containers"]
        note = found["metadata"]["annotations"]["note"]
        return [id(text) for text in (note, container["env"][0]["value"], *container["args"])]

    touches = Touches()
    touches.by(SERVICES, with_texts(service()))
    touches.by(PODS, with_texts(pod("p1")))
    touches.by(SERVICES, with_texts(service()), "MODIFIED")
    touches.object_cache.put_written(IRIS, with_texts(service()))
    touches.object_cache.listed(PODS, [with_texts(pod("p1")), with_texts(pod("p2"))], 0)
    observed = touches.object_cache.observed(IRIS)
    assert observed
    assert len(observed.pods) == 2
    assert all(texts(p) == texts(observed.service) for p in observed.pods)

    # Of another revision what is as before is kept as well, and nothing else.
    before = texts(observed.service)
    touches.by(SERVICES, with_texts(service(), "2"), "MODIFIED")
    touches.by(PODS, with_texts(pod("p2"), "2"), "MODIFIED")
    observed = touches.object_cache.observed(IRIS)
    assert observed
    old, new = observed.pods
    assert texts(old) == before
    assert texts(new) == texts(observed.service)
    assert [text in before for text in texts(new)] == [True, False, True, False]
    assert new == with_texts(pod("p2"), "2") | {"metadata": new["metadata"]}


BOUND = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"}


def binding(*subjects: dict[str, str], role: str = "edit", uid: str = "b1") -> dict[str, Any]:
    return {
        "metadata": {"name": uid, "uid": uid, "managedFields": []},
        "roleRef": {**BOUND, "name": role},
        "subjects": list(subjects),
    }


def account(namespace: str, name: str = "default") -> dict[str, str]:
    return {"kind": "ServiceAccount", "name": name, "namespace": namespace}


def group(name: str) -> dict[str, str]:
    return {"kind": "Group", "name": name, "apiGroup": "rbac.authorization.k8s.io"}


def pod_with_token() -> dict[str, Any]:
    token = {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
    mounts = [{"name": "kube-api-access-x", "mountPath": "/var/run/secrets"}]
    return {
        "metadata": {"namespace": IRIS.namespace, "name": "iris-1"},
        "spec": {
            "containers": [{"name": "kserve-container", "volumeMounts": mounts}],
            "volumes": [{"name": "kube-api-access-x", **token}],
        },
    }


def text_shown(object_cache: ObjectCache) -> bool:
    """Whether what a container writes that has its account's token is shown."""
    observed = object_cache.observed(IRIS)
    assert observed
    gate = observed.output_policy.gate_for_container(pod_with_token(), "kserve-container")
    return gate.shown("said") == "said"


def with_bindings(*cluster_wide: dict[str, Any]) -> Touches:
    touches = Touches()
    touches.by(SERVICES, service())
    for kind, objects in ((Kind.ROLE_BINDINGS, ()), (Kind.CLUSTER_ROLE_BINDINGS, cluster_wide)):
        touches.object_cache.listed(Resource(kind), objects, 0)
    return touches


def test_text_beside_a_token_is_shown_while_its_account_is_bound_to_no_role() -> None:
    touches = with_bindings()
    assert text_shown(touches.object_cache)
    bindings = Resource(Kind.ROLE_BINDINGS)
    bound = binding(account(IRIS.namespace))
    assert touches.by(bindings, bound) == {IRIS}
    assert not text_shown(touches.object_cache)
    assert touches.by(bindings, binding(account("elsewhere")), "MODIFIED") == {IRIS}
    assert text_shown(touches.object_cache)
    touches.by(bindings, bound, "MODIFIED")
    assert touches.by(bindings, bound, "DELETED") == {IRIS}
    assert text_shown(touches.object_cache)


@pytest.mark.parametrize(
    "subject",
    [
        account(IRIS.namespace),
        group("system:serviceaccounts"),
        group(f"system:serviceaccounts:{IRIS.namespace}"),
        group("system:authenticated"),
        {"kind": "User", "name": f"system:serviceaccount:{IRIS.namespace}:default"},
    ],
    ids=lambda subject: subject["name"],
)
def test_text_beside_a_token_is_held_back_by_whatever_names_its_account(
    subject: dict[str, str],
) -> None:
    assert not text_shown(with_bindings(binding(subject)).object_cache)


def test_what_kubernetes_lets_everybody_ask_is_no_right() -> None:
    everybody = binding(group("system:authenticated"), role="system:discovery")
    others = binding(account(IRIS.namespace, "other"), account("elsewhere"), uid="b2")
    assert text_shown(with_bindings(everybody, others).object_cache)


def test_a_role_of_a_namespace_is_a_right_whatever_its_name() -> None:
    touches = with_bindings()
    bound = binding(account(IRIS.namespace), role="system:basic-user")
    named = {**bound, "roleRef": {**bound["roleRef"], "kind": "Role"}}
    touches.by(Resource(Kind.ROLE_BINDINGS), named)
    assert not text_shown(touches.object_cache)


def test_text_beside_a_token_is_held_back_while_its_rights_are_not_known() -> None:
    touches = Touches()
    touches.by(SERVICES, service())
    assert not text_shown(touches.object_cache)
    touches.object_cache.listed(Resource(Kind.ROLE_BINDINGS), (), 0)
    assert not text_shown(touches.object_cache)
    touches.object_cache.listed(Resource(Kind.CLUSTER_ROLE_BINDINGS), (), 0)
    assert text_shown(touches.object_cache)
    touches.keys = set()
    touches.object_cache.absent(Resource(Kind.ROLE_BINDINGS))
    assert touches.keys == {IRIS}
    assert not text_shown(touches.object_cache)
    assert touches.object_cache.follows_knative(IRIS.namespace)


def test_a_list_touches_only_the_services_with_an_object_that_changed() -> None:
    def versioned(found: dict[str, Any], version: str) -> dict[str, Any]:
        return {**found, "metadata": {**found["metadata"], "resourceVersion": version}}

    touches = Touches()
    other = ServiceKey("team-a", "other")
    services = [versioned(service(), "1"), versioned(service("s2", other), "2")]
    pods = [versioned(pod(), "3"), versioned(pod("p2", "other"), "4")]
    for resource, objects in ((SERVICES, services), (PODS, pods)):
        touches.object_cache.listed(resource, objects, 0)
    touches.keys = set()
    touches.object_cache.listed(SERVICES, services, 0)
    touches.object_cache.listed(PODS, pods, 0)
    assert touches.keys == set()
    touches.object_cache.listed(PODS, [pods[0], versioned(pod("p2", "other"), "5")], 0)
    assert touches.keys == {other}
