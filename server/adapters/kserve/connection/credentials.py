"""Keep this server's credentials for the API server fresh."""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from server.adapters.kserve.connection.exec_plugin import ExecCredential
from server.adapters.kserve.connection.kubeconfig import User, read
from server.adapters.kserve.connection.tls import CertificateUnusable
from server.adapters.kserve.connection.yaml_document import ConfigurationUnusable

# As often as client-go reads token files: the kubelet renews them well before they expire.
READ_FILES_EVERY = 50.0
# A plugin's credentials are renewed at most this long before they expire.
RENEW_BEFORE = 60.0
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """The credentials in a request. `renew_at` and `expires_at` are Unix times; None: never."""

    authorization: str | None = field(default=None, repr=False)
    certificate: tuple[bytes, bytes] | None = field(default=None, repr=False)
    renew_at: float | None = None
    expires_at: float | None = None

    def same_as(self, other: Identity) -> bool:
        """Return whether the API server would see the same credentials."""
        mine = (self.authorization, self.certificate)
        return mine == (other.authorization, other.certificate)


@dataclass(frozen=True, slots=True)
class Access:
    """An identity, and the TLS context with its certificate; None for plain http."""

    identity: Identity
    tls: ssl.SSLContext | None


MakeTls = Callable[[tuple[bytes, bytes] | None], ssl.SSLContext | None]


class Credentials:
    """The credentials of one user.

    Files are read again every READ_FILES_EVERY, a plugin runs again before its credentials expire,
    and a 401 renews all of them. After a 401 or a failure the user's kubeconfig is read again too,
    for the credentials of the same user and nothing else. A failure is logged once and retried;
    the earlier credentials stay until they expire.
    """

    def __init__(
        self,
        user: User,
        obtain: Callable[[User], Awaitable[Identity]],
        make_tls: MakeTls,
    ) -> None:
        self._user = user
        self._obtain = obtain
        self._make_tls = make_tls
        self._access: Access | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._pause = 0.0
        self._not_before = 0.0
        self._error = ""

    async def open(self) -> None:
        """Obtain the first credentials. Raises ConfigurationUnusable."""
        self._access = await self._obtain_access(self._user)

    async def close(self) -> None:
        """Stop a running plugin."""
        if self._renewing:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])

    async def current(self, seconds: float) -> Access | None:
        """Return the credentials to use now.

        None if they have expired and are not renewed within `seconds`.
        """
        access = self._opened
        if _is_past(access.identity.renew_at):
            renewing = self._begin_renewal(refused=False)
            if renewing and _is_past(access.identity.expires_at):
                await asyncio.wait([renewing], timeout=seconds)
        access = self._opened
        return None if _is_past(access.identity.expires_at) else access

    async def renewed(self, refused: Access, seconds: float) -> bool:
        """Return whether there are other credentials than the refused ones, within `seconds`."""
        if self._is_current(refused) and (renewing := self._begin_renewal(refused=True)):
            await asyncio.wait([renewing], timeout=seconds)
        return not self._is_current(refused)

    def _is_current(self, access: Access) -> bool:
        return self._opened.identity.same_as(access.identity)

    @property
    def _opened(self) -> Access:
        assert self._access
        return self._access

    def _begin_renewal(self, *, refused: bool) -> asyncio.Task[None] | None:
        """Return the running renewal, or start one; None during the pause."""
        now = time.monotonic()
        if self._renewing and not self._renewing.done():
            return self._renewing
        if now < self._not_before:
            return None
        if now - self._not_before > 2 * LONGEST_PAUSE:
            self._pause = 0.0
        self._pause = min(max(2 * self._pause, FIRST_PAUSE), LONGEST_PAUSE)
        self._renewing = asyncio.create_task(self._renew(refused=refused), name="credentials")
        return self._renewing

    async def _renew(self, *, refused: bool) -> None:
        user, error = self._user, ""
        try:
            # The kubeconfig may have been repaired since a failure.
            if refused or self._error:
                user, error = await asyncio.to_thread(_reload_user, user)
            self._access = await self._obtain_access(user)
            self._user = user
            if not refused:
                self._pause = 0.0
        except ConfigurationUnusable as e:
            error = error or str(e)
        except Exception as e:
            error = error or type(e).__name__
            log.error("renewing credentials failed", exc_info=e)
        finally:
            self._not_before = time.monotonic() + self._pause
        self._log_error(error)

    async def _obtain_access(self, user: User) -> Access:
        identity = await self._obtain(user)
        old = self._access
        if old and old.identity.certificate == identity.certificate:
            return Access(identity, old.tls)
        try:
            tls = await asyncio.to_thread(self._make_tls, identity.certificate)
        except CertificateUnusable as e:
            raise user.invalid("client-certificate", str(e)) from e
        return Access(identity, tls)

    def _log_error(self, error: str) -> None:
        """Log the first of several failures, whose texts may differ, and the recovery."""
        if error and not self._error:
            log.warning("credentials cannot be renewed", why=error)
        elif self._error and not error:
            log.info("credentials are renewed again")
        self._error = error


async def identity_of(
    user: User, cluster: Mapping[str, Any], environment: Mapping[str, str]
) -> Identity:
    """Obtain a user's credentials in kubectl's order; a plugin may read `cluster`.

    Raises ConfigurationUnusable.
    """
    if user.uses_plugin:
        assert user.exec
        return _plugin_identity(await user.exec.run(cluster, environment))
    return await asyncio.to_thread(_read_identity, user)


def _plugin_identity(credential: ExecCredential) -> Identity:
    authorization = f"Bearer {credential.token}" if credential.token else None
    if credential.expires_at is None:
        return Identity(authorization, credential.certificate)
    now, expires_at = time.time(), credential.expires_at.timestamp()
    ahead = min(RENEW_BEFORE, (expires_at - now) / 5)
    return Identity(authorization, credential.certificate, max(now, expires_at - ahead), expires_at)


def _read_identity(user: User) -> Identity:
    authorization = None
    if user.has_token:
        authorization = f"Bearer {user.bearer_token()}"
    elif user.username:
        pair = f"{user.username}:{user.password}".encode()
        authorization = f"Basic {base64.b64encode(pair).decode()}"
    certificate = user.certificate() if user.has_certificate else None
    files = (user.token_file, user.certificate_file, user.key_file)
    renew_at = time.time() + READ_FILES_EVERY if any(files) else None
    return Identity(authorization, certificate, renew_at)


def _reload_user(user: User) -> tuple[User, str]:
    """Return the user with the credentials that its kubeconfig has now, and an error or "".

    The user stays the same if the file no longer has it, and its impersonation stays in any case.
    """
    if user.origin is None:
        return user, ""
    try:
        found = read(user.origin).users.get(user.name)
        if found is None:
            return user, f"{user.field_path}: the user is gone"
        found.check()
    except ConfigurationUnusable as e:
        return user, str(e)
    if not found.has_credentials:
        return user, f"{user.field_path}: must have credentials"
    return replace(found, impersonation=user.impersonation), ""


def _is_past(time_: float | None) -> bool:
    return time_ is not None and time.time() >= time_
