"""The hash of a request, which a service's object stores beside its request_id."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from server.domain.service.inference_service import InferenceServiceSpec
from tests.domain.samples import CONTAINER, MODEL, deploy


@pytest.mark.parametrize(
    ("spec", "stored"),
    [
        (MODEL, "69f529d71c8694c6"),
        (CONTAINER, "90c26b551f94deae"),
        (
            replace(MODEL, env={"A": "1"}, request_timeout=timedelta(minutes=1)),
            "c2049de8a2d1034c",
        ),
    ],
    ids=["model", "container", "options"],
)
def test_a_hash_that_an_earlier_release_stored_is_still_that_of_the_request(
    spec: InferenceServiceSpec, stored: str
) -> None:
    assert deploy(spec).body_hash == stored
