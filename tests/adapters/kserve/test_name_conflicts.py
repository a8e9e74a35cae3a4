"""Messages that name a foreign object, and how long it takes to parse them."""

from __future__ import annotations

import pytest

from server.adapters.kserve.status.name_conflicts import conflict_in
from tests.cpu_time import cpu_time


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ('fails: deployments.apps "iris" already exists', ("Deployment", "iris")),
        ('services.serving.knative.dev "iris" already exists', ("Service", "iris")),
        ('ingresses.networking.k8s.io "iris" already exists', ("Ingress", "iris")),
        ('Endpoints "iris" already exists', ("Endpoints", "iris")),
        ('relation "models" already exists', None),
        ('myservices "iris" already exists', None),
        ('Deployment.apps "iris" is invalid: spec.replicas: field is immutable', None),
    ],
)
def test_only_objects_of_kinds_that_kserve_and_knative_create_are_name_conflicts(
    words: str, named: tuple[str, str] | None
) -> None:
    conflict = conflict_in(words)
    assert (conflict and (conflict.kind, conflict.name)) == named


@pytest.mark.parametrize(
    "repeated",
    [
        "a",
        "Service.",
        'Service "',
        'existing Service "',
        'Service.a "x" is invalid: ',
        "a is invalid: spec.selector: ",
        "Resource a of type ",
        "in references for a/",
    ],
)
def test_no_message_takes_long_to_parse(repeated: str) -> None:
    for words in (repeated * 2000, 'Service "x" is invalid: ' + "spec.selector: " * 200):
        took = []
        for _ in range(5):
            with cpu_time() as taken:
                conflict_in(words)
            took.append(taken.seconds)
        # A quadratic reading of 2000 characters takes 20 times as long.
        assert min(took) < 0.005
