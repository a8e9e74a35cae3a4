"""The composition root: makes the server of its parts, starts it and stops it."""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import grpc
import structlog

from server import failpoints
from server.adapters.no_registry import NoRegistry
from server.api.audit import Audit
from server.api.authentication import Authentication
from server.api.call_limits import CallerLimits, CallLimits
from server.api.grpc_server import grpc_server, health_listener
from server.api.health import Health, follow_health, health_statuses
from server.api.interceptor import CallInterceptor
from server.api.model_service import ModelService
from server.api.registry_service import RegistryService
from server.api.responses import Responses
from server.api.rollout_service import RolloutService
from server.api.transport.listening import add_port
from server.bounded_file import FileUnusable
from server.control.authorizer import Authorizer, ReservedNamespaces
from server.control.deploy import Deployer
from server.control.deployment_recorder import DeploymentRecorder
from server.control.read import Reader
from server.control.registry.deployments import Deployments
from server.control.registry.environments import Environments
from server.control.registry.models import Models
from server.control.registry.versions import Versions
from server.control.registry_deploy import RegistryDeployer
from server.control.rollouts import Rollouts
from server.control.service_memory import ServiceMemory
from server.control.watch import Watcher
from server.control.watch_cache import WatchCache
from server.deadline import Deadline
from server.domain.caller import ALL_NAMESPACES, Caller
from server.followed_file import FollowedFile
from server.memory_trimming import keep_freeing
from server.ports import Cluster, Identities, Registry
from server.setting_types import is_loopback
from server.settings import Identity, Serving, Settings, SettingsInvalid

if TYPE_CHECKING:
    from server.adapters.kserve.client import ApiServer
    from server.adapters.token_file import TokenFile
    from server.api.transport.client_certificates import ClientCertificates
    from server.api.transport.server_certificate import ServerCertificate

log = structlog.get_logger(__name__)

# For the check at the start. A slower API server does not prevent the start.
RELEASE_TIMEOUT = timedelta(seconds=2)


class Task(NamedTuple):
    """A task that runs while the server does. Debuggers show its name."""

    name: str
    run: Callable[[], Awaitable[None]]


class Application:
    """The gRPC server over one cluster. `start` it, then `run` it.

    `tasks` run beside its own tasks. `listeners` are asynchronous contexts: `start` enters them,
    and `run` leaves them after the last call and the tasks have ended. Raises ValueError for
    settings with authentication and no `identities`, and the other way round.
    """

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        registry: Registry | None = None,
        tasks: Sequence[Task] = (),
        listeners: Sequence[AbstractAsyncContextManager[object]] = (),
        identities: Identities | None = None,
        audit: Audit | None = None,
    ) -> None:
        # Without identities every caller may do everything.
        if (settings.auth != "none") != (identities is not None):
            raise ValueError(f"there must be identities as MODELSERVICE_AUTH={settings.auth} says")
        serving = settings.serving
        reserved = ReservedNamespaces(
            settings.platform_namespaces(), serving.permit_reserved_namespaces
        )
        authorizer = Authorizer(
            settings.kubernetes.default_namespace,
            serving.namespaces,
            reserved if settings.kserve.enabled else None,
            identities,
        )
        self.identities = identities
        self._cluster = cluster
        self._registry = registry
        self._settings = settings
        self._cache = WatchCache(cluster.refusal)
        self._health = Health()
        limits = CallLimits(
            serving.max_calls, serving.max_streams, CallerLimits(*serving.limits_of_caller())
        )
        self._clients = _client_certificates(serving)
        authentication = Authentication(identities, self._clients) if identities else None
        self._interceptor = _interceptor(settings, limits, authentication, audit)
        reader = Reader(cluster, self._cache, authorizer)
        registered = registry or NoRegistry()
        memory = ServiceMemory(self._cache, serving.services_memory_bytes())
        registry_deployer = RegistryDeployer(registered, cluster, self._cache, authorizer, memory)
        deployer = Deployer(cluster, authorizer, memory, registry_deployer)
        responses = Responses(cluster)
        models = ModelService(
            deployer=deployer,
            reader=reader,
            watcher=Watcher(cluster, self._cache, reader, authorizer),
            responses=responses,
        )
        rollouts = RolloutService(
            deployer=deployer,
            rollouts=Rollouts(cluster, authorizer, deployer),
            responses=responses,
        )
        registering = _registry_service(registered, self._cache, authorizer)
        self._certificate = _certificate(serving)
        self._server = grpc_server(
            models,
            rollouts,
            registering,
            self._health,
            self._interceptor,
            limits,
            encrypted=self._certificate is not None,
        )
        self._listeners = [*listeners]
        if serving.health_listen:
            # With its own handlers: those of an interceptor serve every method that it has met.
            probes = _interceptor(settings, limits)
            self._listeners.append(health_listener(self._health, probes, serving.health_listen))
        self._listening = AsyncExitStack()
        # Of the listener for client certificates; 0 where there is none.
        self.mtls_port = 0
        self._tasks = [
            Task("status feed", lambda: cluster.follow(self._cache)),
            Task("health", lambda: follow_health(self._health, self._cache, cluster, registry)),
            Task("freed memory", keep_freeing),
            *tasks,
        ]
        if self._certificate:
            self._tasks.append(Task("certificate", self._certificate.follow))
        if self._clients:
            self._tasks.append(Task("client CA", self._clients.file.follow))
        if registry:
            recorder = DeploymentRecorder(registry, cluster, self._cache)
            self._tasks.append(Task("deployment recorder", recorder.run))

    async def start(self) -> int:
        """Listen, and return the port.

        Raises AddressUnusable, SettingsInvalid for the certificate and the CA of clients, and the
        errors of listeners.
        """
        self._health.set(health_statuses(self._cache, self._cluster, self._registry))
        serving = self._settings.serving
        credentials = await _loaded_credentials(self._certificate)
        if self._clients:
            await _load(self._clients.file)
        async with AsyncExitStack() as entered:
            for listener in self._listeners:
                await entered.enter_async_context(listener)
            port = await add_port(
                self._server, serving.listen, credentials=credentials and partial(credentials, None)
            )
            if serving.mtls_listen and credentials:
                self.mtls_port = await add_port(
                    self._server,
                    serving.mtls_listen,
                    "MODELSERVICE_MTLS_LISTEN",
                    partial(credentials, self._clients),
                )
                address = _with_port(serving.mtls_listen, self.mtls_port)
                log.info("listening for client certificates", address=address)
            await self._server.start()
            self._listening = entered.pop_all()
        address = _with_port(serving.listen, port)
        auth = self._settings.auth
        log.info("listening", address=address, encrypted=credentials is not None, auth=auth)
        if auth == "none" and not is_loopback(serving.listen):
            log.warning("every caller may do everything: MODELSERVICE_AUTH is none")
        return port

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`, then end within the grace. Raises the error of a task that fails."""
        async with self._listening, asyncio.TaskGroup() as group:
            running = [group.create_task(_endless(t), name=t.name) for t in self._tasks]
            try:
                await stop.wait()
            finally:
                await self._stop()
                for task in reversed(running):
                    task.cancel()

    async def _stop(self) -> None:
        """Report NOT_SERVING, then end streams, then wait for the calls that are open."""
        delay, grace = self._settings.stop.delay, self._settings.stop.grace
        deadline = Deadline.after(grace)
        log.info("stopping", grace=grace.total_seconds())
        self._health.stop_admitting()
        await asyncio.sleep(delay.total_seconds())
        # An open stream would use up the whole grace.
        self._cache.stop()
        self._health.end_watches()
        # Without an end of its own: two at one moment make gRPC use a server that it has freed.
        refusing = asyncio.create_task(self._server.stop(math.inf), name="refusing calls")
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline.at):
                await self._interceptor.drained()
        # No call is open now, or the deadline has passed.
        await self._server.stop(None)
        await refusing
        log.info("stopped")


def _with_port(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}"


async def _endless(task: Task) -> NoReturn:
    await task.run()
    raise AssertionError(f"the task {task.name!r} ended by itself")


def _registry_service(
    registry: Registry, cache: WatchCache, authorizer: Authorizer
) -> RegistryService:
    return RegistryService(
        models=Models(registry, cache, authorizer),
        versions=Versions(registry, cache, authorizer),
        environments=Environments(registry, cache, authorizer),
        deployments=Deployments(registry, authorizer),
    )


def _interceptor(
    settings: Settings,
    limits: CallLimits,
    authentication: Authentication | None = None,
    audit: Audit | None = None,
) -> CallInterceptor:
    return CallInterceptor(
        anonymous_caller(settings),
        settings.kubernetes.default_namespace,
        limits,
        authentication,
        audit,
        open_reflection=settings.identity.reflection == "open",
    )


def kubernetes_identities(
    api: ApiServer, identity: Identity, bound: Callable[[Iterable[str]], Collection[str]]
) -> Identities:
    """Return the identities of a cluster's API server. `bound` returns the namespaces in which
    users and groups are bound to roles."""
    # Imported here, since others do not need it.
    from server.adapters.kserve.identity.identities import KubernetesIdentities  # noqa: PLC0415
    from server.adapters.kserve.identity.reviews import Reviews  # noqa: PLC0415

    reviews = Reviews(api, identity.audience)
    return KubernetesIdentities(reviews, identity.audience, identity.auth_outage, bound=bound)


async def opened_token_file(settings: Settings) -> TokenFile | None:
    """Read the file of tokens; None without one. Raises SettingsInvalid."""
    if settings.auth != "tokens":
        return None
    # Imported here, since others do not need it.
    from server.adapters.token_file import TokenFile  # noqa: PLC0415

    tokens = TokenFile(settings.identity.tokens_path())
    await _load(tokens.file)
    return tokens


async def _load(file: FollowedFile) -> None:
    """Raises SettingsInvalid."""
    try:
        await file.load()
    except FileUnusable as e:
        raise SettingsInvalid(str(e)) from None


def _client_certificates(serving: Serving) -> ClientCertificates | None:
    if not (path := serving.client_ca_path()):
        return None
    # Imported here, as below.
    from server.api.transport.client_certificates import ClientCertificates  # noqa: PLC0415

    return ClientCertificates(path)


def _certificate(serving: Serving) -> ServerCertificate | None:
    if not (paths := serving.tls_paths()):
        return None
    # Imported here, since cryptography takes a tenth of a second and plaintext does not need it.
    from server.api.transport.certificate import Paths  # noqa: PLC0415
    from server.api.transport.server_certificate import ServerCertificate  # noqa: PLC0415

    return ServerCertificate(Paths(*paths))


async def _loaded_credentials(
    certificate: ServerCertificate | None,
) -> Callable[[ClientCertificates | None], grpc.ServerCredentials] | None:
    if certificate is None:
        return None
    from server.api.transport.certificate import CertificateUnusable  # noqa: PLC0415

    try:
        await certificate.load()
    except CertificateUnusable as e:
        raise SettingsInvalid(str(e)) from None
    return certificate.credentials


def anonymous_caller(settings: Settings) -> Caller:
    """Return the caller of every call where callers have no identity.

    Where they have one, each caller's right decides about the text of containers, after all else.
    """
    if settings.auth != "none":
        return Caller(reads_output_in=frozenset({ALL_NAMESPACES}))
    return Caller(reads_output_in=settings.serving.show_container_text)


class ClusterUnusable(Exception):
    """The cluster cannot be used; the message is for operators."""


class RegistryUnusable(Exception):
    """The registry's database cannot be used; the message is for operators."""


async def run(settings: Settings) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP. Raises SettingsInvalid, AddressUnusable,
    ClusterUnusable and RegistryUnusable."""
    if settings.testing.crash_at:
        failpoints.arm(settings.testing.crash_at)
    grace = Grace(settings.stop.grace)
    opened = _kserve(settings) if settings.kserve.enabled else _local(settings, grace)
    # Lock the state directory before opening the registry in it.
    async with (
        opened as (cluster, identities),
        opened_registry(settings) as registry,
        opened_audit(settings) as audit,
    ):
        file = await opened_token_file(settings)
        tasks = [Task("tokens", file.file.follow)] if file else []
        application = Application(
            cluster, settings, registry, tasks, identities=file or identities, audit=audit
        )
        await serve(application, grace.begin)


class Grace:
    """The time that the whole stop may take, from the first signal on."""

    def __init__(self, grace: timedelta) -> None:
        self._grace = grace
        self._deadline: Deadline | None = None

    def begin(self) -> None:
        """Start the clock; a second signal does not start it again."""
        self._deadline = self._deadline or Deadline.after(self._grace)

    def deadline(self) -> Deadline:
        """Return the end of the stop; it begins now where no signal came."""
        return self._deadline or Deadline.after(self._grace)


async def serve(application: Application, stopping: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then call `stopping`. Raises AddressUnusable."""
    stop = asyncio.Event()

    def end() -> None:
        stopping()
        stop.set()

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        # A closed terminal sends it. Under nohup it is ignored.
        numbers.append(signal.SIGHUP)
    for signal_number in numbers:
        asyncio.get_running_loop().add_signal_handler(signal_number, end)
    await application.start()
    await application.run(stop)


@asynccontextmanager
async def _kserve(settings: Settings) -> AsyncIterator[tuple[Cluster, Identities | None]]:
    # Imported here, since it takes a tenth of a second and the other cluster does not need it.
    from server.adapters.kserve.client import ApiServer  # noqa: PLC0415
    from server.adapters.kserve.cluster import KServeCluster  # noqa: PLC0415
    from server.adapters.kserve.connection.yaml_document import ConfigurationUnusable  # noqa: PLC0415
    from server.adapters.kserve.informers.kserve_release import KServeTooOld  # noqa: PLC0415

    kubernetes, serving = settings.kubernetes, settings.serving
    try:
        api = await ApiServer.connect(
            "" if kubernetes.in_cluster else kubernetes.kubeconfig_paths(),
            in_cluster=kubernetes.in_cluster,
            environment=kubernetes.environment(),
        )
    except ConfigurationUnusable as e:
        raise SettingsInvalid(str(e)) from e
    try:
        cluster = KServeCluster(
            api,
            namespaces=sorted(serving.namespaces),
            kserve_namespace=serving.kserve_namespace,
            caller=anonymous_caller(settings),
            most_revisions=serving.revisions,
        )
        await cluster.check_release(RELEASE_TIMEOUT)
        reviewed = settings.auth == "kubernetes"
        bound = cluster.namespaces_bound_to
        yield cluster, kubernetes_identities(api, settings.identity, bound) if reviewed else None
    except KServeTooOld as e:
        raise SettingsInvalid(f"KSERVE_ENABLED: {e}") from e
    finally:
        await api.close()


@asynccontextmanager
async def _local(settings: Settings, grace: Grace) -> AsyncIterator[tuple[Cluster, None]]:
    # Imported here, since it takes a tenth of a second and the other cluster does not need it.
    from server.adapters.local import factory  # noqa: PLC0415

    local = settings.local
    try:
        async with factory.opened_cluster(
            local.state_path(),
            grace.deadline,
            python=local.serving_python_path(),
            runtimes=local.serving_runtimes_path(),
            ports=local.serving_port_range(),
            model_size_limit=local.model_size_limit_bytes(),
            progress_deadline=local.progress_deadline,
            environment=local.environment(),
            most_revisions=settings.serving.revisions,
        ) as cluster:
            yield cluster, None
    except factory.RuntimesInvalid as e:
        raise SettingsInvalid(f"MODELSERVICE_SERVING_RUNTIMES: {e}") from e
    except factory.StateDirUnusable as e:
        raise ClusterUnusable(str(e)) from e


@asynccontextmanager
async def opened_registry(settings: Settings) -> AsyncIterator[Registry | None]:
    """Open the registry for the length of a block; None without one.

    Raises SettingsInvalid and RegistryUnusable.
    """
    if not (url := settings.registry_url()):
        yield None
        return
    # Imported here, since SQLAlchemy takes a quarter of a second.
    from server.adapters.sql import factory  # noqa: PLC0415

    try:
        async with factory.opened_registry(url) as registry:
            yield registry
    except factory.UrlInvalid as e:
        raise SettingsInvalid(f"MODELSERVICE_DATABASE_URL: {e}") from None
    except factory.RegistryUnusable as e:
        raise RegistryUnusable(str(e)) from e


@asynccontextmanager
async def opened_audit(settings: Settings) -> AsyncIterator[Audit | None]:
    """Open the audit for the length of a block; None without one. Raises SettingsInvalid."""
    if not settings.identity.audit:
        yield None
        return
    # Imported here, since others do not need it.
    from server.adapters.audit_file import AuditUnusable, opened_audit_file  # noqa: PLC0415

    try:
        async with opened_audit_file(settings.identity.audit_path()) as sink:
            audit = Audit(sink)
            try:
                yield audit
            finally:
                audit.close()
    except AuditUnusable as e:
        raise SettingsInvalid(f"MODELSERVICE_AUDIT: {e}") from None
