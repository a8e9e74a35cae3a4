"""Warn of settings that a write stores and that have another effect than they seem to have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from server.domain.service.inference_service import InferenceServiceSpec
from server.domain.service.spec_validation import AUTOSCALER_CLASS


class WriteWarning(NamedTuple):
    """A warning about an accepted write. `field`: its path in the request, or empty."""

    field: str
    message: str


def standard_mode_warnings(
    spec: InferenceServiceSpec, annotations: Mapping[str, str]
) -> Iterator[WriteWarning]:
    """Yield the warnings of a service in Standard mode."""
    scaled_by_hpa = annotations.get(AUTOSCALER_CLASS, "hpa") == "hpa"
    if spec.scaling.min_replicas == 0 and scaled_by_hpa:
        yield WriteWarning(
            "spec.scaling.min_replicas",
            "0 means 1 in Standard mode: one replica always runs; only Knative mode scales to zero",
        )
