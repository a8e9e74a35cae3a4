"""The synchronous client."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from google.protobuf.message import Message
from modelservice.v1.inference_service_pb2 import InferenceService, InferenceServiceStatus
from modelservice.v1.model_service_pb2 import (
    DeleteRequest,
    DeleteResponse,
    DeployRequest,
    DeployResponse,
    GetRequest,
    ListRequest,
    WatchStatusRequest,
    WatchStatusResponse,
)
from modelservice.v1.rollout_service_pb2 import (
    ListRevisionsRequest,
    Revision,
    RollbackRequest,
    StartRequest,
    StopRequest,
)

from modelservice_client.core import calls, rpcs, watching
from modelservice_client.core.awaited import (
    Rollout,
    gone_request,
    ready_seconds,
    spec_of,
    watch_request,
)
from modelservice_client.core.calls import DeployFields
from modelservice_client.core.retry import Policy, Retrying
from modelservice_client.core.rpcs import Rpc
from modelservice_client.core.watching import OnChange
from modelservice_client.credentials import Tls, Token, channel_spec
from modelservice_client.drivers.blocking import Driver, Run

Req = TypeVar("Req", bound=Message)
Res = TypeVar("Res", bound=Message)


class Client:
    """Calls a ModelService, and repeats what is safe to repeat while the server is away.

    One client can be shared by threads, and keeps one connection. Make it after a fork, not before.
    Every call raises a ModelServiceError where it fails; Ctrl-C ends any of them at once and leaves
    rollouts alone.

        with Client("modelservice.example:443") as client:
            client.deploy_and_wait(name="iris", spec=spec)
    """

    def __init__(
        self,
        target: str,
        *,
        tls: Tls | bool | None = None,
        token: str | Callable[[], str] | None = None,
        token_file: str | PathLike[str] | None = None,
        plaintext_token: bool = False,
        metadata: Sequence[tuple[str, str]] = (),
        patience: float = 60.0,
        on_retry: Callable[[Retrying], None] | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        """Open a channel, which connects with the first call.

        target: host:port, or another gRPC target such as dns:///host:port.
        tls: True for the system's certificates, False for plaintext, or a Tls. None: TLS, except
            to an address of this machine.
        token, token_file: a bearer token, a function that returns one for each call, or a file,
            which is read again when it changes. The function is called in another thread, with
            the context variables of the call. They are sent in plaintext only to an address of
            this machine, or with plaintext_token.
        metadata: sent with every call.
        patience: the seconds without an answer of any server after which calls end with
            NotReachable.
        on_retry: called before each pause.
        options: further options of the gRPC channel.

        Raises ValueError for arguments that do not fit together, OSError for a file of Tls.
        """
        credentials = Token(token, token_file)
        spec = channel_spec(target, tls, credentials, plaintext_token, metadata, options)
        self._target = target
        self._driver = Driver(spec)
        self._policy = Policy(time.monotonic, random.random, patience, on_retry, target)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._target!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls that are open end with ClientClosed."""
        self._driver.close()

    def deploy(
        self,
        request: DeployRequest | None = None,
        /,
        *,
        timeout: float = 60.0,
        **fields: Unpack[DeployFields],
    ) -> DeployResponse:
        """Deploy a service, and return once it is stored, without waiting for its rollout.

        Give a DeployRequest, its fields as keywords, or both: keywords replace fields. Without a
        request_id the client makes one; each attempt has the same, so that a Deploy is one rollout
        however often it is sent.
        `timeout` bounds all attempts, in seconds. An error has the request_id, and a Deploy with it
        continues the same rollout.

        Raises InvalidRequest, NotFound, AlreadyExists, EtagMismatch, Refused and its subclasses,
        ResourceExhausted, Unavailable, NotReachable.
        """
        asked = calls.deploy_request(request, fields, _new_id)
        return self._driver.run(calls.write(self._policy, rpcs.DEPLOY, asked, timeout))

    def deploy_and_wait(
        self,
        request: DeployRequest | None = None,
        /,
        *,
        timeout: float | None = None,
        on_change: OnChange | None = None,
        rollback_on_failure: bool = False,
        **fields: Unpack[DeployFields],
    ) -> InferenceService:
        """Deploy a service as `deploy` does, and return it once this rollout is ready.

        `timeout` bounds both, in seconds. Without one it is 120 s more than the rollout has until
        it has failed: its ready_timeout, or 600 s. `on_change` is called with each state. With
        validate_only the service is returned as it would be stored.

        With `rollback_on_failure` a rollout that fails is rolled back to the last revision that was
        ready, and RolledBack is raised once that one is ready, which has the timeout anew. Where it
        cannot, `rollback_error` of the RolloutFailed says why. No rollback follows any other
        error: a newer rollout is not undone, a stopped service not started, and a wait that is not
        decided in time does not say that the rollout failed.

        Raises as `deploy` and `wait_ready` do.
        """
        asked = calls.deploy_request(request, fields, _new_id)
        return self._driver.run(
            watching.deploy_and_wait(self._policy, asked, timeout, on_change, rollback_on_failure)
        )

    def restart(
        self,
        name: str,
        *,
        namespace: str = "",
        etag: str = "",
        request_id: str = "",
        timeout: float = 60.0,
    ) -> DeployResponse:
        """Replace a service's pods and change nothing else. Raises as `deploy` does."""
        return self.deploy(
            name=name,
            namespace=namespace,
            etag=etag,
            request_id=request_id,
            restart=True,
            timeout=timeout,
        )

    def rollback(
        self,
        name: str,
        *,
        namespace: str = "",
        revision: int = 0,
        rollout_id: str = "",
        etag: str = "",
        request_id: str = "",
        force: bool = False,
        validate_only: bool = False,
        timeout: float = 60.0,
    ) -> DeployResponse:
        """Deploy an earlier revision of a service again, without waiting for its rollout.

        Without a `revision` it is the last one before the present that was ready. With a
        `rollout_id` nothing is done unless that is still the newest rollout. Retries are those of
        `deploy`.

        Raises NoReadyRevision, RevisionNotFound, Superseded, and as `deploy` does.
        """
        request = RollbackRequest(
            namespace=namespace,
            name=name,
            revision=revision,
            rollout_id=rollout_id,
            etag=etag,
            request_id=request_id or _new_id(),
            force=force,
            validate_only=validate_only,
        )
        return self._driver.run(calls.write(self._policy, rpcs.ROLLBACK, request, timeout))

    def stop(
        self,
        name: str,
        *,
        namespace: str = "",
        rollout_id: str = "",
        etag: str = "",
        request_id: str = "",
        force: bool = False,
        validate_only: bool = False,
        timeout: float = 60.0,
    ) -> DeployResponse:
        """Stop a service, and return once that is stored, while its pods still go away.

        With a `rollout_id` nothing is done unless that is still the newest rollout. Retries are
        those of `deploy`. Raises ServiceNotFound, Superseded, and as `deploy` does.
        """
        request = StopRequest(
            namespace=namespace,
            name=name,
            rollout_id=rollout_id,
            etag=etag,
            request_id=request_id or _new_id(),
            force=force,
            validate_only=validate_only,
        )
        return self._driver.run(calls.write(self._policy, rpcs.STOP, request, timeout))

    def start(
        self,
        name: str,
        *,
        namespace: str = "",
        rollout_id: str = "",
        etag: str = "",
        request_id: str = "",
        force: bool = False,
        validate_only: bool = False,
        timeout: float = 60.0,
    ) -> DeployResponse:
        """Start a stopped service as it was, and return once that is stored: `wait_ready` waits for
        its pods.

        With a `rollout_id` nothing is done unless that is still the newest rollout. Retries are
        those of `deploy`. Raises ServiceNotFound, Superseded, and as `deploy` does.
        """
        request = StartRequest(
            namespace=namespace,
            name=name,
            rollout_id=rollout_id,
            etag=etag,
            request_id=request_id or _new_id(),
            force=force,
            validate_only=validate_only,
        )
        return self._driver.run(calls.write(self._policy, rpcs.START, request, timeout))

    def get(
        self, name: str, *, namespace: str = "", rollout_id: str = "", timeout: float = 60.0
    ) -> InferenceService:
        """Read one service. With a rollout_id the answer includes that rollout or a newer one.

        Raises ServiceNotFound; ServiceDeleted with a rollout_id; Unavailable, NotReachable.
        """
        request = GetRequest(namespace=namespace, name=name, rollout_id=rollout_id)
        return self.call(rpcs.GET, request, timeout=timeout).service

    def list(
        self,
        *,
        namespace: str = "",
        label_selector: str = "",
        states: Sequence[InferenceServiceStatus.State.ValueType] = (),
        page_size: int = 0,
        timeout: float = 60.0,
    ) -> Iterator[InferenceService]:
        """Read the services of a namespace, of the server's default one if it is empty, or of all
        for "-", page by page while they are iterated. `timeout` is each page's, in seconds.

        Raises InvalidRequest, Unavailable, NotReachable.
        """
        request = ListRequest(
            namespace=namespace, label_selector=label_selector, states=states, page_size=page_size
        )
        for page in self.pages(rpcs.LIST, request, timeout=timeout):
            yield from page.services

    def list_revisions(
        self, name: str, *, namespace: str = "", page_size: int = 0, timeout: float = 60.0
    ) -> Iterator[Revision]:
        """Read the revisions of a service, the newest first, page by page while they are iterated.
        `timeout` is each page's, in seconds.

        Raises ServiceNotFound, Unavailable, NotReachable.
        """
        request = ListRevisionsRequest(namespace=namespace, name=name, page_size=page_size)
        for page in self.pages(rpcs.LIST_REVISIONS, request, timeout=timeout):
            yield from page.revisions

    def delete(
        self,
        name: str,
        *,
        namespace: str = "",
        etag: str = "",
        allow_missing: bool = False,
        force: bool = False,
        validate_only: bool = False,
        timeout: float = 60.0,
    ) -> DeleteResponse:
        """Delete a service, and return once that is stored, while its pods still go away.

        Where an attempt was not answered, the next one takes an absent service for success.
        Without an etag it deletes a service that somebody created anew in between.

        Raises ServiceNotFound, EtagMismatch, NotManaged, Refused, Unavailable, NotReachable.
        """
        request = DeleteRequest(
            namespace=namespace,
            name=name,
            etag=etag,
            allow_missing=allow_missing,
            force=force,
            validate_only=validate_only,
        )
        return self.call(rpcs.DELETE, request, timeout=timeout)

    def watch(
        self,
        name: str = "",
        *,
        namespace: str = "",
        label_selector: str = "",
        until: WatchStatusRequest.Until.ValueType = WatchStatusRequest.UNTIL_UNSPECIFIED,
        rollout_id: str = "",
        timeout: float | None = None,
    ) -> Watch:
        """Follow a service, or without a name all of a namespace ("-": of all namespaces).

        The iterator shows a SNAPSHOT of each service and SYNCED, then CHANGED, DELETED and LEFT as
        they come. It reconnects by itself, and then shows only what has changed: no state twice in
        a row, none older than the one before. HEARTBEAT and RESET are not shown. It ends when
        `until` is met, and raises as `wait_ready` where that cannot be any more. Close it, or use
        it in a `with`, to end it earlier.
        """
        request = WatchStatusRequest(
            namespace=namespace,
            name=name,
            label_selector=label_selector,
            until=until,
            rollout_id=rollout_id,
        )
        return Watch(Run(self._driver, watching.watch(self._policy, request, timeout)))

    def wait_ready(
        self,
        rollout: Rollout,
        *,
        namespace: str = "",
        rollout_id: str = "",
        timeout: float | None = None,
        on_change: OnChange | None = None,
    ) -> InferenceService:
        """Return the service once a rollout is ready, within `timeout` seconds. Without a timeout
        it is 120 s more than the rollout has until it has failed: its ready_timeout, or 600 s,
        which is taken too where `rollout` is a name.

        `rollout` is what `deploy` or `get` returned, or the name of a service; without a rollout_id
        its newest rollout is awaited then. `on_change` is called with each state. The outcome
        depends on the rollout alone, whichever server answers and however often the connection is
        lost.

        Raises RolloutFailed, Superseded, ServiceStopped, ServiceDeleted; Timeout, with the last
        state; ServiceNotFound for a name; NotReachable.
        """
        request = watch_request(rollout, namespace, rollout_id)
        if timeout is None:
            timeout = ready_seconds(spec_of(rollout))
        return self._driver.run(watching.wait_ready(self._policy, request, timeout, on_change))

    def wait_stopped(
        self,
        rollout: Rollout,
        *,
        namespace: str = "",
        rollout_id: str = "",
        timeout: float = 600.0,
        on_change: OnChange | None = None,
    ) -> InferenceService:
        """Return the service once it is stopped and its pods are gone, within `timeout` seconds.

        `rollout` is what `stop` returned, or as for `wait_ready`. A newer rollout that leaves the
        service stopped goes on with the wait.

        Raises Superseded where a newer rollout has started it again; Refused with the reason
        SERVICE_NOT_STOPPING where nothing asks it to stop; ServiceDeleted; Timeout, with the last
        state; ServiceNotFound for a name; NotReachable.
        """
        request = watch_request(rollout, namespace, rollout_id)
        return self._driver.run(watching.wait_stopped(self._policy, request, timeout, on_change))

    def wait_gone(
        self,
        rollout: Rollout,
        *,
        namespace: str = "",
        rollout_id: str = "",
        timeout: float = 600.0,
    ) -> None:
        """Return once a service is gone, within `timeout` seconds; at once where it is absent.

        `rollout` is as for `wait_ready`, or what `delete` returned. A service that is created
        anew meanwhile is another one. Raises Timeout, NotReachable.
        """
        request = gone_request(rollout, namespace, rollout_id)
        self._driver.run(watching.wait_gone(self._policy, request, timeout))

    def call(self, rpc: Rpc[Req, Res], request: Req, *, timeout: float | None = 60.0) -> Res:
        """Call any RPC with one answer, such as rpcs.GET_REGISTERED_MODEL.

        Reads and deletions are repeated like the methods above. What creates or updates is repeated
        only where it was not sent, or the server says that it did nothing.
        """
        return self._driver.run(calls.call(self._policy, rpc, request, timeout))

    def pages(
        self, rpc: Rpc[Req, Res], request: Req, *, timeout: float | None = 60.0
    ) -> Iterator[Res]:
        """Call an RPC that lists, such as rpcs.LIST_REGISTERED_MODELS, for each of its pages."""
        next_request = calls.first_page(request)
        while True:
            page = self.call(rpc, next_request, timeout=timeout)
            yield page
            if not calls.turn_page(next_request, page):
                return


class Watch:
    """The messages of a watch, as they come. Close it to end it before its end."""

    def __init__(self, run: Run[Any]) -> None:
        self._run = run

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> WatchStatusResponse:
        return next(self._run)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the stream at once. Harmless once it has ended."""
        self._run.close()


def _new_id() -> str:
    return str(uuid.uuid4())
