"""Send a Deploy, or another write that is answered as one, and wait for its rollout."""

from __future__ import annotations

import time
from collections.abc import Callable

from modelservice.v1.inference_service_pb2 import InferenceService
from modelservice.v1.model_service_pb2 import DeployResponse

from modelservice_client import ModelServiceError, NotReachable, RolledBack, RolloutFailed, Timeout
from modelservice_client.cli.printing import service_name, show_service
from modelservice_client.cli.progress import Progress
from modelservice_client.cli.session import Session
from modelservice_client.core.calls import on_failure_id
from modelservice_client.core.enum_names import enum_name


def written(
    session: Session, progress: Progress, send: Callable[[], DeployResponse], request_id: str
) -> DeployResponse:
    """Send a write, and print its action and its warnings. A dry run has no `request_id`."""
    if request_id:
        session.going_on = (
            "If the request was done, the same command takes it up again with"
            f" --request-id {request_id}",
        )
    try:
        response = send()
    except NotReachable as error:
        if not error.earlier_attempt_lost:
            session.going_on = ()
        raise
    session.heard = True
    if request_id:
        progress.event(action_of(response), service_name(response.service), "bold")
    _show_warnings(progress, response)
    return response


def _show_warnings(progress: Progress, response: DeployResponse) -> None:
    """Print the warnings of a write, which no later answer has."""
    for warning in response.warnings:
        path = f"{warning.field}: " if warning.field else ""
        progress.event("WARNING", f"{path}{warning.message}", "yellow")


def action_of(response: DeployResponse) -> str:
    """Return the name of the action, without its prefix."""
    return enum_name(DeployResponse.Action, response.action, "ACTION_")


def ready(
    session: Session,
    progress: Progress,
    response: DeployResponse,
    timeout: float | None,
    ends: float,
) -> InferenceService:
    """Wait until the rollout of a write is ready. Without a `timeout` the answer says how long that
    may take, and not `ends`."""
    if timeout is None:
        ends = session.ends_after(None, response.service.spec)
    return session.client.wait_ready(
        response,
        timeout=left(ends),
        on_change=session.shown_by(progress, response.rollout_id),
    )


def roll_back(
    session: Session,
    progress: Progress,
    deployed: DeployResponse,
    request_id: str,
    timeout: float | None,
    failed: RolloutFailed,
) -> RolledBack:
    """Go back from the rollout that failed to the last revision that was ready; return the error to
    raise once that one is ready. Raises the failure where it cannot, with the cause.

    A newer rollout is not undone: the server rolls back that rollout alone.
    """
    service = deployed.service
    full = service_name(service)
    words = ("rollback", full, "--rollout-id", deployed.rollout_id)
    session.going_on = (
        f"{full} may not be rolled back. Do that with:",
        "  " + session.given.command(*words),
    )
    ends = session.ends_after(timeout, service.spec)
    progress.event("ROLLBACK", full, "bold")
    try:
        undone = session.client.rollback(
            service.name,
            namespace=service.namespace,
            rollout_id=deployed.rollout_id,
            request_id=on_failure_id(request_id),
            timeout=left(ends),
        )
        goes_on(session, undone.service, "The rollback of {} goes on.")
        _show_warnings(progress, undone)
        restored = ready(session, progress, undone, timeout, ends)
    except ModelServiceError as error:
        if not isinstance(error, NotReachable | Timeout):
            session.going_on = ()
        failed.rollback_error = error
        raise failed from error
    return RolledBack(failed, restored, rolled_back_to(session, restored))


def rolled_back_to(session: Session, service: InferenceService) -> int:
    """Return the revision that a service was rolled back to; 0 where the list cannot be read."""
    try:
        newest = next(
            session.client.list_revisions(service.name, namespace=service.namespace, page_size=1),
            None,
        )
    except ModelServiceError:
        return 0
    return newest.rollback_of if newest and newest.rollout_id == service.rollout_id else 0


def left(ends: float) -> float:
    """Return the seconds until a monotonic time, above 0."""
    return max(ends - time.monotonic(), 0.001)


def goes_on(
    session: Session, service: InferenceService, text: str = "The rollout of {} goes on."
) -> None:
    """Say after Ctrl-C how to go on watching a rollout; `text` has a place for its service."""
    full = service_name(service).lstrip("/")
    words = ("status", full, "--watch", "--rollout-id", service.rollout_id)
    session.going_on = (
        f"{text.format(full)} Watch it with:",
        "  " + session.given.command(*words),
    )


def print_status(session: Session, service: InferenceService) -> None:
    """Print the service with its status."""
    session.printer.one(
        service, service_name(service), lambda: show_service(session.screen, service)
    )


def print_dry_run(session: Session, response: DeployResponse, done: str) -> None:
    """Print what a dry run says would be `done`."""
    service = response.service
    unchanged = response.action == DeployResponse.ACTION_UNCHANGED
    would = "would stay as it is" if unchanged else f"would be {done}"
    session.printer.one(
        service,
        service_name(service),
        lambda: session.screen.show(f"{service_name(service)} {would}; nothing was written"),
    )


def print_ready(
    session: Session, service: InferenceService, seconds: float, before: str = ""
) -> None:
    """Print that a service is ready, and where; `before` that stands what else became of it."""

    def for_people() -> None:
        address = service.status.url or service.status.cluster_url
        where = f": {address}" if address else ""
        session.screen.show(
            f"{service_name(service)} {before}is ready after {seconds:.1f} s{where}"
        )

    session.printer.one(service, service_name(service), for_people)
