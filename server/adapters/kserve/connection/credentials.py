"""Who this server is to the API server, kept fresh."""

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

# As client-go reads token files again: the kubelet renews them well before they end.
READ_FILES_EVERY = 50.0
# A plugin's credentials are renewed so long before they end, at most.
RENEW_BEFORE = 60.0
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a request carries. `renew_at` and `ends_at` are Unix times; None: never."""

    authorization: str | None = field(default=None, repr=False)
    certificate: tuple[bytes, bytes] | None = field(default=None, repr=False)
    renew_at: float | None = None
    ends_at: float | None = None

    def same_as(self, other: Identity) -> bool:
        """Whether the API server would see the same."""
        mine = (self.authorization, self.certificate)
        return mine == (other.authorization, other.certificate)


@dataclass(frozen=True, slots=True)
class Access:
    """An identity, and the TLS context that shows its certificate; None for plain http."""

    identity: Identity
    tls: ssl.SSLContext | None


MakeTls = Callable[[tuple[bytes, bytes] | None], ssl.SSLContext | None]


class Credentials:
    """The credentials of one user.

    Files are read again every READ_FILES_EVERY, a plugin is run again before what it printed ends,
    and all is obtained anew after a 401. Then, and after a failure, the user's own kubeconfig is
    read again too: the same user's credentials are taken from it and nothing else. A failure is
    logged once and retried; what was obtained before stays until it ends.
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
        self._trouble = ""

    async def open(self) -> None:
        """Obtain the first credentials. Raises ConfigurationUnusable."""
        self._access = await self._obtained(self._user)

    async def close(self) -> None:
        """End a plugin that runs."""
        if self._renewing:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])

    async def current(self, patience: float) -> Access | None:
        """The credentials to use now; None where they have ended and no others come in time."""
        access = self._opened()
        if _passed(access.identity.renew_at):
            renewing = self._begin_renewal(refused=False)
            if renewing and _passed(access.identity.ends_at):
                await asyncio.wait([renewing], timeout=patience)
        access = self._opened()
        return None if _passed(access.identity.ends_at) else access

    async def renewed(self, refused: Access, patience: float) -> bool:
        """Whether there are others than those that were refused, obtained anew if need be."""
        if self._is_still(refused) and (renewing := self._begin_renewal(refused=True)):
            await asyncio.wait([renewing], timeout=patience)
        return not self._is_still(refused)

    def _is_still(self, access: Access) -> bool:
        return self._opened().identity.same_as(access.identity)

    def _opened(self) -> Access:
        assert self._access
        return self._access

    def _begin_renewal(self, *, refused: bool) -> asyncio.Task[None] | None:
        """The renewal that runs, or a new one; None before the pause has passed."""
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
        user, trouble = self._user, ""
        try:
            # After a failure too: what failed may have been mended there.
            if refused or self._trouble:
                user, trouble = await asyncio.to_thread(_read_again, user)
            self._access = await self._obtained(user)
            self._user = user
            if not refused:
                self._pause = 0.0
        except ConfigurationUnusable as e:
            trouble = trouble or str(e)
        except Exception as e:
            trouble = trouble or type(e).__name__
            log.error("renewing credentials failed", exc_info=e)
        finally:
            self._not_before = time.monotonic() + self._pause
        self._note(trouble)

    async def _obtained(self, user: User) -> Access:
        identity = await self._obtain(user)
        old = self._access
        if old and old.identity.certificate == identity.certificate:
            return Access(identity, old.tls)
        try:
            tls = await asyncio.to_thread(self._make_tls, identity.certificate)
        except CertificateUnusable as e:
            raise user.invalid("client-certificate", str(e)) from e
        return Access(identity, tls)

    def _note(self, trouble: str) -> None:
        """Log the first failure, whose words may differ each time, and the recovery."""
        if trouble and not self._trouble:
            log.warning("credentials cannot be renewed", why=trouble)
        elif self._trouble and not trouble:
            log.info("credentials are renewed again")
        self._trouble = trouble


async def identity_of(
    user: User, cluster: Mapping[str, Any], environment: Mapping[str, str]
) -> Identity:
    """Obtain a user's credentials as kubectl would, in its order; plugins are given `cluster`.

    Raises ConfigurationUnusable.
    """
    if user.uses_plugin:
        assert user.exec
        return _printed(await user.exec.run(cluster, environment))
    return await asyncio.to_thread(_read_identity, user)


def _printed(credential: ExecCredential) -> Identity:
    authorization = f"Bearer {credential.token}" if credential.token else None
    if credential.expires_at is None:
        return Identity(authorization, credential.certificate)
    now, ends_at = time.time(), credential.expires_at.timestamp()
    ahead = min(RENEW_BEFORE, (ends_at - now) / 5)
    return Identity(authorization, credential.certificate, max(now, ends_at - ahead), ends_at)


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


def _read_again(user: User) -> tuple[User, str]:
    """The user by the credentials that its kubeconfig has now, and what is wrong, if anything.

    It stays as it was where the file has none of it any longer, and acts as whom it acted before.
    """
    if user.origin is None:
        return user, ""
    try:
        found = read(user.origin).users.get(user.name)
        if found is None:
            return user, f"{user.at}: the user is gone"
        found.check()
    except ConfigurationUnusable as e:
        return user, str(e)
    if not found.has_credentials:
        return user, f"{user.at}: must have credentials"
    return replace(found, impersonation=user.impersonation), ""


def _passed(moment: float | None) -> bool:
    return moment is not None and time.time() >= moment
