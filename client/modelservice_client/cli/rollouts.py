"""Do what the commands about rollouts ask for: history, rollback, stop and start."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

from google.protobuf.message import Message
from modelservice.v1.model_service_pb2 import DeployResponse
from modelservice.v1.rollout_service_pb2 import Change, Revision
from rich.text import Text

from modelservice_client.cli.printing import Cells, age, service_name
from modelservice_client.cli.progress import STYLES, Progress, reason_of
from modelservice_client.cli.request_flags import request_id_of, split_name
from modelservice_client.cli.session import Session
from modelservice_client.cli.text import one_line
from modelservice_client.cli.writes import (
    goes_on,
    left,
    print_dry_run,
    print_ready,
    print_status,
    ready,
    rolled_back_to,
    written,
)
from modelservice_client.core.enum_names import enum_name

_COLUMNS = ("REVISION", "OUTCOME", "REASON", "AGE", "BY", "CHANGES")
# The changes of a revision that its row has.
_MOST_CHANGES = 5


@dataclass(frozen=True)
class Conditions:
    """The flags of a write that acts on the newest rollout of a service."""

    rollout_id: str
    etag: str
    request_id: str
    force: bool
    validate_only: bool


def history(session: Session, name: str) -> None:
    """Print the revisions of a service, the newest first."""
    namespace, name = split_name(name, session.namespace)
    revisions = session.client.list_revisions(name, namespace=namespace, timeout=session.seconds)
    session.printer.many(revisions, _COLUMNS, _revision_row, _revision_number)


def rollback(
    session: Session,
    name: str,
    revision: int,
    given: Conditions,
    wait: bool,
    timeout: float | None,
) -> None:
    """Deploy an earlier revision again, and wait for its rollout."""
    send = partial(session.client.rollback, revision=revision)
    ends = session.ends_after(timeout)
    with session.progress(f"Rollback {name}") as progress:
        response = _act(session, progress, "rollback", name, send, given, left(ends))
        service = response.service
        if waits := wait and bool(response.rollout_id):
            goes_on(session, service, "The rollback of {} goes on.")
            service = ready(session, progress, response, timeout, ends)
    if not waits:
        _print_unawaited(session, response, "rolled back")
        return
    back = rolled_back_to(session, service)
    print_ready(session, service, progress.seconds, f"is back at revision {back} and " * bool(back))


def start(
    session: Session, name: str, given: Conditions, wait: bool, timeout: float | None
) -> None:
    """Start a stopped service, and wait until it is ready."""
    ends = session.ends_after(timeout)
    with session.progress(f"Start {name}") as progress:
        response = _act(session, progress, "start", name, session.client.start, given, left(ends))
        service = response.service
        if waits := wait and bool(response.rollout_id):
            goes_on(session, service)
            service = ready(session, progress, response, timeout, ends)
    if waits:
        print_ready(session, service, progress.seconds)
    else:
        _print_unawaited(session, response, "started")


def stop(session: Session, name: str, given: Conditions, wait: bool, timeout: float) -> None:
    """Stop a service, and wait until its pods are gone."""
    ends = session.ends_after(timeout)
    with session.progress(f"Stop {name}") as progress:
        response = _act(session, progress, "stop", name, session.client.stop, given, timeout)
        service, full = response.service, service_name(response.service)
        if waits := wait and bool(response.rollout_id):
            session.going_on = (
                f"{full} goes on being stopped. See what remains with:",
                "  " + session.given.command("status", full),
            )
            service = session.client.wait_stopped(
                response,
                timeout=left(ends),
                on_change=session.shown_by(progress),
            )
    if waits:
        done = f"{full} is stopped after {progress.seconds:.1f} s"
        session.printer.one(service, full, lambda: session.screen.show(done))
    else:
        _print_unawaited(session, response, "stopped")


def _act(
    session: Session,
    progress: Progress,
    verb: str,
    name: str,
    send: Callable[..., DeployResponse],
    given: Conditions,
    timeout: float,
) -> DeployResponse:
    """Send a write about a service with the conditions that were given."""
    namespace, name = split_name(name, session.namespace)
    request_id = request_id_of(given.request_id, verb) or str(uuid.uuid4())
    fields = asdict(given) | {"request_id": request_id, "timeout": timeout}
    return written(
        session,
        progress,
        lambda: send(name, namespace=namespace, **fields),
        "" if given.validate_only else request_id,
    )


def _print_unawaited(session: Session, response: DeployResponse, done: str) -> None:
    if response.rollout_id:
        print_status(session, response.service)
    else:
        print_dry_run(session, response, done)


def _revision_row(message: Message) -> Cells:
    assert isinstance(message, Revision)
    outcome = enum_name(Revision.Outcome, message.outcome, "OUTCOME_")
    if message.outcome == Revision.OUTCOME_UNSPECIFIED:
        outcome = "" if message.gap else "UNDECIDED"
    return (
        str(message.revision),
        Text(outcome, STYLES.get(outcome, "")),
        reason_of(message.failure) if message.HasField("failure") else "",
        age(message.create_time),
        message.deployed_by,
        _changes_of(message),
    )


def _revision_number(message: Message) -> str:
    assert isinstance(message, Revision)
    return str(message.revision)


def _changes_of(revision: Revision) -> str:
    """Return what a revision changed, for people."""
    if revision.gap:
        return "not known: it was overwritten before its revision was stored"
    back = [f"rollback of {revision.rollback_of}"] if revision.rollback_of else []
    changes = map(_change, revision.changes[:_MOST_CHANGES])
    more = len(revision.changes) - _MOST_CHANGES
    return "; ".join([*back, *changes, *([f"and {more} more: -o yaml"] if more > 0 else [])])


def _change(change: Change) -> str:
    if not change.after:
        return f"{change.path} removed"
    if change.path.startswith("spec.env["):
        # The value may be a secret, and this may be the log of a CI job.
        return f"{change.path} changed"
    return f"{change.path}={one_line(change.after)}"
