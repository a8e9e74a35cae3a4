"""Do what the commands about services ask for."""

from __future__ import annotations

import uuid

from modelservice.v1.inference_service_pb2 import (
    InferenceService,
    InferenceServiceSpec,
    InferenceServiceStatus,
)
from modelservice.v1.model_service_pb2 import DeployRequest, WatchStatusRequest

from modelservice_client import RolloutFailed
from modelservice_client.cli.connection import Output
from modelservice_client.cli.printing import SERVICE_COLUMNS, service_name, service_row
from modelservice_client.cli.request_file import read_file
from modelservice_client.cli.request_flags import (
    SpecFlags,
    UsageError,
    pairs,
    request_id_of,
    spec_of,
    split_name,
)
from modelservice_client.cli.session import Session
from modelservice_client.cli.writes import (
    action_of,
    goes_on,
    left,
    print_dry_run,
    print_ready,
    print_status,
    ready,
    roll_back,
    written,
)


def deploy_request(
    session: Session,
    file: str,
    name: str,
    flags: SpecFlags,
    labels: list[str],
    annotations: list[str],
) -> DeployRequest:
    """Return the request of a file and of flags, which come before the file."""
    request = DeployRequest()
    if file:
        session.file = read_file(file)
        request.CopyFrom(session.file.request)
        if session.file.ignored:
            fields = ", ".join(session.file.ignored)
            session.screen.note(
                f"ignored in {session.file.file}, since only the server sets it: {fields}"
            )
    if name:
        request.namespace, request.name = split_name(name, session.given.namespace)
    request.namespace = session.given.namespace or request.namespace or session.namespace
    spec = spec_of(flags, request.spec)
    if spec != InferenceServiceSpec():
        request.spec.CopyFrom(spec)
    request.labels.update(pairs("--label", labels))
    request.annotations.update(pairs("--annotation", annotations))
    if not request.name and not request.spec.HasField("registered_model"):
        raise UsageError("a name is needed: modelctl deploy NAME ..., or name in the file")
    if request.spec.WhichOneof("predictor") is None and not request.restart:
        raise UsageError("give --format and --storage-uri, or --image, or --file")
    return request


def deploy(
    session: Session,
    request: DeployRequest,
    wait: bool,
    timeout: float | None,
    rollback_on_failure: bool = False,
) -> None:
    """Deploy, and wait for the rollout; with `rollback_on_failure` it is undone if it fails."""
    if rollback_on_failure and not wait:
        raise UsageError("--rollback-on-failure waits for the rollout: leave out --no-wait")
    given = request_id_of(request.request_id, "restart" if request.restart else "")
    request.request_id = given or str(uuid.uuid4())
    name = f"{request.namespace}/{request.name}".lstrip("/")
    ends = session.ends_after(timeout, request.spec)
    with session.progress(f"Deploy {name}") as progress:
        response = written(
            session,
            progress,
            lambda: session.client.deploy(request, timeout=left(ends)),
            "" if request.validate_only else request.request_id,
        )
        service = response.service
        if wait and response.rollout_id:
            unless = ", and is not rolled back if it fails" if rollback_on_failure else ""
            goes_on(session, service, f"The rollout of {{}} goes on{unless}.")
            try:
                service = ready(session, progress, response, timeout, ends)
            except RolloutFailed as failed:
                if not rollback_on_failure:
                    raise
                rolled_back = roll_back(
                    session, progress, response, request.request_id, timeout, failed
                )
                raise rolled_back from failed
    if wait and response.rollout_id:
        print_ready(session, service, progress.seconds)
    elif response.rollout_id:
        print_status(session, service)
    else:
        print_dry_run(session, response, action_of(response).lower())


def restart(
    session: Session, name: str, request_id: str, wait: bool, timeout: float | None
) -> None:
    """Replace the pods of a service."""
    namespace, name = split_name(name, session.namespace)
    request = DeployRequest(namespace=namespace, name=name, restart=True, request_id=request_id)
    deploy(session, request, wait, timeout)


def status(
    session: Session, name: str, watch: bool, rollout_id: str, timeout: float | None
) -> None:
    """Show a service's status; with `watch` until its rollout is ready or has failed."""
    namespace, name = split_name(name, session.namespace)
    if not watch:
        found = session.client.get(
            name, namespace=namespace, rollout_id=rollout_id, timeout=session.seconds
        )
        print_status(session, found)
        return
    ends = session.ends_after(timeout)
    awaited = InferenceService(namespace=namespace, name=name, rollout_id=rollout_id)
    if not rollout_id:
        awaited = session.client.get(name, namespace=namespace, timeout=left(ends))
        session.heard = True
    if timeout is None:
        # Without a spec it is that of a rollout without a ready_timeout.
        ends = session.ends_after(None, awaited.spec)
    goes_on(session, awaited)
    with session.progress(f"Status of {service_name(awaited).lstrip('/')}") as progress:
        service = session.client.wait_ready(
            awaited,
            timeout=left(ends),
            on_change=session.shown_by(progress, awaited.rollout_id),
        )
    print_ready(session, service, progress.seconds)


def get(session: Session, names: list[str]) -> None:
    """Print services by their names."""
    services = []
    for given in names:
        namespace, name = split_name(given, session.namespace)
        services.append(session.client.get(name, namespace=namespace, timeout=session.seconds))
    if len(services) == 1 and session.output in (Output.JSON, Output.YAML):
        session.printer.message(services[0])
    else:
        session.printer.many(services, SERVICE_COLUMNS, service_row, service_name)


def list_services(session: Session, everywhere: bool, selector: str, states: list[str]) -> None:
    """Print the services of a namespace, or of all."""
    wanted = []
    for state in states:
        known = InferenceServiceStatus.State.keys()
        full = f"STATE_{state.upper().removeprefix('STATE_')}"
        if full not in known or full == "STATE_UNSPECIFIED":
            names = ", ".join(name.removeprefix("STATE_") for name in known[1:])
            raise UsageError(f"--state must be one of {names}; got {state[:64]}")
        wanted.append(InferenceServiceStatus.State.Value(full))
    services = session.client.list(
        namespace="-" if everywhere else session.namespace,
        label_selector=selector,
        states=wanted,
        timeout=session.seconds,
    )
    session.printer.many(services, SERVICE_COLUMNS, service_row, service_name)


def delete(
    session: Session,
    name: str,
    wait: bool,
    timeout: float,
    etag: str,
    force: bool,
    allow_missing: bool,
    validate_only: bool,
) -> None:
    """Delete a service, and wait until it is gone."""
    namespace, name = split_name(name, session.namespace)
    ends = session.ends_after(timeout)
    response = session.client.delete(
        name,
        namespace=namespace,
        etag=etag,
        force=force,
        allow_missing=allow_missing,
        validate_only=validate_only,
        timeout=timeout,
    )
    session.heard = True
    service, screen = response.service, session.screen
    full = f"{service.namespace or namespace}/{name}".lstrip("/")
    if not response.HasField("service"):
        screen.note(f"{full} does not exist")
        return
    if validate_only:
        session.printer.one(
            service, full, lambda: screen.show(f"{full} would be deleted; nothing was written")
        )
        return
    if wait:
        session.going_on = (
            f"{full} goes on being deleted. See what remains with:",
            "  " + session.given.command("status", full),
        )
        with session.progress(f"Delete {full}") as progress:
            shown = session.shown_by(progress)
            shown(service)
            messages = session.client.watch(
                name,
                namespace=service.namespace,
                until=WatchStatusRequest.UNTIL_GONE,
                rollout_id=service.rollout_id,
                timeout=left(ends),
            )
            with messages:
                for message in messages:
                    if message.service.HasField("status"):
                        shown(message.service)
    done = "deleted" if wait else "being deleted"
    session.printer.one(service, full, lambda: screen.show(f"{full} is {done}"))
