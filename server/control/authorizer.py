"""Authorizes calls, by the rights of their callers in namespaces and projects.

Rights come before existence: nothing is looked up for a call before its caller has the right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from server.control.call import Call
from server.control.watch_cache import ALL
from server.deadline import NEVER, Deadline
from server.domain.caller import Access, Caller, Resource
from server.domain.errors import (
    ClusterUnavailable,
    NamespaceNotServed,
    PermissionDenied,
    ReservedNamespace,
    ServerLacksRights,
    ServiceError,
    TooManyRequests,
)
from server.domain.registry.deployment import ModelDeployment
from server.domain.revisions.revision import Revision
from server.domain.service.commands import fingerprint
from server.domain.service.container_text import (
    failure_has_container_text,
    failure_without_container_text,
    has_container_text,
    without_container_text,
)
from server.domain.service.inference_service import InferenceService, ServiceKey
from server.domain.service.validation import check_namespace
from server.ports import Identities

_KUBERNETES = "kube-"
_KNATIVE = frozenset({"knative-serving", "knative-eventing", "knative-operator"})
# How often the rights of an open stream are checked.
RECHECK = timedelta(seconds=30)


# Of the namespaces without services in which a caller may have rights, so many are asked about.
MOST_LIKELY = 20


class Verb(StrEnum):
    """What a call asks to do with services."""

    GET = "get"
    LIST = "list"
    WATCH = "watch"
    DEPLOY = "deploy"
    DELETE = "delete"


class ProjectVerb(StrEnum):
    """What a call asks to do with a project of the registry. CREATE: register its first model."""

    GET = "get"
    UPDATE = "update"
    CREATE = "create"


# By Kubernetes' names. A Deploy is a server-side apply, which is a patch.
_RIGHTS = {
    Verb.GET: "get",
    Verb.LIST: "list",
    Verb.WATCH: "watch",
    Verb.DEPLOY: "patch",
    Verb.DELETE: "delete",
}
_CREATE = "create"


@dataclass(frozen=True, slots=True)
class ReservedNamespaces:
    """The platform's namespaces, whose pods hold rights and Secrets of the whole cluster.

    They are Kubernetes' and Knative's by their names, and the `own` ones: KServe's and this
    server's. Deploys to the `permitted` ones are allowed all the same.
    """

    own: frozenset[str] = frozenset()
    permitted: frozenset[str] = frozenset()

    def __contains__(self, namespace: str) -> bool:
        platform = namespace.startswith(_KUBERNETES) or namespace in _KNATIVE | self.own
        return platform and namespace not in self.permitted


@dataclass(frozen=True, slots=True)
class Authorizer:
    """Decides which services and projects a call may act on.

    An empty `served` stands for every namespace; `reserved` is None where there is no platform
    that must be protected. Without `identities` every caller has every right.
    """

    default_namespace: str
    served: frozenset[str] = frozenset()
    reserved: ReservedNamespaces | None = None
    identities: Identities | None = None

    async def authorize(self, call: Call, verb: Verb, target: ServiceKey) -> ServiceKey:
        """Return the target with the default namespace filled in, if the call may act there.

        A List or watch of the namespace `-` is answered as it is: `coverage` decides about it.
        Raises NamespaceNotServed, PermissionDenied, and for a Deploy ReservedNamespace.
        """
        if verb in (Verb.LIST, Verb.WATCH) and target == (ALL, ""):
            return target
        key = target if target.namespace else ServiceKey(self.default_namespace, target.name)
        if self.served and key.namespace not in self.served:
            raise NamespaceNotServed(key.namespace)
        if self.identities:
            # No right is asked for about a name that no namespace can have.
            check_namespace(key.namespace)
            access = Access(_RIGHTS[verb], Resource.SERVICES, key.namespace)
            await self._require(self.identities, call, access)
        if verb is Verb.DEPLOY and self.reserved and key.namespace in self.reserved:
            raise ReservedNamespace(key.namespace)
        return key

    async def creation_refusal(self, call: Call, namespace: str) -> ServiceError | None:
        """Return the error of a Deploy that creates its service; None where it may."""
        if not self.identities:
            return None
        access = Access(_CREATE, Resource.SERVICES, namespace)
        if await self.identities.allows(call.caller, access):
            return None
        return _denied(self.identities, call.caller, access)

    async def authorize_project(self, call: Call, verb: ProjectVerb, project: str) -> None:
        """Check a call's right on a project, whose name is valid. Raises PermissionDenied."""
        if self.identities:
            access = Access(verb, Resource.PROJECTS, name=project)
            await self._require(self.identities, call, access)

    async def project_refusal(
        self, call: Call, verb: ProjectVerb, project: str
    ) -> ServiceError | None:
        """Return the error of a call without a right on a project; None where it has the right."""
        try:
            await self.authorize_project(call, verb, project)
        except PermissionDenied as refusal:
            return refusal
        return None

    async def coverage(
        self, call: Call, verb: Verb, target: ServiceKey, present: Callable[[], Collection[str]]
    ) -> Coverage:
        """Return the part of an authorized target that a List or watch shows.

        For `-` that is every namespace in which the caller has the right, of those that are served
        or, where all are, those with services, which `present` returns. Raises PermissionDenied if
        there is none.
        """
        coverage = Coverage(self, call, verb, target, present)
        await coverage.begin()
        return coverage

    async def shown(self, call: Call, service: InferenceService) -> InferenceService:
        """Return a service as the caller may see it: the text of containers takes a right of its
        own, which is asked for only where there is such text."""
        if not self.identities or not has_container_text(service):
            return service
        [shown] = await self.shown_list(call, [service])
        return shown

    async def shown_list(
        self, call: Call, services: Sequence[InferenceService]
    ) -> Sequence[InferenceService]:
        """Return services as the caller may see them: see `shown`."""
        if not self.identities:
            return services
        texts = {s.key.namespace for s in services if has_container_text(s)}
        denied = await self._without_logs(self.identities, call.caller, texts) if texts else None
        if not denied:
            return services
        return [
            without_container_text(s) if s.key.namespace in denied and has_container_text(s) else s
            for s in services
        ]

    async def shown_records(
        self, call: Call, records: Sequence[ModelDeployment]
    ) -> Sequence[ModelDeployment]:
        """Return records of deployments as the caller may see them: see `shown`."""
        if not self.identities:
            return records
        failures = [(record, record.failure) for record in records if record.failure]
        texts = {r.service.namespace for r, f in failures if failure_has_container_text(f)}
        denied = await self._without_logs(self.identities, call.caller, texts)
        return [
            replace(record, failure=failure_without_container_text(record.failure))
            if record.failure and record.service.namespace in denied
            else record
            for record in records
        ]

    async def shown_revisions(
        self, call: Call, key: ServiceKey, revisions: Sequence[Revision]
    ) -> Sequence[Revision]:
        """Return revisions of a service as the caller may see them: see `shown`."""
        failures = [revision.failure for revision in revisions if revision.failure]
        if not self.identities or not any(map(failure_has_container_text, failures)):
            return revisions
        if not await self._without_logs(self.identities, call.caller, [key.namespace]):
            return revisions
        return [
            replace(r, failure=failure_without_container_text(r.failure)) if r.failure else r
            for r in revisions
        ]

    async def _without_logs(
        self, identities: Identities, caller: Caller, namespaces: Iterable[str]
    ) -> set[str]:
        """Return those of the namespaces in which the caller may not read logs."""
        names = sorted(namespaces)
        allowed = await asyncio.gather(*(_reads_logs(identities, caller, name) for name in names))
        return {name for name, allows in zip(names, allowed, strict=True) if not allows}

    async def _require(self, identities: Identities, call: Call, access: Access) -> None:
        if not await identities.allows(call.caller, access):
            raise _denied(identities, call.caller, access)


async def _reads_logs(
    identities: Identities, caller: Caller, namespace: str, *, fresh: bool = False
) -> bool:
    """Return whether a caller may read logs; False where that is not known."""
    access = Access("get", Resource.POD_LOGS, namespace)
    try:
        return await identities.allows(caller, access, fresh=fresh)
    except (ClusterUnavailable, ServerLacksRights, TooManyRequests):
        return False


def _denied(identities: Identities, caller: Caller, access: Access) -> PermissionDenied:
    return PermissionDenied(caller, access, identities.remedy(caller, access))


class Coverage:
    """The part of a target that the caller's rights cover.

    A stream has to `renew` it when it is `due`, since rights and tokens end.
    """

    __slots__ = (
        "_authenticate",
        "_authorizer",
        "_caller",
        "_decided",
        "_identities",
        "_logs",
        "_present",
        "_right",
        "due",
        "scope",
        "target",
    )

    def __init__(
        self,
        authorizer: Authorizer,
        call: Call,
        verb: Verb,
        target: ServiceKey,
        present: Callable[[], Collection[str]],
    ) -> None:
        self.target = target
        self.due = NEVER
        # Equal for two streams of a target if they cover the same; empty where that is all of it.
        self.scope = ""
        self._authorizer = authorizer
        self._identities = authorizer.identities
        self._caller, self._authenticate = call.caller, call.authenticate
        self._right = _RIGHTS[verb]
        self._present = present
        # Of the namespaces of `-`; None where the whole target is covered.
        self._decided: dict[str, bool] | None = None
        # The namespaces whose logs the caller may read, or not, until rights are checked again.
        self._logs: dict[str, bool] | None = None

    async def begin(self) -> None:
        """Decide about the namespaces of `-`. Raises PermissionDenied if none is covered."""
        if self._identities:
            if self.target.namespace == ALL:
                await self._decide_all(self._identities, fresh=False)
            self._schedule()

    async def renew(self) -> Collection[str]:
        """Authenticate the caller again, decide anew, and return the namespaces that are covered
        only now, or no longer.

        Raises Unauthenticated if the token is no longer valid, and PermissionDenied if nothing is
        covered any more.
        """
        if not self._identities:
            return ()
        if self._authenticate:
            self._caller = await self._authenticate(fresh=True)
        self._logs = None
        names = {*self._present(), *(self._decided or ())}
        before = {name for name in names if self.covers(name)}
        if self.target.namespace == ALL:
            await self._decide_all(self._identities, fresh=True)
        else:
            await self._require(self._identities, self._access(self.target.namespace))
        self._schedule()
        return {name for name in names if self.covers(name) != (name in before)}

    async def add(self, keys: Iterable[ServiceKey]) -> None:
        """Decide about the namespaces of services that are new."""
        if self._decided is None or not self._identities:
            return
        if new := sorted({key.namespace for key in keys} - self._decided.keys()):
            reviewed = await self._reviewed(self._identities, new, fresh=False)
            allowed = {name: each is True for name, each in zip(new, reviewed, strict=True)}
            self._note({**self._decided, **allowed})

    def covers(self, namespace: str) -> bool:
        """Report whether services of a namespace are covered."""
        return self._decided is None or self._decided.get(namespace, False)

    async def shown(self, service: InferenceService) -> InferenceService:
        """Return a service as the caller may see it: see `Authorizer.shown`."""
        if not self._identities or not has_container_text(service):
            return service
        namespace = service.key.namespace
        if self._logs is None:
            self._logs = {}
        if namespace not in self._logs:
            self._logs[namespace] = await _reads_logs(
                self._identities, self._caller, namespace, fresh=True
            )
        return service if self._logs[namespace] else without_container_text(service)

    @property
    def targets(self) -> Sequence[ServiceKey]:
        """Return the targets that together are what is covered, by namespace."""
        if self._decided is None:
            return [self.target]
        return [ServiceKey(name, "") for name in sorted(self._decided) if self._decided[name]]

    async def _decide_all(self, identities: Identities, *, fresh: bool) -> None:
        [everywhere] = await self._reviewed(identities, [""], fresh=fresh)
        if everywhere is True:
            self._note(None)
            return
        default = self._authorizer.default_namespace
        # Not only those with services: the deletion of a namespace's last service is sent, too, and
        # its watch goes on. A namespace without services is dropped once it is denied.
        allowed_before = [name for name, allowed in (self._decided or {}).items() if allowed]
        names = sorted(self._authorizer.served or {*self._present(), default, *allowed_before})
        reviewed = await self._reviewed(identities, names, fresh=fresh)
        if True not in reviewed:
            elsewhere = await self._reviewed_elsewhere(identities, names, fresh)
            if True not in elsewhere:
                for each in (everywhere, *reviewed, *elsewhere):
                    if isinstance(each, ServiceError):
                        raise each
                raise _denied(identities, self._caller, self._access(""))
        self._note({name: each is True for name, each in zip(names, reviewed, strict=True)})

    async def _reviewed_elsewhere(
        self, identities: Identities, names: Sequence[str], fresh: bool
    ) -> Sequence[bool | ServiceError]:
        """Review the right in namespaces that have no services yet."""
        if self._authorizer.served:
            return ()
        known = {*names}
        likely = [n for n in identities.likely_namespaces(self._caller) if n not in known]
        return await self._reviewed(identities, likely[:MOST_LIKELY], fresh=fresh)

    async def _reviewed(
        self, identities: Identities, namespaces: Sequence[str], *, fresh: bool
    ) -> Sequence[bool | ServiceError]:
        """Return for each namespace whether the caller has the right there.

        It is an error where the API server does not answer and did not allow it before: such a
        namespace is not covered, and the caller goes on with the others.
        """

        async def reviewed(access: Access) -> bool | ServiceError:
            try:
                return await identities.allows(self._caller, access, fresh=fresh)
            except (ClusterUnavailable, ServerLacksRights) as error:
                return error

        return await asyncio.gather(*(reviewed(self._access(name)) for name in namespaces))

    async def _require(self, identities: Identities, access: Access) -> None:
        if not await identities.allows(self._caller, access, fresh=True):
            raise _denied(identities, self._caller, access)

    def _access(self, namespace: str) -> Access:
        return Access(self._right, Resource.SERVICES, namespace)

    def _note(self, decided: dict[str, bool] | None) -> None:
        self._decided = decided
        self.scope = "" if decided is None else fingerprint([t.namespace for t in self.targets])

    def _schedule(self) -> None:
        ends = self._caller.expires
        left = ends - datetime.now(UTC) if ends else RECHECK
        self.due = Deadline.after(max(timedelta(0), min(RECHECK, left)))
