"""Make texts of clusters and callers storable, since they can contain anything."""

from __future__ import annotations

from dataclasses import replace

from server.domain.registry.deployment import ModelDeployment
from server.domain.rollout.status import Failure


def storable_text(text: str) -> str:
    """Return the text without NUL, which PostgreSQL cannot store, and without lone surrogates."""
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def storable(record: ModelDeployment) -> ModelDeployment:
    """Return the record as the database will return it."""
    return replace(
        record,
        url=storable_text(record.url),
        failure=record.failure and _storable_failure(record.failure),
        error_message=storable_text(record.error_message),
        caller=storable_text(record.caller),
    )


def _storable_failure(failure: Failure) -> Failure:
    return replace(
        failure,
        message=storable_text(failure.message),
        remedy=storable_text(failure.remedy),
        rollout_id=storable_text(failure.rollout_id),
        pod=storable_text(failure.pod),
        container=storable_text(failure.container),
        log_lines=tuple(map(storable_text, failure.log_lines)),
        container_text=storable_text(failure.container_text),
    )
