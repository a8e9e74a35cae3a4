"""A change of one object parses that object alone again."""

from __future__ import annotations

from dataclasses import replace

from server.adapters.kserve.status.components import parsed_deployments
from server.adapters.kserve.status.observed_objects import ObservedObjects
from server.adapters.kserve.status.parse_cache import ParseCache
from server.adapters.kserve.status.parsed_service import parse_service
from server.adapters.kserve.status.pods.pod import Pod, parse_pod
from tests.adapters.kserve.shown import serving, with_pods, with_service


def parsed_pods(observed: ObservedObjects) -> tuple[Pod, ...]:
    return observed.cache.parse_each(parse_pod, observed.pods)


def test_a_pod_event_parses_neither_the_service_nor_its_deployments_again() -> None:
    before, _ = serving()
    service, deployments = parse_service(before), parsed_deployments(before)
    after = with_pods(before, {"status": {"phase": "Failed"}})
    assert parse_service(after) is service
    assert parsed_deployments(after) is deployments
    assert [p.is_live for p in parsed_pods(before)] == [True]
    assert [p.is_live for p in parsed_pods(after)] == [False]


def test_of_several_pods_only_the_changed_one_is_parsed_again() -> None:
    observed, _ = serving()
    [pod] = observed.pods
    two = replace(observed, pods=(pod, {**pod, "metadata": {**pod["metadata"], "name": "other"}}))
    first, second = parsed_pods(two)
    changed = replace(two, pods=(two.pods[0], dict(two.pods[1])))
    assert parsed_pods(changed)[0] is first
    assert parsed_pods(changed)[1] is not second


def test_a_new_version_of_the_service_is_parsed() -> None:
    before, _ = serving()
    assert parse_service(before).rollout.generation == 1
    after = with_service(before, {"metadata": {"generation": 2}})
    assert parse_service(after).rollout.generation == 2
    assert parse_service(before).rollout.generation == 1


def test_an_equal_object_that_replaced_another_is_parsed() -> None:
    cache, parsed = ParseCache(), list[object]()
    for obj in ({"n": 1}, {"n": 1}):
        cache.parse(parsed.append, obj)
    assert len(parsed) == 2


def test_a_removed_pod_is_dropped() -> None:
    observed, _ = serving()
    [pod] = parsed_pods(observed)
    assert parsed_pods(replace(observed, pods=())) == ()
    assert parsed_pods(observed)[0] is not pod
