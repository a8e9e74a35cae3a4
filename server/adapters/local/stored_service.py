"""What is stored of a service, and in which form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from pydantic import TypeAdapter

from server.domain.service.commands import is_stop_requested
from server.domain.service.inference_service import (
    InferenceService,
    InferenceServiceSpec,
    ModelPredictor,
    ServiceKey,
)
from server.domain.service.preconditions import Stored


@dataclass(frozen=True, slots=True)
class Wish:
    """What one generation of a service is to serve; it never changes."""

    key: ServiceKey
    uid: str
    generation: int
    spec: InferenceServiceSpec

    @property
    def model(self) -> ModelPredictor:
        """The model; other predictors are refused at the door."""
        assert isinstance(self.spec.serving, ModelPredictor)
        return self.spec.serving


@dataclass(frozen=True, slots=True)
class Record:
    """A service with its request_ids, its port for as long as it lives, and when it was written.

    `ready` is the generation to serve until the wished one is ready: the last that was, unless the
    service was stopped since. The status in `stored` means nothing.
    """

    stored: Stored
    port: int
    written_at: datetime
    ready: Wish | None = None
    latest_ready_generation: int | None = None

    @property
    def service(self) -> InferenceService:
        """The service, without its status."""
        return self.stored.service

    @property
    def wish(self) -> Wish:
        """What is asked for now."""
        service = self.service
        assert service.spec, "only services of others may lack a spec, and here are none"
        return Wish(service.key, service.uid, service.generation, service.spec)

    @property
    def wishes(self) -> list[Wish]:
        """What is to run, the older first."""
        if self.deleting or self.stop_asked:
            return []
        return [self.ready, self.wish] if self.ready not in (None, self.wish) else [self.wish]

    @property
    def deleting(self) -> bool:
        """Nothing is to run, and then it is to be forgotten."""
        return self.service.delete_time is not None

    @property
    def stop_asked(self) -> bool:
        """Nothing is to run."""
        return is_stop_requested(self.service.annotations)

    def rewritten(self, stored: Stored, now: datetime) -> Record:
        """The record once something else is asked for."""
        new = replace(self, stored=stored, written_at=now)
        return replace(new, ready=None) if new.stop_asked else new

    def deleted(self, now: datetime) -> Record:
        """The record once it is to be deleted; a deletion that began earlier stays as it is."""
        dying = replace(self.service, delete_time=self.service.delete_time or now)
        return self.rewritten(replace(self.stored, service=dying), now)

    def with_ready(self) -> Record:
        """The record once what is asked for was READY."""
        return replace(self, ready=self.wish, latest_ready_generation=self.service.generation)


_FORM = TypeAdapter(Record)


def to_json(record: Record) -> bytes:
    """The record as it is stored."""
    return _FORM.dump_json(record, indent=1)


def from_json(text: bytes) -> Record:
    """Read what `to_json` wrote. Raises ValueError."""
    return _FORM.validate_json(text)
