"""The stored form of a service of the local cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from pydantic import TypeAdapter

from server.domain.revisions.kept_content import as_kept
from server.domain.service.commands import is_stop_requested
from server.domain.service.inference_service import (
    InferenceService,
    InferenceServiceSpec,
    ModelPredictor,
    ServiceKey,
)
from server.domain.service.preconditions import Stored


@dataclass(frozen=True, slots=True)
class GenerationSpec:
    """The spec of one generation of a service. It never changes."""

    key: ServiceKey
    uid: str
    generation: int
    spec: InferenceServiceSpec

    @property
    def model(self) -> ModelPredictor:
        """The model; specs with other predictors are refused before they are stored."""
        assert isinstance(self.spec.serving, ModelPredictor)
        return self.spec.serving

    def runs_same_server(self, other: GenerationSpec) -> bool:
        """Report whether the specs differ in nothing that a model server gets."""
        return self.spec.of_pods == other.spec.of_pods


@dataclass(frozen=True, slots=True)
class Record:
    """A service with its request_ids, its port, and the time of its last write.

    `ready` is the last generation that was ready: it serves until the desired one is ready, and is
    None once it was stopped, by the annotation or by a rollout that recreates the model server. The
    status in `stored` has no meaning.
    """

    stored: Stored
    port: int
    written_at: datetime
    ready: GenerationSpec | None = None
    latest_ready_generation: int | None = None

    @property
    def service(self) -> InferenceService:
        """The service, without its status."""
        return self.stored.service

    @property
    def desired(self) -> GenerationSpec:
        """The generation of the last write."""
        service = self.service
        assert service.spec, "only services of other writers may lack a spec, and here are none"
        return GenerationSpec(service.key, service.uid, service.generation, service.spec)

    @property
    def generations(self) -> list[GenerationSpec]:
        """The generations that should run, the older first."""
        if self.deleting or self.stop_requested:
            return []
        current = self.desired
        return [self.ready, current] if self.ready not in (None, current) else [current]

    @property
    def deleting(self) -> bool:
        """Whether the service is being deleted."""
        return self.service.delete_time is not None

    @property
    def stop_requested(self) -> bool:
        """Whether an annotation stops the service."""
        return is_stop_requested(self.service.annotations)

    @property
    def recreates(self) -> bool:
        """Whether the ready generation must end before the desired one starts."""
        if self.ready is None or self.desired.runs_same_server(self.ready):
            return False
        return self.desired.spec.recreates

    def with_stored(self, stored: Stored, now: datetime) -> Record:
        """Return the record after a write."""
        new = replace(self, stored=stored, written_at=now)
        # It must not come back beside a later rollout.
        return replace(new, ready=None) if new.stop_requested or new.recreates else new

    def with_deletion(self, now: datetime) -> Record:
        """Return the record with a deletion; the time of an earlier one is kept."""
        deleting = replace(self.service, delete_time=self.service.delete_time or now)
        return self.with_stored(replace(self.stored, service=deleting), now)

    def without_contents(self) -> Record:
        """Return the record without the contents of its revisions, which are kept beside it; that
        of the newest one is the service's."""
        bare = tuple(replace(revision, content=None) for revision in self.stored.revisions)
        return replace(self, stored=replace(self.stored, revisions=bare))

    def with_ready(self) -> Record:
        """Return the record with the desired generation as the ready one."""
        return replace(self, ready=self.desired, latest_ready_generation=self.service.generation)


_FORM = TypeAdapter(Record)


def to_json(record: Record) -> bytes:
    """Encode a record, without the contents of its revisions."""
    return _FORM.dump_json(record.without_contents(), indent=1)


def from_json(text: bytes) -> Record:
    """Decode a record. Raises ValueError.

    One of an earlier release has the contents of its revisions in it.
    """
    record = _FORM.validate_json(text)
    kept = tuple(map(as_kept, record.stored.revisions))
    return replace(record, stored=replace(record.stored, revisions=kept))
