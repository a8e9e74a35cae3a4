"""Do what the commands about rollouts ask for."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass

from modelservice.v1.model_service_pb2 import DeployResponse

from modelservice_client.cli.printing import service_name
from modelservice_client.cli.progress import Progress
from modelservice_client.cli.request_flags import request_id_of, split_name
from modelservice_client.cli.session import Session
from modelservice_client.cli.writes import (
    goes_on,
    left,
    print_dry_run,
    print_ready,
    print_status,
    ready,
    written,
)


@dataclass(frozen=True)
class Conditions:
    """The flags of a write that acts on the newest rollout of a service."""

    rollout_id: str
    etag: str
    request_id: str
    force: bool
    validate_only: bool


def start(session: Session, name: str, given: Conditions, wait: bool, timeout: float) -> None:
    """Start a stopped service, and wait until it is ready."""
    ends = session.ends_after(timeout)
    with session.progress(f"Start {name}") as progress:
        response = _act(session, progress, "start", name, session.client.start, given, timeout)
        service = response.service
        if waits := wait and bool(response.rollout_id):
            goes_on(session, service)
            service = ready(session, progress, response, ends)
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
