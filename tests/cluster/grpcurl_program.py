"""The lab's grpcurl for tests that need no lab."""

from __future__ import annotations

from pathlib import Path

from .lab import builds

_GRPCURL = next(module for module in builds.CONTROL_PLANE if module.name == "grpcurl")


def grpcurl_program(say: builds.Say) -> Path:
    """Its path; built once into the cache of the lab. Raises BuildFailed."""
    return builds.programs([_GRPCURL], say)["grpcurl"]
