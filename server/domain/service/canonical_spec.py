"""One canonical form of a spec, so that different spellings of one spec change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from server.domain.kubernetes.quantities import canonical
from server.domain.service.commands import Deploy
from server.domain.service.inference_service import Resources, ServingOptions
from server.domain.service.spec_validation import DEPLOYMENT_MODES

Options = TypeVar("Options", bound=ServingOptions)


def canonical_deploy(deploy: Deploy) -> Deploy:
    """Return a validated Deploy with a canonical spec."""
    return replace(deploy, spec=canonical_options(deploy.spec)) if deploy.spec else deploy


def canonical_options(options: Options) -> Options:
    """Write quantities like Kubernetes, and the deployment mode by its present name."""
    return replace(
        options,
        resources=Resources(
            _quantities(options.resources.requests), _quantities(options.resources.limits)
        ),
        deployment_mode=DEPLOYMENT_MODES.get(options.deployment_mode, ""),
    )


def _quantities(quantities: Mapping[str, str]) -> dict[str, str]:
    return {name: canonical(text) for name, text in quantities.items()}
